"""CPU time of one row of attention flow (one output position, all input tokens): numba against SciPy and NetworkX.

    python tests/bench/bench_flow.py [--sizes 16 64 128 256] [--rounds 5]

The graphs are those of a pretrained encoder, MiniLM (6 layers), on the text below. Each answer is checked before its
time is kept. The backends take turns in each round; the table shows medians of CPU time over the rounds, all threads
together. Ratios say how many times the time of numba. What took too long for a whole row is timed on some sinks,
extrapolated, and marked with `~`. The last line is the same as JSON, with machine and versions.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import networkx as nx
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from graph_makers import minilm_graph  # noqa: E402

from attnflow_hf.backends import flow_networkx, flow_numba  # noqa: E402
from attnflow_hf.errors import FloatArray, IntArray  # noqa: E402
from attnflow_hf.layer_graph import LayerGraph  # noqa: E402

TEXT = (
    "The harbor pilots of the old town had a rule that no stranger ever understood: whoever brought a ship in by "
    "night had to climb the tower the next morning and write down, in a single sentence, what the water had "
    "looked like. The book in which they wrote was kept behind glass, and the pages of the first hundred years "
    "had turned brown and brittle, so that only the archivist was allowed to turn them. She read them all in one "
    "winter. Most of the sentences were short and said that the sea was black, or grey, or that there had been "
    "rain; but some pilots, who must have been tired and alone, had written of lights that followed the boat, of "
    "a smell of oranges far from any coast, of the sound of bells where no church had stood since the flood. One "
    "of them, whose name had been scratched out, wrote every week for eleven years that the water was waiting. "
    "When the new bridge was built and the ships no longer needed anybody to guide them, the last pilot climbed "
    "the tower, opened the case without asking, and left the page empty. The council argued for months about what "
    "this meant, and whether a blank page could be a sentence. A teacher suggested that the children of the "
    "school should fill it, each with a word; a lawyer thought that the rule had ended with the ships; and the "
    "archivist, who had read everything, said nothing and locked the room."
)
NETWORKX_SINKS = {16: 16, 64: 3, 128: 1}
"""How many sinks are timed with NetworkX; at other sizes none."""

Result = TypeVar("Result")
Timed = tuple[FloatArray, float]
"""Flow values, and the CPU milliseconds of a row."""


def main() -> None:
    """Print the table and the JSON line."""
    arguments = parse_arguments()
    results = []
    print("CPU ms of a row       numba      scipy  + build   networkx   scipy/numba  networkx/numba")
    for n in arguments.sizes:
        graph = minilm_graph(n, TEXT)
        for name, position in (("[CLS]", 0), ("generic", n // 3)):
            result = measure(graph, position, arguments.rounds)
            results.append({"n_tokens": n, "n_layers": graph.n_layers, "position": name, **result})
            print(format_row(f"n={n} {name}", result))
    print(json.dumps({"bench": "flow", **describe_machine(), "rounds": arguments.rounds, "results": results}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def measure(graph: LayerGraph, position: int, rounds: int) -> dict[str, float | None]:
    """Return the medians for one output position of the last layer; `None` where nothing was timed."""
    sinks = sample(graph.n_tokens, NETWORKX_SINKS.get(graph.n_tokens, 0))
    times: dict[str, list[float]] = {"numba": [], "scipy": [], "scipy_build": [], "networkx": []}
    for turn in range(rounds):
        values, elapsed = run_numba(graph, position)
        times["numba"].append(elapsed)
        network, elapsed = build_scipy(graph)
        times["scipy_build"].append(elapsed)
        rounded, elapsed = run_scipy(network, graph, position)
        check(values, rounded, 1e-6)
        times["scipy"].append(elapsed)
        if turn == 0 and sinks.size:
            exact, elapsed = run_networkx(graph, position, sinks)
            check(values[sinks], exact, 1e-9)
            times["networkx"].append(elapsed)
    result: dict[str, float | None] = {
        name: statistics.median(measured) if measured else None for name, measured in times.items()
    }
    return result | {"networkx_sinks": sinks.size}


def run_numba(graph: LayerGraph, position: int) -> Timed:
    layers, positions = np.array([graph.n_layers - 1]), np.array([position])
    flow_numba.flow(graph, layers, positions)  # loads the compiled code, and the graph into the caches
    repeats = max(1, 4096 // graph.n_tokens**2)
    runs, elapsed = timed(lambda: [flow_numba.flow(graph, layers, positions) for _ in range(repeats)])
    return runs[0][0, 0], elapsed / repeats


def build_scipy(graph: LayerGraph) -> tuple[csr_array, float]:
    """Return the graph with int32 capacities, the only ones that SciPy takes: multiples of 2^-29."""
    n = graph.n_tokens
    n_nodes = (graph.n_layers + 1) * n

    def build() -> csr_array:
        capacities = np.rint(graph.weights * 2**29).astype(np.int32)
        layers, queries, keys = np.nonzero(capacities)
        edges = (layers + 1) * n + queries, layers * n + keys
        return csr_array((capacities[layers, queries, keys], edges), (n_nodes, n_nodes))

    return timed(build)


def run_scipy(network: csr_array, graph: LayerGraph, position: int) -> Timed:
    source = graph.n_layers * graph.n_tokens + position

    def solve() -> FloatArray:
        values = [maximum_flow(network, source, t, method="dinic").flow_value for t in range(graph.n_tokens)]
        return np.array(values) / 2**29

    return timed(solve)


def run_networkx(graph: LayerGraph, position: int, sinks: IntArray) -> Timed:
    """Return the values of some sinks, and the time of a row, in proportion to their number; building not counted."""
    network, source = flow_networkx._network(graph), (graph.n_layers, position)
    solver = nx.algorithms.flow.shortest_augmenting_path
    values, elapsed = timed(
        lambda: np.array([nx.maximum_flow_value(network, source, (0, int(t)), flow_func=solver) for t in sinks])
    )
    return values, elapsed * graph.n_tokens / sinks.size


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of `function` and the CPU milliseconds that it took."""
    start = time.process_time()
    result = function()
    return result, (time.process_time() - start) * 1e3


def check(values: FloatArray, expected: FloatArray, tolerance: float) -> None:
    if not np.allclose(values, expected, rtol=0, atol=tolerance):
        raise SystemExit(f"the answers differ by {np.abs(values - expected).max()}: no time is kept")


def sample(n: int, size: int) -> IntArray:
    return np.sort(np.random.default_rng(0).permutation(n)[:size])


def format_row(name: str, result: dict[str, float | None]) -> str:
    numba, scipy, build, networkx = (result[key] for key in ("numba", "scipy", "scipy_build", "networkx"))
    assert numba is not None
    assert scipy is not None
    row = f"{name:16} {numba:10.2f} {scipy:10.1f} {build:8.1f}"
    if networkx is None:
        return f"{row}          -   {scipy / numba:10.0f}x               -"
    mark = "~" if result["networkx_sinks"] != int(name.split()[0][2:]) else " "
    return f"{row} {mark}{networkx:9.0f}   {scipy / numba:10.0f}x  {mark}{networkx / numba:12.0f}x"


def describe_machine() -> dict[str, object]:
    names = ("numba", "numpy", "scipy", "networkx", "torch", "transformers")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {processor_name()}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()

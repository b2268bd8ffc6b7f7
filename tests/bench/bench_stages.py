"""CPU time of each stage from text to attribution on MiniLM: forward pass, layer graph, raw, rollout, flow.

    python tests/bench/bench_stages.py [--sizes 16 64 128 256] [--rounds 5]

One output position ([CLS]) and all input tokens, one text at a time. `sdpa` is the model's own forward pass as it is
loaded, `capture` the one that gives attentions. The stages take turns in each round; the table shows medians of CPU
time, all threads together. Flow stands beside SciPy and NetworkX on the same graphs; their answers are checked before a
time is kept, and what took too long for a whole row is timed on some sinks, extrapolated, and marked with `~`.
The last line is the same as JSON, with machine and versions.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import numpy as np
import torch
from bench_flow import check, describe_machine, run_ours, sample, timed
from bench_graphs import TEXT
from peers import NetworkX, Peer, SciPy
from tiny_models import minilm_folder
from transformers import AutoModel, AutoTokenizer

from attnflow_hf.backends import compute
from attnflow_hf.capture import capture
from attnflow_hf.captured_graph import captured_graph
from attnflow_hf.errors import FloatArray, IntArray

NETWORKX_SINKS = {16: 16, 64: 3, 128: 1}
"""How many sinks are timed with NetworkX; at other sizes none."""
STAGES = ("sdpa", "capture", "layer graph", "raw", "rollout", "flow", "scipy", "networkx")


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait would count as work
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    ids = AutoTokenizer.from_pretrained(minilm_folder())(TEXT, return_tensors="pt")["input_ids"]
    print("CPU ms        " + "".join(f"{stage:>12}" for stage in STAGES))
    results = []
    for n in arguments.sizes:
        medians = measure(model, torch.cat([ids[:, : n - 1], ids[:, -1:]], dim=1), arguments.rounds)
        results.append({"n_tokens": n, **medians})
        mark = "~" if NETWORKX_SINKS.get(n, 0) < n else ""
        cells = [f"{medians[stage]:.2f}" if stage in medians else "-" for stage in STAGES]
        cells[-1] = mark * (cells[-1] != "-") + cells[-1]
        print(f"n={n:<12}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    print(json.dumps({"bench": "stages", **describe_machine(), "rounds": arguments.rounds, "results": results}))


def measure(model: torch.nn.Module, ids: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each stage for one text."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for turn in range(rounds + 1):
        measured = measure_once(model, inputs, with_networkx=turn == 1)
        for stage, elapsed in measured.items():
            if turn > 0:  # the first turn warms up
                times[stage].append(elapsed)
    return {stage: statistics.median(values) for stage, values in times.items() if values}


def measure_once(model: torch.nn.Module, inputs: dict[str, torch.Tensor], *, with_networkx: bool) -> dict[str, float]:
    times = {}

    def run(stage: str, function: Callable[[], object]) -> object:
        result, times[stage] = timed(function)
        return result

    with torch.no_grad():
        run("sdpa", lambda: model(**inputs))
    captured = run("capture", lambda: capture(model, inputs))
    matrices = [matrix[0].numpy() for matrix in captured.matrices]
    graph = run("layer graph", lambda: captured_graph(matrices, captured.report))
    last = [graph.n_layers - 1]
    for method in ("raw", "rollout"):
        run(method, lambda method=method: compute(method, "numpy", graph, last, [0]))
    run_ours(graph, [0])  # loads the compiled code, and the graph into the caches
    values = run("flow", lambda: run_ours(graph, [0]))[0]
    order = sample(graph.n_tokens)
    times["scipy"] = time_peer(SciPy(graph), values, order)
    sinks = order[: NETWORKX_SINKS.get(graph.n_tokens, 0)]
    if with_networkx and sinks.size:
        times["networkx"] = time_peer(NetworkX(graph), values, sinks)
    return times


def time_peer(peer: Peer, values: FloatArray, sinks: IntArray) -> float:
    """Return the milliseconds of a row of [CLS], in proportion to the number of sinks; building not counted."""
    answers, elapsed = timed(lambda: np.array([peer.solve(0, int(sink)) for sink in sinks]))
    check(answers, values[sinks], peer.tolerance, peer.name)
    return elapsed * len(values) / len(sinks)


if __name__ == "__main__":
    main()

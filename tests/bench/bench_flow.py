"""CPU time of attention flow, one output position and all input tokens, against other solvers of maximum flow.

    python tests/bench/bench_flow.py [--sizes 32 64 128 256 512] [--rounds 5] [--budget 2] [--only minilm causal]

One process, one thread, CPU time (the lines on threads excepted). Each answer is checked before its time is kept. Ours
and its peers take turns in each round; times are medians over the rounds and, on MiniLM, over four texts, as is the
ratio. A peer that does not get through a row in its budget (CPU seconds for each row) is timed on a random subset of
the sinks: their mean times `n`, marked with `~`. One that would need more than that for a single sink, by its time at
the size before, is left out. What a peer needs to build its graph has a line of its own and is in no ratio. The last
line is the same as JSON, with machine and versions.
"""

import argparse
import ctypes
import gc
import inspect
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import bench_graphs as graphs
import numba
import numpy as np
import torch
from bench_graphs import SHARPNESS
from peers import PEERS, Igraph, Peer, installed_peers

from attnflow_hf import flow
from attnflow_hf.errors import FloatArray, IntArray
from attnflow_hf.layer_graph import LayerGraph

LABEL = 34
"""Width of the first column of a table with three peers; it shrinks with more."""
LONG_ENOUGH = 10.0
"""A turn of ours is repeated until it takes so many CPU milliseconds."""

TAKES_THREADS = "n_threads" in inspect.signature(flow).parameters

Result = TypeVar("Result")
Record = dict[str, Any]
Case = tuple[LayerGraph, int]
"""A graph and an output position of its last layer."""


def main() -> None:
    """Print the tables and the JSON line."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # threads that wait would count as work
    gc.disable()  # or it would fall into anybody's time
    arguments.peers = installed_peers(arguments.peers)
    results = {name: GROUPS[name](arguments) for name in arguments.only}
    options = {name: getattr(arguments, name) for name in ("sizes", "rounds", "budget")}
    texts = {"texts": list(graphs.texts())}
    line = json.dumps({"bench": "flow", **describe_machine(), **texts, **options, "results": results})
    print("\n" + json.dumps(json.loads(line, parse_float=lambda number: float(f"{float(number):.4g}"))))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512], help="of MiniLM; 512 at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=2.0, help="CPU seconds of each peer for each row")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="groups of rows")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    return parser.parse_args()


# Groups of rows


def bench_minilm(arguments: argparse.Namespace) -> list[Record]:
    table = Table("MiniLM, 6 layers, medians of 4 texts", arguments, min(arguments.sizes))
    for n in arguments.sizes:
        of_texts = graphs.minilm_graphs(n)
        cases = {"generic": [(graph, n // 3) for graph in of_texts], "[CLS]": [(graph, 0) for graph in of_texts]}
        table.measure({f"n={n} {name}": case for name, case in cases.items()}, f"n={n}")
    return table.records


def bench_causal(arguments: argparse.Namespace) -> list[Record]:
    sizes = up_to(arguments, 128, 512)
    table = Table(f"Random GPT-2, 12 layers, sharp (c_attn x {SHARPNESS:g})", arguments, sizes[0])
    for n in sizes:
        table.measure({f"n={n} last": [(graphs.gpt2_graph(n), n - 1)]}, f"n={n}")
    return table.records


def bench_synthetic(arguments: argparse.Namespace) -> list[Record]:
    (n,) = up_to(arguments, 128)
    table = Table(f"Synthetic, 8 layers, n={n}", arguments, n)
    table.measure({name: [(graph, n // 3)] for name, graph in graphs.synthetic_graphs(n).items()}, "all")
    return table.records


def bench_pairs(arguments: argparse.Namespace) -> Record:
    (n,) = up_to(arguments, 128)
    graph = graphs.minilm_graphs(n)[0]
    values, elapsed = take_turns([lambda: run_ours(graph, range(n))], min(3, arguments.rounds))
    error = compare(graph, range(n), values[0], 200, arguments)
    checked = "not checked" if error is None else f"200 pairs differ from igraph by at most {error:.0e}"
    print(f"\nAll pairs, MiniLM, n={n}: {elapsed[0] / 1e3:.2f} CPU s ({checked})", flush=True)
    return {"n_tokens": n, "ms": elapsed[0], "error": error}


def bench_layers(arguments: argparse.Namespace) -> Record:
    (n,) = up_to(arguments, 128)
    graph = graphs.minilm_graphs(n)[0]
    layers = ["all", *range(graph.n_layers)]
    functions = [lambda layer=layer: run_ours(graph, [n // 3], layer=layer) for layer in layers]
    values, elapsed = take_turns(functions, arguments.rounds)
    check(values[0], np.stack(values[1:]), 1e-9)
    compare(graph, [n // 3], values[-1], 5, arguments)
    at_once, single = elapsed[0], sum(elapsed[1:])
    told = f"{at_once:.2f} ms in one call, {single:.2f} ms in {graph.n_layers} calls"
    print(f"\nEvery layer, MiniLM, n={n}, generic: {told}", flush=True)
    return {"n_tokens": n, "all_ms": at_once, "single_ms": single}


def bench_forward(arguments: argparse.Namespace) -> list[Record]:
    records, model = [], graphs.bert_base()
    print("\nFlow of a generic position against the model's own forward pass (sdpa, batch of 1)")
    for n in up_to(arguments, 128, 512):
        inputs = graphs.random_inputs(model, n)
        graph = graphs.graph_of(model, inputs)
        functions = [lambda g=graph, n=n: run_ours(g, [n // 3]), lambda inputs=inputs: model(**inputs)]
        with torch.no_grad():
            (values, _), (ours, forward) = take_turns(functions, arguments.rounds)
        compare(graph, [n // 3], values, 5, arguments)
        name = f"random BERT-base, sharp (queries and keys x {SHARPNESS:g}), n={n}"
        print(f"  {name}: {ours:.1f} / {forward:.0f} ms = {ours / forward:.3f}", flush=True)
        records.append({"n_tokens": n, "flow_ms": ours, "forward_ms": forward})
    return records


def bench_growth(arguments: argparse.Namespace) -> list[Record]:
    (n,) = up_to(arguments, 128)
    print("\nGrowth of the time of a row, generic position")
    tokens = {size: graphs.minilm_graphs(size) for size in arguments.sizes if size >= 64}
    layers = {n_layers: [graphs.layer_stack(n_layers, n)] for n_layers in (3, 6, 12, 24)}
    cases = {"MiniLM, tokens": tokens, f"synthetic softmax stack, n={n}, layers": layers}
    return [fit_growth(name, by_size, arguments) for name, by_size in cases.items() if len(by_size) > 1]


def fit_growth(name: str, by_size: dict[int, list[LayerGraph]], arguments: argparse.Namespace) -> Record:
    """Print times (medians over graphs) and the exponent of their growth, by least squares of the logarithms."""
    elapsed = {}
    for size, of_size in by_size.items():
        position = of_size[0].n_tokens // 3
        for graph in of_size:
            compare(graph, [position], run_ours(graph, [position]), 3, arguments)
        elapsed[size] = statistics.median(measure_row((graph, position), [], arguments)["ours"] for graph in of_size)
    exponent = float(np.polyfit(*np.log(list(elapsed.items())).T, 1)[0])
    told = ", ".join(f"{size}: {brief(ms)}" for size, ms in elapsed.items())
    print(f"  {name} {told} ms; exponent {exponent:.2f}", flush=True)
    return {"row": name, "ms": elapsed, "exponent": exponent}


def bench_threads(arguments: argparse.Namespace) -> Record:
    (n,) = up_to(arguments, 128)
    graph = graphs.minilm_graphs(n)[0]
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    functions = [lambda n_threads=n_threads: run_ours(graph, range(n), n_threads=n_threads) for n_threads in (1, 2)]
    values, (one, two) = take_turns(functions, min(3, arguments.rounds), time.perf_counter)
    check(values[1], values[0], 1e-9)
    told = f"wall-clock {one:.0f} ms by one, {two:.0f} ms by two: {one / two:.2f}x"
    print(f"\nThreads, all pairs, MiniLM, n={n}, CPUs at hand {n_cpus}: {told}", flush=True)
    return {"n_tokens": n, "n_cpus": n_cpus, "wall_ms": [one, two]}


def bench_memory(arguments: argparse.Namespace) -> list[Record]:
    records = []
    for n in up_to(arguments, 128, 512):
        graph = graphs.minilm_graphs(n)[0]
        capacities, touched = graph.weights.nbytes, memory_of(lambda graph=graph, n=n: run_ours(graph, [n // 3]))
        told = brief(touched and touched / 1e6)
        print(f"\nMemory, MiniLM, n={n}: capacities {capacities / 1e6:.1f} MB; one thread needs {told} MB more")
        records.append({"n_tokens": n, "capacities": capacities, "touched": touched})
    return records


NAMES = "minilm causal synthetic pairs layers forward growth threads memory".split()
GROUPS: dict[str, Callable[[argparse.Namespace], Any]] = {name: globals()[f"bench_{name}"] for name in NAMES}


def up_to(arguments: argparse.Namespace, *wanted: int) -> list[int]:
    """Return the wanted sizes, none above the largest of `--sizes`."""
    return sorted({min(n, max(arguments.sizes)) for n in wanted})


# Rows against the peers


class Table:
    """A group of rows against the peers; each is printed as soon as it is measured."""

    def __init__(self, title: str, arguments: argparse.Namespace, smallest: int) -> None:
        self.arguments, self.records = arguments, []
        self.kinds = [kind for kind in arguments.peers if kind.max_tokens >= smallest]
        self.latest: dict[str, tuple[int, float]] = {}
        print(f"\n{title}: CPU ms of all n sinks (~ from some of them)")
        names = [kind.name for kind in self.kinds]
        print(self.line("", ["ours", *names, "best peer", "best/ours", "min .. max"]), flush=True)

    def line(self, label: str, cells: Sequence[str]) -> str:
        widths = [9] * (len(self.kinds) + 1) + [11, 10, 16]
        first = LABEL - 9 * max(0, len(self.kinds) - 3)
        return f"{label:{first}}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=False)).rstrip()

    def measure(self, cases: dict[str, list[Case]], name: str) -> None:
        """Measure and print a row for each list of cases of one size, and what the peers need to build the graphs."""
        builds: dict[str, list[float]] = {}
        for label, of_row in cases.items():
            n = of_row[0][0].n_tokens
            kinds = [kind for kind in self.kinds if self.is_worth(kind, n)]
            rows = [measure_row(case, kinds, self.arguments) for case in of_row]
            self.records.append({"row": label, "n_tokens": n, **summarize(rows, n), "cases": rows})
            self.print_row(self.records[-1])
            for peer in kinds:
                builds.setdefault(peer.name, []).extend(row["peers"][peer.name]["build"] for row in rows)
        self.latest |= {peer: (n, ms / n) for peer, ms in self.records[-1]["peers"].items()}
        self.print_builds(f"{name} (building)", builds)

    def is_worth(self, kind: type[Peer], n: int) -> bool:
        """Tell whether a sink will take less than the budget, if time grows with the cube of the size."""
        last_n, ms = self.latest.get(kind.name, (n, 0.0))
        return n <= kind.max_tokens and ms * (n / last_n) ** 3 < self.arguments.budget * 1e3

    def print_row(self, record: Record) -> None:
        cells = [brief(record["ours"])]
        for kind in self.kinds:
            mark = "~" if kind.name in record["extrapolated"] else ""
            cells.append(mark + brief(record["peers"].get(kind.name)))
        if record["best"]:
            low, high = brief(record["ratio_min"]), brief(record["ratio_max"])
            cells += [record["best"], brief(record["ratio"]) + "x", f"{low} .. {high}" if low != high else ""]
        print(self.line(record["row"], cells), flush=True)
        for name, share in record["rounded"].items():
            print(f"  {name} is helped by its whole capacities: {share:.0%} of the edges are rounded to zero")

    def print_builds(self, label: str, builds: dict[str, list[float]]) -> None:
        times = [statistics.median(builds[kind.name]) if kind.name in builds else None for kind in self.kinds]
        if builds:
            print(self.line(label, ["", *map(brief, times)]), flush=True)


def measure_row(case: Case, kinds: list[type[Peer]], arguments: argparse.Namespace) -> Record:
    """Return the milliseconds of ours, and those of each peer with the number of sinks that it was timed on."""
    graph, position = case
    n, values = graph.n_tokens, run_ours(graph, [position])
    n_repeats = max(1, round(LONG_ENOUGH / max(timed(lambda: run_ours(graph, [position]))[1], 1e-3)))
    built = {kind.name: timed(lambda kind=kind: kind(graph)) for kind in kinds}
    ours, times = [], {name: [] for name in built}
    for _ in range(arguments.rounds):
        again, elapsed = timed(lambda: [run_ours(graph, [position]) for _ in range(n_repeats)])
        check(np.stack(again), values, 1e-9)
        ours.append(elapsed / n_repeats)
        for name, (peer, _) in built.items():
            times[name] += visit(peer, position, values[0], times[name], arguments)
    gc.collect()
    peers = {
        name: {
            "row": time_of_row(times[name], n),
            "n_sinks": min(len(times[name]), n),
            "build": elapsed,
            "rounded": peer.rounded,
        }
        for name, (peer, elapsed) in built.items()
    }
    return {"ours": statistics.median(ours), "peers": peers}


def visit(
    peer: Peer, position: int, values: FloatArray, earlier: list[float], arguments: argparse.Namespace
) -> list[float]:
    """Return the milliseconds of the sinks that are next in turn: at most all, and as many as the budget allows."""
    n, new, order = len(values), [], sample(len(values))
    share = arguments.budget * 1e3 / arguments.rounds
    left = min(share, share * arguments.rounds - sum(earlier))
    while len(new) < min(n, peer.max_sinks - len(earlier)) and sum(new) < left:
        token = int(order[(len(earlier) + len(new)) % n])
        value, elapsed = timed(lambda token=token: peer.solve(position, token))
        check(np.array([value]), values[[token]], peer.tolerance, peer.name)
        new.append(elapsed)
    return new


def time_of_row(times: list[float], n: int) -> float:
    """Return the median over whole rows; if there is none, the mean over the sinks times `n`."""
    rows = [sum(times[start : start + n]) for start in range(0, len(times) - n + 1, n)]
    return statistics.median(rows) if rows else statistics.mean(times) * n


def summarize(rows: list[Record], n: int) -> Record:
    """Return the medians over the cases of a row, and of the ratio of each case's best peer to ours."""
    times = {name: [row["peers"][name]["row"] for row in rows] for name in rows[0]["peers"]}
    n_sinks = {name: min(row["peers"][name]["n_sinks"] for row in rows) for name in times}
    rounded = {name: statistics.median(row["peers"][name]["rounded"] for row in rows) for name in times}
    summary = {
        "ours": statistics.median(row["ours"] for row in rows),
        "peers": {name: statistics.median(of_peer) for name, of_peer in times.items()},
        "extrapolated": {name: count for name, count in n_sinks.items() if count < n},
        "rounded": {name: share for name, share in rounded.items() if share > 0.05},
        "best": None,
    }
    if not times:
        return summary
    best = [min((of_peer[case], name) for name, of_peer in times.items()) for case in range(len(rows))]
    ratios = [ms / row["ours"] for (ms, _), row in zip(best, rows, strict=True)]
    spread = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return summary | {"best": statistics.mode(name for _, name in best), **spread}


# One run, its time, and whether it is right


def run_ours(graph: LayerGraph, positions: Sequence[int], *, layer: int | str = -1, n_threads: int = 1) -> FloatArray:
    """Return our flow; the one place that knows how to ask for a number of threads."""
    options: dict[str, Any] = {"output_positions": list(positions), "layer": layer, "backend": "numba"}
    if TAKES_THREADS:
        return flow(graph, n_threads=n_threads, **options)
    numba.config.NUMBA_NUM_THREADS = n_threads
    return flow(graph, **options)


def timed(function: Callable[[], Result], clock: Callable[[], float] = time.process_time) -> tuple[Result, float]:
    """Return the result of `function` and the milliseconds that it took."""
    start = clock()
    result = function()
    return result, (clock() - start) * 1e3


def take_turns(
    functions: Sequence[Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> tuple[list[Any], list[float]]:
    """Return each function's result and median milliseconds; a first round warms up."""
    turns = [[timed(function, clock) for function in functions] for _ in range(rounds + 1)]
    elapsed = [statistics.median(turn[at][1] for turn in turns[1:]) for at in range(len(functions))]
    return [result for result, _ in turns[-1]], elapsed


def check(values: FloatArray, expected: FloatArray, tolerance: float, name: str = "ours") -> None:
    if not np.allclose(values, expected, rtol=0, atol=tolerance):
        raise SystemExit(f"{name}: the answers differ by {np.abs(values - expected).max()}: no time is kept")


def compare(
    graph: LayerGraph, positions: Sequence[int], values: FloatArray, n_pairs: int, arguments: argparse.Namespace
) -> float | None:
    """Compare random pairs with igraph; return the largest difference, or `None` without igraph."""
    if Igraph not in arguments.peers:
        return None
    peer = Igraph(graph)
    rows, tokens = np.divmod(sample(values.size)[:n_pairs], graph.n_tokens)
    expected = np.array([peer.solve(positions[row], int(token)) for row, token in zip(rows, tokens, strict=True)])
    check(values[rows, tokens], expected, peer.tolerance, peer.name)
    return float(np.abs(values[rows, tokens] - expected).max())


def sample(n: int) -> IntArray:
    """Return the indices below `n` in an order that is random, but always the same."""
    return np.random.default_rng(0).permutation(n)


def memory_of(function: Callable[[], object]) -> int | None:
    """Return by how many bytes a call makes the process grow at its peak, or `None` where it cannot be told."""
    try:
        function()
        ctypes.CDLL(None).malloc_trim(0)  # memory kept from the first call would hide what the second one needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        function()
        return resident("VmHWM") - before
    except (AttributeError, OSError, TypeError):
        return None


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# What is printed


def brief(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def describe_machine() -> Record:
    packages = ("numba", "numpy", "igraph", "ortools", "scipy", "networkx", "torch", "transformers")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {processor_name()}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages if find_spec(name)},
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()

"""What the compiled backend has beside its numbers: batches, threads, bounds, processes; and the worst for its code."""

import inspect
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from graph_makers import MAKERS, make_graph, mix, softmax
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf import LayerGraph, flow
from attnflow_hf.backends import flow_dinic, flow_numba, flow_task, flow_workspace
from attnflow_hf.errors import FlowError, OptionError, TooLargeError
from attnflow_hf.flow_result import FlowResult

BATCH = [
    make_graph(kind, n_layers, n)
    for kind, n_layers, n in [
        ("sharp", 4, 9),
        ("causal", 5, 3),
        ("diffuse", 1, 12),
        ("unlimited residual", 2, 5),
        ("sharp", 3, 70),
        ("wide range", 6, 1),
    ]
]


def test_a_list_of_graphs_gives_a_list_of_the_same_values():
    together = flow(BATCH, backend="numba")
    assert isinstance(together, list)
    for graph, values in zip(BATCH, together, strict=True):
        assert_array_equal(values, flow(graph, backend="numba"))


@pytest.mark.parametrize("layer", [0, "all"])
def test_a_list_of_graphs_with_certificates_and_paths(layer):
    results = flow(BATCH, layer=layer, output_positions=[0, -1], certificate=True, paths=True)
    for graph, result in zip(BATCH, results, strict=True):
        alone = flow(graph, layer=layer, output_positions=[0, -1], certificate=True, paths=True)
        assert result.graph is graph
        for name in ("values", "lower", "upper", "n_pushes", "cuts", "gaps", "layers", "output_positions"):
            assert_array_equal(getattr(result, name), getattr(alone, name))
        for token in (0, graph.n_tokens - 1):
            assert_array_equal(result.arc_flows(0, token, layer=0), alone.arc_flows(0, token, layer=0))


def test_what_a_thread_keeps_from_one_graph_to_the_next_changes_no_bit(monkeypatch):
    graphs = [make_graph(kind, 5, n, seed) for seed in range(3) for kind in MAKERS for n in (12, 13)]

    def ask(graph):
        exact = flow(graph, output_positions=[0, -1], certificate=True, paths=True)
        given_up = flow(graph, max_work=9)
        return exact.values, exact.cuts, exact.n_pushes, exact.arc_flows(0, 1), given_up.lower, given_up.upper

    monkeypatch.setattr(flow_numba, "MAX_EDGES_KEPT", -1)
    anew = [ask(graph) for graph in graphs]
    monkeypatch.undo()
    made = []
    new = flow_numba.new_workspace
    monkeypatch.setattr(flow_numba, "_kept", flow_numba._Kept())
    monkeypatch.setattr(flow_numba, "new_workspace", lambda *size: made.append(size) or new(*size))
    in_turn = [ask(graph) for n in (12, 13) for graph in graphs if graph.n_tokens == n]
    assert made == [(5, 12), (5, 13)]
    expected = [each for n in (12, 13) for each, graph in zip(anew, graphs, strict=True) if graph.n_tokens == n]
    for found, values in zip(in_turn, expected, strict=True):
        for one, other in zip(found, values, strict=True):
            assert_array_equal(one, other)


def test_a_list_of_one_or_no_graph():
    assert flow([]) == []
    assert flow([], certificate=True, n_threads=3) == []
    (values,) = flow((BATCH[0],), output_positions=2)
    assert_array_equal(values, flow(BATCH[0], output_positions=2))


def test_a_list_goes_to_one_backend_by_all_its_work():
    small = make_graph("sharp", 3, 4)
    values = flow([small] * 3, backend="networkx", layer="all")
    assert len(values) == 3
    assert_allclose(values[1], flow(small, backend="numba", layer="all"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("graph", [BATCH[0].weights, [BATCH[0], BATCH[1].weights]], ids=["array", "list"])
def test_what_is_no_graph(graph):
    with pytest.raises(OptionError, match="graph must be a LayerGraph, got ndarray; make one with LayerGraph"):
        flow(graph)


@pytest.mark.parametrize("kind", MAKERS)
def test_all_layers_are_the_single_ones(kind):
    graph = make_graph(kind, 5, 8)
    values = flow(graph, layer="all", backend="numba")
    assert values.shape == (5, 8, 8)
    for layer in range(5):
        assert_array_equal(values[layer], flow(graph, layer=layer, backend="numba"))
        assert_array_equal(values[layer], flow(graph, layer=layer - 5, backend="numba"))


@pytest.mark.parametrize(
    "positions", [[3], [-1, 0, -1], (2, 2), np.array([5, -6]), 4, -2, np.int64(1), range(2, 4), []]
)
def test_positions_however_they_are_given(positions):
    graph = make_graph("sharp", 4, 6)
    values = flow(graph, output_positions=positions, backend="numba")
    assert_array_equal(values, flow(graph, backend="numba")[np.atleast_1d(np.asarray(positions, dtype=int))])
    result = flow(graph, output_positions=positions, certificate=True, paths=True)
    assert_array_equal(result.output_positions, np.atleast_1d(np.asarray(positions, dtype=int)) % 6)
    assert_allclose(result.gaps, np.zeros(values.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_the_number_of_threads_changes_no_bit(monkeypatch, n_threads):
    monkeypatch.setattr(flow_numba, "MIN_WORK_OF_A_THREAD", 1)
    question = {"output_positions": [0, -1], "layer": "all", "certificate": True, "paths": True}
    alone = flow(BATCH, **question, n_threads=1)
    for one, several in zip(alone, flow(BATCH, **question, n_threads=n_threads), strict=True):
        for name in ("values", "lower", "upper", "n_pushes", "cuts"):
            assert_array_equal(getattr(one, name), getattr(several, name))
        assert_array_equal(one.arc_flows(0, 0), several.arc_flows(0, 0))


def test_so_many_threads_run_as_were_asked_for(monkeypatch):
    pools = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, n: int) -> None:
            pools.append(n)
            super().__init__(n)

    monkeypatch.setattr(flow_numba, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(flow_numba, "MIN_WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(flow_numba.numba.config, "NUMBA_NUM_THREADS", 2)
    for n_threads in (1, None, 3):
        flow(BATCH[0], backend="numba", n_threads=n_threads)
    flow(BATCH[0], backend="numba", output_positions=0, n_threads=3)  # one task, which cannot be shared
    assert pools == [2, 3]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("max_work", [1, 5, 50, 1000])
def test_bounds_hold_the_exact_value(kind, max_work):
    graph = make_graph(kind, 6, 16)
    exact = flow(graph, output_positions=[0, 7], backend="numba")
    result = flow(graph, output_positions=[0, 7], max_work=max_work, certificate=True)
    assert (result.lower <= exact * (1 + 1e-12)).all()
    assert (exact <= result.upper * (1 + 1e-12)).all()
    into, out_of = graph.weights[0].sum(axis=0), graph.weights[-1].sum(axis=1)[[0, 7], None]
    assert (result.upper <= np.minimum(into, out_of) * (1 + 1e-12)).all()
    assert_array_equal(np.isnan(result.values), ~result.is_exact)
    assert_allclose(result.values[result.is_exact], exact[result.is_exact], rtol=1e-12, atol=0)
    assert_array_equal(result.cuts[~result.is_exact], False)
    if kind == "without residual" and max_work < 50:
        assert not result.is_exact.all()


def test_more_work_finishes_more():
    graph = make_graph("without residual", 6, 16)
    finished = [flow(graph, max_work=max_work).is_exact.sum() for max_work in (1, 50, 200, 100_000, 2**70)]
    assert finished == sorted(finished)
    assert finished[0] < finished[2]
    assert finished[-2:] == [256, 256]


@pytest.mark.parametrize("max_work", [1, 3, 10])
def test_bounds_of_an_unlimited_value(max_work):
    weights = np.zeros((3, 2, 2))
    weights[:, [0, 1], [0, 1]] = np.inf
    weights[:, 0, 1] = 2
    result = flow(LayerGraph(weights), output_positions=0, certificate=True, max_work=max_work)
    assert_array_equal(result.values[0, 0], np.inf)
    assert_array_equal(result.gaps[0, 0], 0)
    assert result.lower[0, 1] <= 6 <= result.upper[0, 1]


@pytest.mark.parametrize("max_work", [1, 2, 3, 100])
def test_a_search_given_up_with_less_than_the_last_digit_to_go_has_a_cut(max_work):
    # Beside 1 straight down there are two paths of 1e-17, which 1 + 1e-17 cannot show.
    weights = np.zeros((3, 2, 2))
    weights[:, [0, 1], [0, 1]] = 1
    weights[:, 0, 1] = weights[:, 1, 0] = 1e-17
    result = flow(LayerGraph(weights), certificate=True, max_work=max_work)
    assert (result.lower <= [[1, 3e-17], [3e-17, 1]]).all()
    assert (result.upper >= [[1, 3e-17 * (1 - 1e-12)], [3e-17 * (1 - 1e-12), 1]]).all()
    assert_array_equal(result.gaps[result.is_exact], 0)


def test_a_search_given_up_at_a_sink_that_is_all_but_full_has_a_cut():
    # Straight down go 1, and 1e-17 that is left to the search; the source could give .5 more. An unlimited edge that is
    # on no path keeps the solver from starting with all columns at once.
    weights = [[[1, 0], [1e-17, 0]], [[1, 0], [0, 1]], [[1, 0.5], [0, np.inf]]]
    result = flow(LayerGraph(weights), output_positions=0, certificate=True, max_work=1)
    assert_array_equal(result.values, [[1, 0]])
    assert_array_equal(result.gaps, [[0, 0]])


FLOW_FROM_ELSEWHERE = {
    # Edges as (level, from, to, capacity), from position 0 to token 2 of three.
    "into level 1 of the own column": [
        *[(3, 0, 0, 1), (3, 0, 1, 0.25), (2, 0, 0, 0.25), (2, 1, 0, 0.25)],
        *[(1, 0, 2, 0.5), (1, 1, 2, 1)],
    ],
    "into level 2 of the own column": [
        *[(4, 0, 0, 1), (4, 0, 1, 0.25), (3, 0, 0, 0.25), (3, 1, 0, 0.25)],
        *[(2, 0, 1, 0.5), (1, 1, 2, 1)],
    ],
    "straight into a node that the own column reaches": [
        *[(4, 0, 0, 1), (4, 0, 1, 0.25), (3, 0, 0, 0.25), (3, 1, 1, 0.5)],
        *[(2, 0, 1, 0.5), (2, 1, 1, 0.5), (1, 1, 2, 0.5), (1, 2, 2, 1)],
    ],
    "into the sink's node that the own column reaches": [
        *[(4, 0, 0, 1), (4, 0, 1, 0.25), (3, 0, 0, 0.25), (3, 1, 1, 0.25)],
        *[(2, 0, 2, 0.5), (2, 1, 2, 0.25), (1, 2, 2, 0.5), (1, 1, 2, 1)],
    ],
}


@pytest.mark.parametrize("top_unlimited", [0, np.inf])
@pytest.mark.parametrize("name", FLOW_FROM_ELSEWHERE)
def test_the_own_column_is_no_cut_where_flow_comes_into_it(name, top_unlimited):
    # .25 goes down the column of position 0, whose straight edge is full, and .25 comes from position 1 beside it. All
    # edges out of the column are full, or lead to full nodes; but .25 of what they carry has come from elsewhere, so
    # they let through .75 in all. The cut is narrower: the straight edge and the one to position 1, .25 + .25.
    edges = FLOW_FROM_ELSEWHERE[name]
    weights = np.zeros((max(level for level, *_ in edges), 3, 3))
    for level, upper, lower, capacity in edges:
        weights[level - 1, upper, lower] = capacity
    weights[-1, 2, 2] = top_unlimited  # on no path, but it keeps the solver from starting with all columns at once
    result = flow(LayerGraph(weights), output_positions=0, certificate=True)
    assert_array_equal(result.values[0, 2], 0.5)
    assert_array_equal(result.gaps, np.zeros((1, 3)))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_sums_beyond_float64_are_infinite(layer):
    # 1.7e308 + 1.7e308 is more than the largest float64; one edge alone is less.
    graph = LayerGraph(np.full((3, 2, 2), 1.7e308))
    expected = np.full((2, 2), np.inf if layer else 1.7e308)
    assert_array_equal(flow(graph, layer=layer, backend="numba"), expected)
    result = flow(graph, layer=layer, certificate=True)
    assert_array_equal(result.values, expected)
    assert_array_equal(result.gaps, np.zeros((2, 2)))


@pytest.mark.parametrize(("n_layers", "n", "decay"), [(12, 60, 3.0), (6, 100, 1.0), (30, 24, 4.0)])
def test_strongly_local_graphs_of_long_range(n_layers, n, decay):
    """Each layer leads a few positions on, so that flow to the far end takes all of them, and many ways there."""
    rng = np.random.default_rng(0)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    graph = LayerGraph(mix(softmax(rng.normal(size=(n_layers, n, n)) - decay * distance), 0.5))
    result = flow(graph, output_positions=[0, n // 2], certificate=True)
    assert_allclose(result.cut_capacities, result.values, rtol=1e-12, atol=0)
    reverse = LayerGraph(graph.weights[::-1].transpose(0, 2, 1))
    columns = np.array([flow(reverse, output_positions=token)[0, [0, n // 2]] for token in (0, n // 3, n - 1)])
    assert_allclose(columns.T, result.values[:, [0, n // 3, n - 1]], rtol=1e-12, atol=0)


def test_by_default_large_graphs_are_given_up(monkeypatch):
    graph = make_graph("without residual", 5, 12)
    monkeypatch.setattr(flow_task, "UNBOUNDED_UP_TO", 11)
    monkeypatch.setattr(flow_task, "DEFAULT_MAX_WORK", 20)
    bounded = flow(graph, max_work=20)
    n_unfinished = int((~bounded.is_exact).sum())
    assert n_unfinished > 1
    message = rf"^{n_unfinished} of 144 flows were not finished within {bounded.n_pushes.max()} pushes; .*max_work="
    with pytest.raises(FlowError, match=message):
        flow(graph, backend="numba")
    with pytest.raises(FlowError, match=rf"^{n_unfinished} of 144 flows"):
        flow([BATCH[1], graph], backend="numba")
    assert flow(graph, max_work=1_000_000).is_exact.all()
    assert not flow(graph, certificate=True).is_exact.all()
    monkeypatch.setattr(flow_task, "UNBOUNDED_UP_TO", 12)
    assert np.isfinite(flow(graph, backend="numba")).all()


@pytest.mark.parametrize(
    "options", [{"certificate": True}, {"paths": True}, {"max_work": 5}, {"n_threads": 2}], ids=str
)
def test_options_that_other_backends_do_not_have(options):
    with pytest.raises(OptionError, match="certificate, paths, max_work and n_threads are options of backend 'numba'"):
        flow(BATCH[0], backend="networkx", **options)


@pytest.mark.parametrize("name", ["max_work", "n_threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "3"])
def test_counts_that_are_none(name, value):
    with pytest.raises(OptionError, match=rf"^{name} must be a positive integer or None, got {value!r}$"):
        flow(BATCH[0], backend="numba", **{name: value})


def test_auto_takes_numba_for_what_only_numba_has(caplog):
    tiny = LayerGraph([[[1.0, 0.0], [0.5, 0.5]]])
    assert isinstance(flow(tiny, certificate=True), FlowResult)
    assert isinstance(flow(tiny, paths=True), FlowResult)
    assert isinstance(flow(tiny, max_work=np.int64(9)), FlowResult)
    with caplog.at_level(logging.DEBUG, logger="attnflow_hf"):
        flow(tiny)
        flow(BATCH[0])
    choices = [record.getMessage() for record in caplog.records if "pairs x edges" in record.getMessage()]
    assert choices == [
        "flow of 16 pairs x edges: backend networkx",
        f"flow of {81 * 4 * 81:,} pairs x edges: backend numba",
    ]


def test_auto_takes_numba_where_threads_are_asked_for():
    tiny = LayerGraph([[[1.0, 0.0], [0.5, 0.5]]])
    assert_array_equal(flow(tiny, n_threads=2), tiny.weights[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_full_log_ends_a_phase_and_no_more(monkeypatch, kind):
    """The log has room for each edge and one push more: a phase ends after a few pushes, and another one follows."""
    graph = make_graph(kind, 6, 12)
    question = {"output_positions": [0, 5], "certificate": True, "paths": True}
    expected = flow(graph, **question)
    new_workspace = flow_numba.new_workspace

    def short(top: int, n: int) -> flow_workspace.Workspace:
        workspace = new_workspace(top, n)
        least = (top - 2) * n * n + 4 * top * n + 2 * n + 2
        assert least < len(workspace.log)
        return workspace._replace(log=workspace.log[:least])

    monkeypatch.setattr(flow_numba, "new_workspace", short)
    result = flow(graph, **question)
    assert_allclose(result.values, expected.values, rtol=1e-12, atol=0)
    assert_allclose(result.cut_capacities, result.values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "unlimited residual"])
@pytest.mark.parametrize(("n_layers", "n"), [(3, 6), (5, 9), (4, 40)])
def test_both_starts_give_the_same(monkeypatch, kind, n_layers, n):
    graph = make_graph(kind, n_layers, n)
    mixed = flow(graph, output_positions=[0, n - 1], max_work=10**9)
    starred = flow(graph, output_positions=[0, n - 1], paths=True)  # each sink is a source's first, which has the star
    index = list(inspect.signature(flow_dinic.solve.py_func).parameters).index("largest")

    def solve_without_star(*args: object) -> None:
        flow_dinic.solve(*args[:index], np.inf, *args[index + 1 :])

    monkeypatch.setattr(flow_numba, "solve", solve_without_star)
    plain = flow(graph, output_positions=[0, n - 1], max_work=10**9)
    assert_allclose(mixed.values, plain.values, rtol=1e-12, atol=0)
    assert_allclose(starred.values, plain.values, rtol=1e-12, atol=0)
    if kind in ("sharp", "diffuse", "local"):  # or this test would say nothing
        assert (starred.n_pushes < plain.n_pushes).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_weights_of_any_type_and_order(dtype):
    weights = make_graph("sharp", 4, 9).weights.astype(dtype)
    expected = flow(LayerGraph(weights.astype(np.float64)), backend="numba")
    frozen = weights.copy()
    frozen.setflags(write=False)
    doubled = np.zeros((8, 9, 18), dtype=dtype)
    doubled[::2, :, ::2] = weights
    swapped = np.ascontiguousarray(weights.transpose(2, 0, 1)).transpose(1, 2, 0)
    for given in (weights, frozen, doubled[::2, :, ::2], swapped, np.asfortranarray(weights), weights[::-1][::-1]):
        assert_array_equal(flow(LayerGraph(given), backend="numba"), expected)
    assert len(flow_dinic.solve.signatures) == 1  # another one would take seconds to compile


@pytest.mark.parametrize("options", [{"certificate": True}, {"max_work": 10}], ids=str)
def test_more_than_the_memory_is_refused(monkeypatch, options):
    graph = make_graph("sharp", 3, 40)
    pages = {"certificate": 75, "max_work": 25}  # cuts: 40^2 pairs x 160 nodes = 256 kB; else 24 B a pair, 115 kB graph
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages[next(iter(options))]}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    with pytest.raises(
        TooLargeError, match=r"^the flow of 1,600 pairs( with their cuts)? would need 0\.0 GB of memory"
    ):
        flow(graph, **options)
    sizes["SC_PHYS_PAGES"] = 1000
    assert flow(graph, **options).values.shape == (40, 40)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_another_process(monkeypatch, method):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    monkeypatch.setattr(flow_numba, "MIN_WORK_OF_A_THREAD", 1)
    graph = make_graph("sharp", 4, 8)
    expected = flow_numba.flow(graph, np.array([3]), np.arange(8))
    with get_context(method).Pool(1) as pool:
        values = pool.apply_async(flow_numba.flow, (graph, np.array([3]), np.arange(8))).get(timeout=120)
        result = pool.apply_async(flow, (graph,), {"certificate": True, "paths": True}).get(timeout=120)
    assert_array_equal(values, expected)
    assert_allclose(result.values, expected[0], rtol=1e-12, atol=0)  # paths are found sink by sink
    assert_allclose(result.gaps, np.zeros((8, 8)), rtol=0, atol=1e-12)
    assert_allclose(result.arc_flows(7, 0)[-1].sum(), expected[0, 7, 0], rtol=1e-12, atol=0)


BOUNDS_PROGRAM = """
import numpy as np
from graph_makers import MAKERS, make_graph
from attnflow_hf import flow
from attnflow_hf.backends import flow_numba
from attnflow_hf.backends.flow_workspace import U, compiled

def read(numbers, index):
    return numbers[U(index)]

try:
    compiled(read)(np.zeros(3), 3)
except IndexError:
    print("indices are checked")
new_workspace = flow_numba.new_workspace

def short(top, n):
    workspace = new_workspace(top, n)
    return workspace._replace(log=workspace.log[: (top - 2) * n * n + 4 * top * n + 2 * n + 2])

for make_workspace in (new_workspace, short):
    flow_numba.new_workspace = make_workspace
    for kind in MAKERS:
        for n_layers, n in [(3, 1), (3, 2), (4, 5), (7, 9), (4, 33)]:
            graph = make_graph(kind, n_layers, n)
            positions = sorted({0, n // 2, n - 1})
            flow(graph, output_positions=positions, certificate=True)
            flow(graph, output_positions=positions, layer="all", paths=True)
            flow(graph, output_positions=positions, max_work=7)
print("done")
"""


@pytest.mark.slow
def test_no_index_is_out_of_bounds(tmp_path):
    """An index too high reads or writes foreign memory and may go unseen, so all code is compiled with checks here."""
    environment = os.environ | {
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])]),
    }
    done = subprocess.run([sys.executable, "-c", BOUNDS_PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["indices are checked", "done"]


@pytest.mark.parametrize("n_threads", [1, 2, 3, 50])
def test_threads_change_nothing(monkeypatch, n_threads):
    graph = make_graph("sharp", 5, 70)
    monkeypatch.setattr(flow_numba, "MIN_WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(flow_numba.numba.config, "NUMBA_NUM_THREADS", n_threads)
    question = [np.array([2, 4])], [np.array([3, 69, 3])]
    values = flow_numba.solve_graphs([graph], *question)[0].lower
    assert_array_equal(values, flow_numba.solve_graphs([graph], *question, n_threads=1)[0].lower)
    one_by_one = [
        flow_numba.flow(graph, np.array([layer]), np.array([row]))[0, 0] for layer in (2, 4) for row in (3, 69)
    ]
    assert_array_equal(values[:, [0, 1]].reshape(4, 70), one_by_one)


def test_several_callers_at_the_same_time():
    graphs = [make_graph("sharp", 4, 16, seed=seed) for seed in range(8)]

    def solve(graph: LayerGraph) -> np.ndarray:
        return flow_numba.flow(graph, np.array([3]), np.arange(16))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(solve, graphs))
    for graph, values in zip(graphs, together, strict=True):
        assert_array_equal(values, solve(graph))


def test_an_error_in_a_thread_is_raised_and_ends_the_others(monkeypatch):
    calls = []

    def fail(*args: object) -> None:
        calls.append(args)
        time.sleep(0.05)
        raise MemoryError("no room")

    monkeypatch.setattr(flow_numba, "MIN_WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(flow_numba, "new_workspace", fail)
    graphs = [make_graph("sharp", 4, 8, seed=seed) for seed in range(30)]
    with pytest.raises(MemoryError, match="no room"):
        flow_numba.solve_graphs(graphs, [np.array([3])] * 30, [np.arange(8)] * 30, n_threads=2)
    assert len(calls) <= 4


def test_importing_compiles_nothing_and_the_first_call_says_what_it_does(tmp_path):
    program = (
        "import logging, numpy as np\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "from attnflow_hf.backends import flow_dinic, flow_numba\n"
        "from attnflow_hf.layer_graph import LayerGraph\n"
        "print(len(flow_dinic.solve.signatures))\n"
        "graph = LayerGraph(np.full((3, 2, 2), 0.5))\n"
        "for _ in range(2): values = flow_numba.flow(graph, np.array([2]), np.array([0]))\n"
        "print(len(flow_dinic.solve.signatures), values.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["0", "1 [[[1.0, 1.0]]]"]
    assert done.stderr.count("attnflow_hf loading the compiled flow solver") == 1


def test_all_graphs_run_the_same_machine_code():
    """Each new combination of array types would compile for seconds, and again in each process without a cache."""
    for graph in (make_graph("sharp", 3, 1), make_graph("causal", 4, 5), LayerGraph([[[1, 0], [0, 1]]] * 3)):
        flow_numba.flow(graph, np.array([2]), np.array([0]))
    assert len(flow_dinic.solve.signatures) == 1


def test_without_a_folder_to_write_to_it_is_compiled_without_cache(monkeypatch):
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options["nogil"])

    monkeypatch.setattr(flow_workspace.numba, "njit", njit)
    assert flow_workspace.compiled(len) == (len, True)

"""Which cut sets each flow value: against trivial cuts that are built node by node."""

import re
import warnings

import numpy as np
import pytest
from graph_makers import MAKERS, make_graph, minilm_graph
from numpy.testing import assert_allclose, assert_array_equal

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, flow
from attnflow_hf.errors import FileFormatError, SaturationWarning
from attnflow_hf.saturation import CUT_KINDS, Saturation, cut_kinds, measure_saturation

SOURCE_SIDE, SINK_COLUMN, OWN_COLUMN, INNER = range(4)


def narrowest(graph, top, position, token):
    """Return the capacities of the narrowest trivial cuts, each from its definition."""
    n = graph.n_tokens
    cuts = {kind: [] for kind in (SOURCE_SIDE, SINK_COLUMN, OWN_COLUMN)}

    def capacity(upper_side):
        cut = np.zeros((top + 1, n), dtype=bool)
        cut[0] = np.arange(n) != token  # the other tokens lead nowhere
        cut[top, position] = True
        for level in range(1, top):
            cut[level] = upper_side(level)
        return float(graph.cut_capacity(cut))

    def own_column(lowest):
        return lambda level: np.arange(n) == (position if level >= lowest else -1)

    def sink_column(highest):
        return lambda level: np.arange(n) != (token if level <= highest else -1)

    cuts[SOURCE_SIDE].append(graph.weights[top - 1, position].sum())
    for lowest in range(1, top):
        cuts[OWN_COLUMN].append(capacity(own_column(lowest)))
    is_unlimited = np.isinf(graph.weights[:top, token, token]).all() and token != position
    for highest in range(top if is_unlimited else top - 1):
        cuts[SINK_COLUMN].append(capacity(sink_column(highest)))
    return {kind: min(capacities, default=np.inf) for kind, capacities in cuts.items()}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("top", [1, 2, 3, 4])
def test_each_kind_is_as_narrow_as_the_flow(kind, top):
    graph = make_graph(kind, 4, 5)
    values = flow(graph, layer=top - 1)
    kinds = cut_kinds(graph, [top - 1], range(5), values[None])[0]
    for position, token in np.ndindex(5, 5):
        value, found = values[position, token], kinds[position, token]
        if value == 0 or np.isinf(value):
            assert found == -1
            continue
        limits = narrowest(graph, top, position, token)
        fitting = [each for each in limits if limits[each] <= value * (1 + 1e-10)]
        assert found == (fitting[0] if fitting else INNER)
        assert all(limit >= value * (1 - 1e-10) for limit in limits.values())


def test_worked_example():
    # Two layers from position 0: .5 to itself, .5 to node 1 of level 1. Token 0 takes 1 from node 0 and 1 from node 1:
    # all that the position has, 1, reaches it. Token 1 takes .25 from node 1 alone: its column sum. Token 2 takes .1
    # from each node: its column sum .2 again, as nodes 0 and 1 can have that.
    upper = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    lower = [[1.0, 0.0, 0.1], [1.0, 0.25, 0.1], [0.0, 0.0, 0.0]]
    graph = LayerGraph([lower, upper])
    values = flow(graph, output_positions=[0])
    assert_allclose(values, [[1.0, 0.25, 0.2]], rtol=1e-15)
    assert_array_equal(cut_kinds(graph, [1], [0], values[None])[0, 0], [SOURCE_SIDE, SINK_COLUMN, SINK_COLUMN])
    report = measure_saturation(graph, [1], [0], values[None])
    assert report.source_side == pytest.approx(1 / 3)
    assert report.variation == pytest.approx(np.std([1, 0.25, 0.2]) / np.mean([1, 0.25, 0.2]))


def test_cls_of_a_trained_encoder_is_limited_by_its_own_column():
    graph = minilm_graph(64)
    report = measure_saturation(graph, [5], [0], flow(graph, output_positions=[0])[None])
    assert report.own_column > 0.9
    assert report.is_saturated
    lower = measure_saturation(graph, [2], [20], flow(graph, output_positions=[20], layer=2)[None])
    assert lower.inner > 0.9
    assert not lower.is_saturated


def test_shares_are_those_of_all_values_asked_for():
    graph = make_graph("sharp", 4, 6)
    values = flow(graph, layer="all")
    report = measure_saturation(graph, range(4), range(6), values)
    kinds = cut_kinds(graph, range(4), range(6), values)
    assert_allclose(report.shares, [(kinds == kind).mean() for kind in range(4)], rtol=1e-15)
    assert sum(report.shares) == pytest.approx(1)


def test_zero_and_unlimited_values_do_not_count():
    weights = np.zeros((3, 3, 3))
    weights[:, 0, 0] = np.inf
    graph = LayerGraph(weights)
    values = flow(graph)
    assert_array_equal(values, np.diag([np.inf, 0, 0]))
    assert measure_saturation(graph, [2], range(3), values[None]) is None


def test_a_report_in_words():
    report = Saturation(0.0, 0.25, 0.0, 0.75, 0.125)
    assert report.describe() == "values are limited by: inner 75%, sink column 25%; they vary by 12.5% over tokens"
    assert not report.is_saturated
    assert dict(zip(CUT_KINDS, report.shares, strict=True))["sink column"] == 0.25


@pytest.fixture(scope="module")
def attributor():
    return Attributor.from_pretrained()


def test_it_is_said_once_and_stands_in_the_notes(attributor):
    fresh = Attributor(attributor.model, attributor.tokenizer)
    with pytest.warns(
        SaturationWarning, match=r"output position 0 \(\[CLS\]\) of layer 5: its values are limited by"
    ) as caught:
        first = fresh("the key to the cabinets")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = fresh("the key to the cabinets")
    for attribution in (first, second):
        assert attribution.saturation.is_saturated
        assert attribution.notes == (f"flow says little about this position: its {attribution.saturation.describe()}",)


def test_no_note_where_flow_says_something_or_another_method_was_asked(attributor):
    lower = attributor("the key to the cabinets", layer=1)
    assert lower.saturation.inner > 0.5
    assert lower.notes == ()
    rollout = attributor("the key to the cabinets", method="rollout")
    assert rollout.saturation is None
    assert rollout.notes == ()


def test_the_note_is_shown(attributor, capsys):
    attribution = attributor("the key to the cabinets")
    attribution.show()
    assert attribution.notes[0] in capsys.readouterr().out
    assert f"<em>{attribution.notes[0]}</em>" in attribution._repr_html_()
    assert "<em>" not in attributor("the key to the cabinets", layer=1)._repr_html_()


@pytest.mark.parametrize("position", ["mean", "all"])
def test_reports_of_all_positions(attributor, position):
    several = attributor("the key to the cabinets", output_position=position, layer="all")
    assert sum(several.saturation.shares) == pytest.approx(1)


def test_a_comparison_has_the_report_of_flow(attributor):
    results = attributor.compare("the key to the cabinets", options=Options(layer=-1))
    assert [name for name, result in results.items() if result.saturation] == ["flow"]


def test_it_is_saved_and_loaded(attributor, tmp_path):
    attribution = attributor("the key to the cabinets")
    attribution.save(tmp_path / "a.json")
    assert Attribution.load(tmp_path / "a.json").saturation == attribution.saturation
    values = attribution.to_dict()
    values["saturation"] = {"inner": 1.0}
    with pytest.raises(FileFormatError, match=re.escape("this saved attribution is damaged")):
        Attribution.from_dict(values)

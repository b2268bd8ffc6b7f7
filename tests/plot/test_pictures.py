"""What is drawn is what was given: heights, colors, widths and places, compared with the arrays."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from plot_measures import lightness, misplaced, thickness, written

from attnflow_hf import LayerGraph, Options, flow, rollout
from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, FlowError, OptionError, PositionError
from attnflow_hf.plot import (
    COLORS,
    plot_flow,
    plot_graph,
    plot_layers,
    plot_matrix,
    plot_patches,
    plot_rollout,
    plot_tokens,
)
from attnflow_hf.plot.palette import MARK, PATHS
from attnflow_hf.tokens import Tokens

TEXT = "the key to the cabinets"
RNG = np.random.default_rng(5)


def only(ax, kind):
    (found,) = [each for each in ax.collections if isinstance(each, kind)]
    return found


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def said(ax):
    """Return the lines above the axes."""
    return [text for text, box in written(ax.figure) if box.y0 >= ax.get_window_extent().y1 - 1]


# bars


def test_bars_are_as_high_as_the_scores(attributor):
    a = attributor(TEXT, method="rollout")
    ax = plot_tokens(a)
    assert_array_equal([bar.get_height() for bar in ax.patches], a.scores)
    assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in ax.patches], range(6))
    assert tick_labels(ax.xaxis) == ["[CLS]", "the", "key", "to", "the", "cabinets"]
    numbers = [text.get_text() for text in ax.texts if text.get_text().startswith("0.")]
    assert numbers == [f"{score:.2f}" for score in a.scores]
    assert ax.get_ylabel() == "share of attention rollout"
    assert ax.get_title(loc="left") == "attention rollout, layer 5"
    assert f"output position 0 ([CLS]); {a.prediction.describe()}" in said(ax)


def test_words_have_one_bar_each(attributor):
    a = attributor("The zebras", method="rollout")
    ax = plot_tokens(a, words=True)
    assert tick_labels(ax.xaxis) == ["[CLS]", "The", "zebras"]
    assert_array_equal([bar.get_height() for bar in ax.patches], a.to_words().scores)
    first, second = ax.get_xticklabels()[:2]
    assert first.get_color() != second.get_color()  # a special token stands back


@pytest.mark.parametrize(
    ("normalize", "meaning"),
    [("sum", "share of attention flow"), ("max", "attention flow, the largest = 1"), ("none", "attention flow")],
)
def test_the_axis_says_what_a_score_is(attributor, normalize, meaning):
    assert plot_tokens(attributor(TEXT, method="flow", layer=1, normalize=normalize)).get_ylabel() == meaning


def test_plain_scores_have_no_title_and_any_picture_can_have_another():
    assert plot_tokens([0.0, 0.0], ["a", "b"]).get_title(loc="left") == ""
    assert plot_tokens([0.5, 0.5], ["a", "b"], title="mine").get_title(loc="left") == "mine"


# heat maps


def test_layers_are_rows_with_the_last_on_top(attributor):
    a = attributor(TEXT, method="rollout", layer="all")
    ax = plot_layers(a)
    mesh = only(ax, QuadMesh)
    assert_array_equal(mesh.get_array(), a.scores)
    low, high = ax.get_ylim()
    assert low < high  # row 0 is the lowest
    assert tick_labels(ax.yaxis) == list("012345")
    assert_allclose(ax.get_yticks(), np.arange(6) + 0.5)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, a.scores.max())
    ax.figure.canvas.draw()
    assert_allclose(mesh.get_facecolors().reshape(6, 6, 4), COLORS(a.scores / a.scores.max()))


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_methods_stand_side_by_side(attributor, scale):
    found = attributor.compare(TEXT, options=Options(layer="all"))
    axes = plot_layers(found, scale=scale)
    assert [ax.get_title(loc="left") for ax in axes] == ["raw", "rollout", "flow"]
    edges = [ax.get_window_extent() for ax in axes]
    assert edges[0].x1 < edges[1].x0 < edges[1].x1 < edges[2].x0
    meshes = [only(ax, QuadMesh) for ax in axes]
    for mesh, a in zip(meshes, found.values(), strict=True):
        assert_array_equal(mesh.get_array(), a.scores)
    largest = [a.scores.max() for a in found.values()]
    assert [mesh.norm.vmax for mesh in meshes] == ([max(largest)] * 3 if scale == "shared" else largest)
    bars = [child.get_ylabel() for ax in axes for child in ax.child_axes]
    assert bars == (
        ["share of the method's sum"]
        if scale == "shared"
        else ["share of raw attention", "share of attention rollout", "share of attention flow"]
    )


def test_output_positions_are_rows_with_the_first_on_top(attributor):
    a = attributor(TEXT, method="rollout", output_position="all")
    ax = plot_matrix(a)
    assert_array_equal(only(ax, QuadMesh).get_array(), a.scores)
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert tick_labels(ax.yaxis) == tick_labels(ax.xaxis) == list(a.labels)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("input token", "output position")


def test_scores_above_the_largest_are_as_dark_and_the_bar_says_so():
    ax = plot_matrix([[0.2, 0.4], [0.8, 0.1]], ["a", "b"], largest=0.4)
    ax.figure.canvas.draw()
    mesh = only(ax, QuadMesh)
    assert_allclose(mesh.get_facecolors().reshape(2, 2, 4)[[0, 1], [1, 0]], [COLORS(1.0)] * 2)
    assert mesh.colorbar.extend == "max"
    with pytest.raises(OptionError, match="largest must be a score above 0, got 0"):
        plot_matrix([[1.0]], ["a"], largest=0)


def test_a_matrix_may_have_other_rows_than_columns():
    ax = plot_matrix(RNG.random((3, 5)), list("abcde"))
    assert (tick_labels(ax.yaxis), tick_labels(ax.xaxis)) == (list("012"), list("abcde"))


def test_large_heat_maps_are_pixels_and_small_ones_tiles():
    small, large = (only(plot_matrix(np.eye(n), ["x"] * n), QuadMesh) for n in (8, 200))
    assert (small.get_rasterized(), large.get_rasterized()) == (False, True)


# patches


def image_attribution(scores, grid):
    n = grid[0] * grid[1]
    tokens = Tokens.from_names(["[CLS]", *map(str, range(n))], [True] + [False] * n, grid=grid)
    return Attribution(tokens, scores, method="rollout", backend="numpy", output_position=0, layer=3)


def test_patches_lie_where_they_lie_in_the_image():
    scores = RNG.random(7)
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[0] = 255
    ax = plot_patches(image_attribution(scores, (2, 3)), image)
    assert_array_equal(only(ax, QuadMesh).get_array(), scores[1:].reshape(2, 3))
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 3), (2, 0))  # row 0 on top
    (shade,) = ax.images
    assert_array_equal(shade.get_extent(), (0, 3, 2, 0))
    assert_allclose(shade.get_alpha()[0], 0)  # white leaves the color as it is
    assert (shade.get_alpha()[1:] > 0.5).all()
    assert ax.child_axes[0].get_ylabel() == "share of attention rollout"


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 3), (4, 4, 4)])
def test_images_of_integers_and_of_floats_are_the_same(shape):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    shades = [plot_patches(np.eye(2), each).images[0].get_alpha() for each in (image, image / 255)]
    assert_allclose(*shades)


# graphs


def test_edges_are_as_wide_as_their_weights(attributor):
    a = attributor(TEXT, method="rollout", layer="all", output_position="all")
    edges = only(plot_graph(a), LineCollection)
    widths = {}
    for (start, end), width in zip(edges.get_segments(), edges.get_linewidths(), strict=True):
        (layer, key), (upper, query) = start.astype(int), end.astype(int)
        assert upper == layer + 1
        widths[layer, query, key] = width
    weights = {index: a.scores[index] for index in np.ndindex(a.scores.shape) if a.scores[index] > 0}
    assert widths.keys() == weights.keys()
    ratios = np.array([widths[index] / weights[index] for index in weights])
    assert_allclose(ratios, ratios[0], rtol=1e-9)


def test_a_layer_graph_is_drawn_as_it_is():
    graph = LayerGraph([[[np.inf, 0.25], [0.0, 0.5]]])  # an edge without limit is as wide as the widest
    edges = only(plot_graph(graph, ["a", "b"]), LineCollection)
    assert_allclose(sorted(np.divide(edges.get_linewidths(), max(edges.get_linewidths()))), [0.5, 1, 1])


def test_of_many_tokens_only_the_strongest_edges_are_drawn():
    weights = RNG.random((2, 41, 41))
    ax = plot_graph(weights, ["x"] * 41)
    edges = only(ax, LineCollection)
    kept = np.sort(weights.ravel())[-400:]
    assert_allclose(np.divide(edges.get_linewidths(), max(edges.get_linewidths())), kept / kept.max())
    assert "edge width: weight; the 400 strongest of 3,362 edges" in said(ax)
    assert len(only(plot_graph(weights[:, :40, :40], ["x"] * 40), LineCollection).get_segments()) == 3200


# flows

TOKENS = ("the", "key", "turns")
LOWER = [[0.6, 0.4, 0.0], [0.1, 0.7, 0.2], [0.2, 0.3, 0.5]]
UPPER = [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.2, 0.5]]
GRAPH = LayerGraph([LOWER, UPPER])  # that of notebook 02


@pytest.fixture(scope="module")
def result():
    return flow(GRAPH, certificate=True, paths=True)


def bands_of(ax):
    return [each for each in ax.collections if isinstance(each, PolyCollection) and not isinstance(each, QuadMesh)]


def marks_of(ax):
    return [
        each
        for each in ax.collections
        if isinstance(each, LineCollection) and to_rgb(MARK) == to_rgb(each.get_color()[0])
    ]


def test_paths_are_ribbons_as_thick_as_their_amounts(result):
    ax = plot_flow(result, 2, 0, tokens=TOKENS)
    paths = result.paths(2, 0)
    assert [path.amount for path in paths] == pytest.approx([0.3, 0.2, 0.1])  # 0.6, by hand
    bands = bands_of(ax)
    assert len(bands) == len(paths)
    for band, path in zip(bands, paths, strict=True):
        outlines = [each.vertices[:-1] for each in band.get_paths()]
        assert [thickness(outline) for outline in outlines] == pytest.approx([path.amount / 0.6 * 0.72] * 2)
    assert {text.get_text() for text in ax.texts} >= {"0.3", "0.2", "0.1", "turns"}
    assert [to_rgb(band.get_facecolor()[0]) for band in bands] == [to_rgb(color) for color in PATHS[:3]]


def test_ribbons_of_a_node_lie_side_by_side(result):
    ax = plot_flow(result, 2, 0, tokens=TOKENS)
    ends = []  # at the input token, on the left
    for band in bands_of(ax):
        for each in band.get_paths():
            points = each.vertices[:-1]
            at = points[np.isclose(points[:, 0], 0)][:, 1]
            if len(at):
                ends.append((at.min(), at.max()))
    ends.sort()
    assert len(ends) == 3
    for (_, below), (above, _) in itertools.pairwise(ends):
        assert above == pytest.approx(below)
    assert ends[-1][1] - ends[0][0] == pytest.approx(0.72)  # the whole flow


def test_the_edges_of_the_minimum_cut_are_marked_and_sum_to_the_flow(result):
    cut = result.cut_edges(2, 0)
    assert cut["amount"].sum() == pytest.approx(result.values[2, 0]) == pytest.approx(0.6)
    ax = plot_flow(result, 2, 0, tokens=TOKENS)
    (marks,) = marks_of(ax)
    crossed = {(int(layer), int(query), int(key)) for layer, query, key, _ in cut.tolist()}
    assert crossed == {(1, 2, 0), (0, 1, 0), (0, 2, 0)}  # 0.3 + 0.1 + 0.2
    assert sorted(int(bar[0, 0]) for bar in marks.get_segments()) == sorted(layer for layer, _, _ in crossed)
    assert ax.get_title(loc="left") == "attention flow 0.6, from turns to the"
    assert "minimum cut (bars): 3 edges, 0.6 in all" in said(ax)


def test_a_lower_layer_has_fewer_levels():
    ax = plot_flow(flow(GRAPH, layer="all", certificate=True, paths=True), 2, 0, layer=0)
    assert [each.get_text() for each in ax.get_xticklabels()] == ["input", "0"]
    assert len(bands_of(ax)) == 1
    assert ax.get_title(loc="left") == "attention flow 0.2, from 2 to 0"


def test_of_many_tokens_only_those_with_flow_have_rows():
    graph = LayerGraph.from_weights(RNG.dirichlet(np.full(50, 0.05), size=(4, 50)))
    result = flow(graph, output_positions=7, certificate=True, paths=True)
    paths = result.paths(7, 0)
    ax = plot_flow(result, 7, 0)
    assert len(bands_of(ax)) == 30
    shown = {7, 0, *(position for path in paths[:30] for position in path.positions)}
    assert tick_labels(ax.yaxis) == [str(position) for position in sorted(shown)]
    share = sum(path.amount for path in paths[:30]) / result.values[0, 0]
    text = " ".join(" ".join(said(ax)).split())
    assert f"the 30 strongest of {len(paths):,} paths, {share:.0%} of the flow" in text
    assert f"{50 - len(shown)} of 50 tokens without rows" in text


def test_what_flow_cannot_be_drawn(result):
    with pytest.raises(OptionError, match="paths=True"):
        plot_flow(flow(GRAPH, certificate=True), 2, 0)
    with pytest.raises(OptionError, match="certificate=True"):
        plot_flow(flow(GRAPH, paths=True), 2, 0)
    with pytest.raises(OptionError, match="3 tokens, but tokens="):
        plot_flow(result, 2, 0, tokens="the")
    with pytest.raises(PositionError, match="output position 3"):
        plot_flow(result, 3, 0)
    unlimited = flow(LayerGraph([[[np.inf, 1.0], [1.0, np.inf]]]), certificate=True, paths=True)
    with pytest.raises(FlowError, match="unlimited"):
        plot_flow(unlimited, 0, 0)


def test_a_flow_of_nothing_is_an_empty_picture():
    causal = flow(LayerGraph([[[1.0, 0.0], [0.5, 0.5]]]), certificate=True, paths=True)
    ax = plot_flow(causal, 0, 1)
    assert bands_of(ax) == []
    assert ax.get_title(loc="left") == "attention flow 0, from 0 to 1"


# rollout


def test_ribbons_of_rollout_end_in_the_scores(raw):
    ax = plot_rollout(raw, 0)
    graph = LayerGraph.from_weights(raw.scores)
    expected = rollout(graph, output_positions=0)[0]
    assert [text.get_text() for text in ax.texts if text.get_text().startswith("0.")] == [f"{v:.2f}" for v in expected]
    bands = bands_of(ax)
    assert len(bands) == 6
    got = np.zeros(6)
    for path, thick in ((path, thickness(path.vertices[:-1])) for path in bands[0].get_paths()):
        row = int(np.round(path.vertices[0, 1]))  # each ends near the middle of its row
        got[row] += thick
    assert_allclose(got / 1.8, expected, atol=0.01)  # but for ribbons too thin to be seen
    assert tick_labels(ax.yaxis) == list(raw.labels)


def test_rollout_of_many_tokens_shows_those_of_the_largest_rollout():
    graph = LayerGraph.from_weights(RNG.dirichlet(np.full(45, 0.1), size=(2, 45)))
    scores = rollout(graph, output_positions=44)[0]
    ax = plot_rollout(graph, 44)
    order = np.argsort(-scores)
    kept = sorted({44, *(order[order != 44][:39].tolist())})
    assert tick_labels(ax.yaxis) == [str(i) for i in kept]
    assert "how one unit spreads; the 40 tokens of the largest rollout, of 45" in said(ax)


def test_names_above_panels_do_not_meet():
    names = ["rollout on grad_attention", "WWWWWWWWWWWWWWWWWWWWWWWW", "another long name of a panel"]
    axes = plot_layers({name: np.ones((2, 2)) for name in names}, ["a", "b"])
    assert misplaced(axes[0].figure) == []
    assert [ax.get_title(loc="left") for ax in axes] == names


def test_edge_weights_and_target_are_told(attributor):
    a = attributor(TEXT, method="rollout", edge_weights="grad_attention", target="plural")
    ax = plot_tokens(a)
    assert any("rollout on grad_attention, layer 5" in each for each in said(ax))
    assert any("target 'plural'" in each for each in said(ax))
    assert "share of rollout on grad_attention" in ax.get_ylabel()


def test_what_rollout_cannot_be_drawn(attributor, raw):
    with pytest.raises(OptionError, match="from method='raw', layer='all', output_position='all'"):
        plot_rollout(attributor(TEXT, method="raw"), 0)
    with pytest.raises(OptionError, match="edge_weights='attention' of one text, got 'raw', 'all', 'all', 'grad_atten"):
        plot_rollout(replace(raw, edge_weights="grad_attention"), 0)
    with pytest.raises(OptionError, match="tokens of its own"):
        plot_rollout(raw, 0, tokens=["a"])
    with pytest.raises(ArrayError, match="3 tokens, but tokens="):
        plot_rollout(GRAPH, 0, tokens=["a"])
    with pytest.raises(ArrayError, match="unlimited"):
        plot_rollout(LayerGraph([[[np.inf]]]), 0)
    with pytest.raises(PositionError, match="output position 3"):
        plot_rollout(GRAPH, 3)


# colors


DEUTERANOPIA = np.array(  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def test_lightness_falls_evenly():
    steps = -np.diff(lightness(COLORS(np.linspace(0, 1, 64))))
    assert (steps > 0).all()
    assert steps.max() < 1.5 * steps.min()


def test_colorblind_readers_see_the_same_order():
    colors = COLORS(np.linspace(0, 1, 64))[:, :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEUTERANOPIA.T, 0, 1) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(seen) < 0).all()


def test_paths_side_by_side_differ_in_gray():
    grays = lightness([to_rgba(color) for color in PATHS])
    assert np.abs(np.diff(grays, append=grays[0])).min() > 15


# inputs, figures


@pytest.mark.parametrize(
    ("draw", "scores", "error", "message"),
    [
        (plot_tokens, [[1.0]], ArrayError, r"scores \[token\], got shape \(1, 1\)"),
        (plot_tokens, [np.nan], ArrayError, "finite"),
        (plot_tokens, [-1.0], ArrayError, "negative"),
        (plot_tokens, [1.0, 2.0], ArrayError, "scores of 2 tokens, but tokens="),
        (plot_layers, [1.0], ArrayError, r"scores \[layer, token\]"),
        (plot_layers, {}, OptionError, "is empty"),
        (plot_matrix, [1.0], ArrayError, r"scores \[position, token\]"),
        (plot_graph, [[1.0]], ArrayError, r"scores \[layer, position, token\]"),
        (plot_graph, [[[1.0], [2.0]]], ArrayError, "as many output positions as tokens"),
    ],
)
def test_scores_that_do_not_fit_are_errors(draw, scores, error, message):
    with pytest.raises(error, match=message):
        draw(scores, ["a"])


def test_other_inputs_that_do_not_fit_are_errors(attributor):
    a = attributor(TEXT, method="raw")
    with pytest.raises(OptionError, match="of layer='all' and one output position, got one of one"):
        plot_layers(a)
    with pytest.raises(OptionError, match="tokens of its own"):
        plot_tokens(a, ["a"])
    with pytest.raises(OptionError, match="plain scores need tokens="):
        plot_tokens([1.0])
    with pytest.raises(OptionError, match="words=True needs an Attribution"):
        plot_tokens([1.0], ["a"], words=True)
    with pytest.raises(OptionError, match="unknown scale 'mine'"):
        plot_layers([[1.0]], ["a"], scale="mine")
    with pytest.raises(OptionError, match="2 heat maps need as many axes, got 1"):
        plot_layers({"a": [[1.0]], "b": [[1.0]]}, ["x"], ax=Figure().add_subplot())
    with pytest.raises(ArrayError, match=r"scores \[row, column\]"):
        plot_patches([1.0])
    with pytest.raises(ArrayError, match=r"an image has axes \[y, x\]"):
        plot_patches([[1.0]], np.zeros((2, 2, 2)))
    with pytest.raises(OptionError, match="no grid of patches"):
        plot_patches(a)


def draw_all(axes, attributor, raw):
    plot_tokens(attributor(TEXT, method="rollout"), ax=axes[0])
    plot_layers(attributor(TEXT, method="rollout", layer="all"), ax=axes[1])
    plot_matrix(attributor(TEXT, method="rollout", output_position="all"), ax=axes[2])
    plot_graph(raw, ax=axes[3])
    plot_flow(flow(GRAPH, certificate=True, paths=True), 2, 0, tokens=TOKENS, ax=axes[4])
    plot_rollout(raw, 0, ax=axes[5])
    plot_patches(np.eye(3), np.eye(6), ax=axes[6])


def test_axes_that_are_given_stay_out_of_pyplot(attributor, raw):
    figure = Figure(figsize=(12, 12), layout="constrained")
    FigureCanvasAgg(figure)
    draw_all(figure.subplots(4, 2).ravel(), attributor, raw)
    figure.canvas.draw()
    assert plt.get_fignums() == []
    assert tuple(figure.get_size_inches()) == (12, 12)
    plot_tokens([1.0], ["a"])
    assert len(plt.get_fignums()) == 1  # so that a notebook shows it


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures_are_written_as(ending, tmp_path, attributor, raw):
    figure = Figure(figsize=(12, 12), layout="constrained")
    draw_all(figure.subplots(4, 2).ravel(), attributor, raw)
    figure.savefig(tmp_path / f"all.{ending}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    content = (tmp_path / f"all.{ending}").read_bytes()
    assert content.startswith(start)
    assert ending != "svg" or content.count(b"<image") == 4  # three color bars and the photograph; all else is lines


def test_the_users_style_is_respected(attributor, raw):
    with plt.style.context("dark_background"):
        axes = plt.figure(figsize=(12, 12)).subplots(4, 2).ravel()
        draw_all(axes, attributor, raw)
        assert to_rgba(axes[0].title.get_color()) == to_rgba("white")
        assert to_rgba(axes[0].get_xticklabels()[1].get_color()) == to_rgba("white")
    with plt.rc_context({"font.family": ["DejaVu Serif"]}):
        assert plot_tokens([1.0], ["a"]).get_xticklabels()[0].get_fontfamily()[0] == "DejaVu Serif"


def test_without_matplotlib_the_error_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import attnflow_hf.plot as p; print(p.__all__); p.plot_tokens"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "plot_layers" in done.stdout
    assert "OptionError: plots need matplotlib (" in done.stderr
    assert "install it by: pip install 'attnflow_hf[plot]'" in done.stderr


def test_a_baseline_stands_in_the_title_alone(attributor):
    ax = plot_tokens(attributor(TEXT, method="rollout", edge_weights="grad_attention", baseline="mask"))
    assert any("rollout on grad_attention (baseline mask), layer 5" in each for each in said(ax))
    assert ax.get_ylabel() == "share of rollout on grad_attention"

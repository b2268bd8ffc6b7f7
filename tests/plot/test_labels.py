"""Labels are legible: none over another, none over the edge, whatever the number of tokens and their script."""

import re

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plot_measures import misplaced, written

from attnflow_hf import LayerGraph, flow
from attnflow_hf.plot import (
    plot_flow,
    plot_graph,
    plot_layers,
    plot_matrix,
    plot_patches,
    plot_rollout,
    plot_tokens,
)
from attnflow_hf.plot.labels import LARGEST, SMALLEST, Labels, fit_columns, fit_rows, shorten

RNG = np.random.default_rng(3)
WORDS = ["the", "unbelievable", "[CLS]", "of", "##s", "antidisestablishmentarianism", "I"]


def tokens_of(n):
    return [f"{WORDS[i % len(WORDS)]}{i}" for i in range(n)]


def three(values):
    return {"raw": values, "rollout": values, "flow": values}


DRAWN = {  # by name: how, the axes but the last, the numbers of tokens
    "tokens": (plot_tokens, (), (1, 5, 40, 200, 512)),
    "layers": (plot_layers, (6,), (5, 40, 200, 512)),
    "three": (lambda values, tokens: plot_layers(three(values), tokens)[0], (3,), (5, 40, 512)),
    "own": (lambda values, tokens: plot_layers(three(values), tokens, scale="own")[0], (2,), (5, 40)),
    "matrix": (plot_matrix, ("n",), (5, 40, 200, 512)),
    "graph": (plot_graph, (2, "n"), (5, 40, 200, 512)),
}


@pytest.mark.parametrize(("name", "n"), [(name, n) for name, (_, _, sizes) in DRAWN.items() for n in sizes])
def test_labels_neither_overlap_nor_leave_the_figure(name, n):
    draw, axes, _ = DRAWN[name]
    values = RNG.random((*(n if size == "n" else size for size in axes), n))
    figure = draw(values, tokens_of(n)).figure
    assert misplaced(figure) == []
    assert max(figure.get_size_inches()) < 19


@pytest.mark.parametrize("n", [2, 12, 40, 60])
def test_labels_of_flows_do_not_overlap_either(n):
    graph = LayerGraph.from_weights(np.random.default_rng(n).dirichlet(np.full(n, 0.3), size=(3, n)))
    result = flow(graph, output_positions=0, certificate=True, paths=True)
    for figure in (
        plot_flow(result, 0, n - 1, tokens=tokens_of(n)).figure,
        plot_rollout(graph, n - 1, tokens=tokens_of(n)).figure,
    ):
        assert misplaced(figure) == []


@pytest.mark.parametrize("dpi", [60, 70, 72, 80, 90, 110, 150, 300])
def test_nothing_is_cut_off_at_any_resolution(attributor, dpi):
    figure = plot_tokens(attributor("the key to the cabinets", method="rollout")).figure
    figure.set_dpi(dpi)
    assert misplaced(figure) == []


@pytest.mark.parametrize("n", [5, 40, 200])
def test_labels_fit_the_axes_that_are_given(n):
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2)
    plot_tokens(RNG.random(n), tokens_of(n), ax=above)
    plot_layers(RNG.random((6, n)), tokens_of(n), ax=below)
    assert misplaced(figure) == []


@pytest.mark.parametrize(("n", "step"), [(40, 1), (200, 2), (512, 5)])
def test_labels_that_are_left_out_are_spoken_of(n, step):
    ax = plot_tokens(RNG.random(n), [f"t{i}" for i in range(n)])
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [f"t{i}" for i in range(0, n, step)]
    assert ax.get_xlabel() == {1: "", 2: "every 2nd token is named", 5: "every 5th token is named"}[step]
    assert min(label.get_fontsize() for label in ax.get_xticklabels()) >= SMALLEST


def test_few_labels_stand_in_a_line_and_many_upright():
    few, many = (plot_tokens(RNG.random(n), tokens_of(n)).get_xticklabels()[0] for n in (5, 40))
    assert (few.get_rotation(), many.get_rotation()) == (0, 90)
    assert [few.get_fontsize(), many.get_fontsize()] == pytest.approx([LARGEST, LARGEST])


def test_rows_and_columns_share_one_rule():
    assert fit_rows(200).size == LARGEST
    assert fit_rows(SMALLEST).step == 2
    assert fit_columns(Labels.of(["a"] * 3), 400).is_turned is False
    assert fit_columns(Labels.of(["a" * 15] * 3), 20).is_turned is True


def test_long_labels_end_in_an_ellipsis_and_keep_whole_characters():
    assert shorten("a" * 18) == "a" * 18
    assert shorten("a" * 19) == "a" * 17 + "\u2026"
    assert shorten("e\u0301" * 12) == "e\u0301" * 8 + "\u2026"  # never a letter without its accent
    family = "\U0001f469\u200d\U0001f52c"
    assert shorten(family * 7).removesuffix("\u2026") in {family * n for n in range(8)}


def test_control_characters_are_spelled_and_dollars_are_no_formula():
    ax = plot_tokens([1, 2, 3], ["\n", "$x^2$", "\x1b[1m"], title="$5 or \\$6")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["\\n", "$x^2$", "\\x1b[1m"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())
    widths = {text: box.width for text, box in written(ax.figure)}
    assert widths["$x^2$"] > widths["\\n"] * 2  # five characters, not two


def test_formulas_by_latex_leave_tokens_alone():
    with plt.rc_context({"text.usetex": True}):
        ax = plot_tokens([1, 2], ["##s", "a_b"], ax=Figure().add_subplot())
    assert not any(label.get_usetex() for label in ax.get_xticklabels())


def test_color_bars_stay_in_the_figure():
    figure = plot_patches(RNG.random((4, 4))).figure
    assert misplaced(figure) == []
    assert [text for text, _ in written(figure) if not re.fullmatch(r"[\d.]+", text)] == ["score"]

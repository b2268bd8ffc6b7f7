"""Animations show one step after the other, and are saved as what their ending says."""

import numpy as np
import pytest
from matplotlib.animation import writers
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from PIL import Image

from attnflow_hf import LayerGraph, flow, rollout
from attnflow_hf.errors import OptionError
from attnflow_hf.plot import animate_flow, animate_rollout
from attnflow_hf.plot.palette import MARK

GRAPH = LayerGraph(
    [[[0.6, 0.4, 0.0], [0.1, 0.7, 0.2], [0.2, 0.3, 0.5]], [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.2, 0.5]]]
)
TOKENS = ["the", "key", "turns"]


def frames(animation):
    """Yield the axes of each frame."""
    animation._init_draw()
    for frame in animation.new_frame_seq():
        animation._draw_frame(frame)
        yield animation._fig.axes[0]


def seen(ax, kind):
    return [each for each in ax.collections if isinstance(each, kind) and each.get_visible()]


def test_rollout_goes_down_layer_by_layer(raw):
    animation = animate_rollout(raw, 0)
    counts, numbers = [], []
    for ax in frames(animation):
        bands = seen(ax, PolyCollection)
        counts.append(len(bands))
        lowest = min((band.get_paths()[0].vertices[:, 0].min() for band in bands), default=6)
        assert lowest == 6 - len(bands)  # the last layer first
        numbers.append([t.get_text() for t in ax.texts if t.get_visible() and t.get_text().startswith("0.")])
    assert counts == [0, 1, 2, 3, 4, 5, 6, 6, 6]
    scores = rollout(LayerGraph.from_weights(raw.scores), output_positions=0)[0]
    assert numbers == [[]] * 7 + [[f"{score:.2f}" for score in scores]] * 2


def test_flow_grows_path_by_path_up_to_its_cut():
    result = flow(GRAPH, certificate=True, paths=True)
    animation = animate_flow(result, 2, 0, tokens=TOKENS)
    sums, cuts = [], []
    for ax in frames(animation):
        sums.append(sum(float(t.get_text()) for t in ax.texts if t.get_visible() and t.get_text()[0] == "0"))
        cuts.append(any(to_rgb(each.get_color()[0]) == to_rgb(MARK) for each in seen(ax, LineCollection)))
    assert sums == pytest.approx([0, 0.3, 0.5, 0.6, 0.6, 0.6])
    assert sums[-1] == pytest.approx(result.values[2, 0])
    assert cuts == [False] * 4 + [True] * 2


def test_a_gif_needs_pillow_alone(tmp_path):
    path = tmp_path / "rollout.gif"
    animate_rollout(GRAPH, 2, tokens=TOKENS, interval=500).save(path, dpi=40)
    with Image.open(path) as image:
        pictures = []
        for number in range(image.n_frames):
            image.seek(number)
            pictures.append(np.asarray(image.convert("L")))
            assert image.info["duration"] >= 500
    assert len(pictures) == 4  # none, one layer, two, the scores (shown twice as long)
    inks = [(picture < 200).sum() for picture in pictures]
    assert inks == sorted(inks)


def test_a_video_needs_ffmpeg_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "is_available", lambda name: name != "ffmpeg")
    animation = animate_rollout(GRAPH, 2)
    with pytest.raises(OptionError, match=r"'.*rollout.mp4' the program ffmpeg is needed, .* save a '.gif'"):
        animation.save(tmp_path / "rollout.mp4")
    animation.save(tmp_path / "rollout.gif", dpi=20)
    assert [path.name for path in tmp_path.iterdir()] == ["rollout.gif"]

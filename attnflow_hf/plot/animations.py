"""The paper's two animations: rollout layer by layer, and flow path by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from matplotlib.animation import FuncAnimation, writers
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import OptionError
from attnflow_hf.flow_result import FlowResult
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.plot.canvas import figure_of
from attnflow_hf.plot.flow_paths import draw_flow
from attnflow_hf.plot.rollout_ribbons import draw_rollout


class _Animation(FuncAnimation):
    """An animation that is saved as a GIF by pillow, as an MP4 by ffmpeg."""

    def save(self, filename: str | Path, writer: Any = None, *args: Any, **options: Any) -> None:
        """Write the animation to a file, as `FuncAnimation.save` does.

        Args:
            filename: Its ending says the form: `.gif` needs nothing more, `.mp4` the program ffmpeg.
            writer: As there; by default pillow for a GIF and ffmpeg for all else.
            args: As there.
            options: As there.

        Raises:
            OptionError: ffmpeg is needed and not there.
        """
        if writer is None:
            writer = "pillow" if Path(filename).suffix.lower() == ".gif" else "ffmpeg"
        if writer == "ffmpeg" and not writers.is_available("ffmpeg"):
            raise OptionError(
                f"to save {str(filename)!r} the program ffmpeg is needed, which is not on the PATH; install it, or "
                "save a '.gif'"
            )
        super().save(filename, writer, *args, **options)


def animate_rollout(
    graph: LayerGraph | Attribution | npt.ArrayLike,
    output_position: int,
    *,
    tokens: Sequence[str] | None = None,
    residual_weight: float = 0.5,
    title: str | None = None,
    ax: Axes | None = None,
    interval: int = 900,
) -> FuncAnimation:
    """Return an animation of attention rollout: the picture of `plot_rollout`, layer by layer, the scores at the end.

    Args:
        graph: As `plot_rollout`; so are the next five.
        output_position: Where the unit starts.
        tokens: What each token is called.
        residual_weight: The share of the residual connection.
        title: Instead of what is shown.
        ax: Where to draw.
        interval: Milliseconds for each frame.

    Returns:
        A matplotlib animation: keep it, and save it by `.save("rollout.gif")`.

    Raises:
        ArrayError: The weights are not those of a layer graph, or an edge is unlimited.
        OptionError: Not raw attention, or not of all layers and positions.
        PositionError: There is no such output position.
    """
    drawn = draw_rollout(graph, output_position, tokens=tokens, residual_weight=residual_weight, title=title, ax=ax)
    return _animation(drawn.ax, [*([band] for band in reversed(drawn.bands)), list(drawn.scores)], interval)


def animate_flow(
    result: FlowResult,
    output_position: int,
    token: int,
    *,
    tokens: Sequence[str] | None = None,
    layer: int = -1,
    title: str | None = None,
    ax: Axes | None = None,
    interval: int = 900,
) -> FuncAnimation:
    """Return an animation of one maximum flow: the picture of `plot_flow`, path by path, the minimum cut at the end.

    Args:
        result: As `plot_flow`; so are the next six.
        output_position: The explained position.
        token: The input token.
        tokens: What each token is called.
        layer: The explained layer.
        title: Instead of the flow's value and its cut.
        ax: Where to draw.
        interval: Milliseconds for each frame.

    Returns:
        A matplotlib animation: keep it, and save it by `.save("flow.gif")`.

    Raises:
        FlowError: The flow is unlimited, or its search was not finished.
        OptionError: The call did not ask for a certificate and paths.
        PositionError: The position or the layer was not asked for.
    """
    drawn = draw_flow(result, output_position, token, tokens=tokens, layer=layer, title=title, ax=ax)
    steps: list[list[Artist]] = [[band] for band in drawn.bands]
    for number, amount in drawn.amounts.items():
        steps[number].append(amount)
    return _animation(drawn.ax, [*steps, [drawn.cut]], interval)


def _animation(ax: Axes, steps: Sequence[Sequence[Artist]], interval: int) -> _Animation:
    """Return an animation that shows the artists of one step after the other, from none to all."""

    def show(frame: int) -> list[Artist]:
        for number, artists in enumerate(steps):
            for artist in artists:
                artist.set_visible(number < frame)
        return [artist for artists in steps for artist in artists]

    frames = [*range(len(steps) + 1), len(steps)]  # the whole twice as long
    return _Animation(figure_of(ax), show, frames=frames, init_func=lambda: show(0), interval=interval, blit=False)

"""What is drawn, measured on the canvas."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def written(figure):
    """Return the texts that are seen on a figure, each with its box in pixels."""
    figure.canvas.draw()
    hidden = {text for axis in figure.findobj(Axis) if not axis.get_visible() for text in axis.findobj(Text)}
    spare = {text for axis in figure.findobj(Axis) for text in _unused(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text not in hidden | spare]


def _unused(axis):
    """Return the labels of ticks that matplotlib keeps but does not draw: outside of the limits, or spare."""
    low, high = sorted(axis.get_view_interval())
    used = {tick for tick in axis.get_major_ticks(len(axis.get_ticklocs())) if low <= tick.get_loc() <= high}
    return {
        label for tick in axis.majorTicks + axis.minorTicks if tick not in used for label in (tick.label1, tick.label2)
    }


def misplaced(figure, slack=1.0):
    """Return the pairs of texts that overlap, and the texts and axes that reach over the edge, by `slack` pixels."""
    texts = written(figure)
    edges = np.array([box.extents for _, box in texts])
    low, high = edges[:, :2], edges[:, 2:]
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    both = np.argwhere(np.triu((common > slack).all(axis=-1), k=1))
    width, height = figure.canvas.get_width_height()
    inside = Bbox.from_extents(-slack, -slack, width + slack, height + slack)
    boxes = [*texts, *((repr(ax), ax.get_window_extent()) for ax in figure.axes)]
    outside = [name for name, box in boxes if not np.allclose(Bbox.union([box, inside]).extents, inside.extents)]
    return [(texts[i][0], texts[j][0]) for i, j in both] + outside


def luminance(colors):
    """Return the relative luminance (WCAG) of sRGB colors `[..., 3]`."""
    colors = np.asarray(colors)[..., :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def lightness(colors):
    """Return CIE L* of sRGB colors `[..., 3]`."""
    y = luminance(colors)
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


def thickness(outline):
    """Return how thick a ribbon is at its left end, of its outline `[point, 2]`."""
    upper, lower = np.split(outline[: len(outline) // 2 * 2], 2)
    return abs(lower[-1, 1] - upper[0, 1])

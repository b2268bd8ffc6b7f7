"""The colors: one hue whose lightness falls evenly, so that gray print and color-blind readers see the same order."""

from __future__ import annotations

from matplotlib import rcParams
from matplotlib.colors import LinearSegmentedColormap

_STEPS = ("#eef8ff", "#b7e0ff", "#82c7fa", "#56acec", "#2e92d7", "#1177bc", "#125d9a", "#1c4574", "#1e2e4b")
COLORS = LinearSegmentedColormap.from_list("attnflow", _STEPS)
"""The colormap of all heat maps, light (0) to dark: CIE lightness 97 to 19 in even steps, a blue hue throughout."""

BAR = "#1177bc"
MARK = "#c2410c"  # of a minimum cut: apart from the blues in hue, and always with a shape of its own
PATHS = ("#1c4574", "#2e92d7", "#a3d5ff", "#125d9a", "#56acec", "#c9e8ff")  # neighbors differ in lightness


def faint_ink(share: float) -> tuple[str, float]:
    """Return the user's text color at an opacity, for what should stand back.

    Args:
        share: The opacity, 0 to 1.
    """
    return str(rcParams["text.color"]), share

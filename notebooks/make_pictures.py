"""Draw the README's pictures, from the model that ships with the package."""

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from PIL import Image

from attnflow_hf import Attributor, LayerGraph, Options, flow
from attnflow_hf.plot import plot_flow, plot_layers, plot_rollout

TEXT = "the key to the cabinets"
CLS, KEY, LAYER = 0, 2, 1  # of the flow: low in the model, as it stands at its ceiling on top
PICTURES = Path(__file__).with_name("pictures")
DPI, N_COLORS = 120, 128


def figures() -> dict[str, Figure]:
    """Return the pictures by their names."""
    attributor = Attributor.from_pretrained()
    raw = attributor(TEXT, method="raw", layer="all", output_position="all", normalize="none")
    result = flow(LayerGraph.from_weights(raw.scores), layer=LAYER, certificate=True, paths=True)
    return {
        "rollout": plot_rollout(raw, CLS).figure,
        "layers": plot_layers(attributor.compare(TEXT, options=Options(layer="all")))[0].figure,
        "flow": plot_flow(result, CLS, KEY, tokens=raw.labels, layer=LAYER).figure,
    }


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a small PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(N_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main(folder: Path = PICTURES) -> None:
    """Write each picture into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures().items():
        save(figure, folder / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=PICTURES)
    main(parser.parse_args().folder)

"""The README's pictures are those that the script makes."""

import importlib.util
import re
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "notebooks" / "make_pictures.py"


def test_the_script_makes_the_pictures_of_the_readme(tmp_path):
    spec = importlib.util.spec_from_file_location("make_pictures", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    made = {path.name: path for path in tmp_path.iterdir()}
    kept = {path.name: path for path in script.PICTURES.iterdir()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(notebooks/pictures/([^)]+)\)", readme)
    assert made.keys() == kept.keys() == set(shown) == {"rollout.png", "layers.png", "flow.png"}
    for name, path in made.items():
        assert kept[name].stat().st_size < 100_000
        with Image.open(path) as new, Image.open(kept[name]) as old:
            np.testing.assert_allclose(new.size, old.size, rtol=0.03)  # a font may be a little wider elsewhere
            dark = [np.mean(np.asarray(image.convert("L")) < 128) for image in (new, old)]
        np.testing.assert_allclose(*dark, rtol=0.1)

"""Pictures without a display; each test leaves matplotlib as it found it."""

import matplotlib
import pytest
from matplotlib import pyplot as plt

from attnflow_hf import Attributor

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _leaves_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


@pytest.fixture(scope="session")
def attributor():
    return Attributor.from_pretrained()


@pytest.fixture(scope="session")
def raw(attributor):
    options = {"layer": "all", "output_position": "all", "normalize": "none"}
    return attributor("the key to the cabinets", method="raw", **options)

"""The table of edge weights: what strength an edge may have, what each kind needs, and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.errors import OptionError


@dataclass(frozen=True)
class EdgeWeights:
    """What one kind of edge weights needs, and the defaults that go with it.

    Attributes:
        needs_target: Whether they are those of an explained class, so that a gradient must be taken.
        head_reduction: How the heads become one.
        normalizes: Whether each row is divided by its sum.
        residual_weights: The residual weight of each method, `inf` for an edge without limit. A method that is not
            there has no default: a number must be given.
    """

    needs_target: bool
    head_reduction: HeadReduction
    normalizes: bool
    residual_weights: Mapping[str, float]


EDGE_WEIGHTS: dict[str, EdgeWeights] = {
    "attention": EdgeWeights(False, "mean", True, {"raw": 0.0, "rollout": 0.5, "flow": 0.5, "flow_shapley": 0.5}),
    "grad_attention": EdgeWeights(True, "sum", False, {"raw": 0.0, "rollout": 0.5, "flow": inf}),
}
"""`attention`: the weights themselves (Abnar & Zuidema 2020). `grad_attention`: the positive part of the weights times
the gradient of the explained class's logit with respect to them (Chefer et al. 2021)."""

RELU = ("after", "before")
"""Whether negative products are set to zero after the heads have become one, or before."""


def check_target(asked: object) -> None:
    """Raise `OptionError` unless this may be a class index or a label."""
    if isinstance(asked, bool) or not isinstance(asked, (int, np.integer, str)):
        raise OptionError(f"target must be a class index or label, got {asked!r}")

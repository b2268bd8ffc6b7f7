"""`Options`: how attributions are made, checked before a model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from attnflow_hf.attentions import HeadReduction, check_head_reduction
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.layer_graph import check_residual_weight
from attnflow_hf.position_bias import POSITION_CORRECTIONS

OutputPosition = int | Literal["auto", "mean", "all"]
NORMALIZATIONS = ("max", "none", "sum")
SPECIAL_TOKENS = FIRST_TOKEN = ("drop", "keep", "zero")
KEEP = ("layers", "rollout")


@dataclass(frozen=True)
class Options:
    """How attributions are made; the defaults are the paper's. `Attributor.__call__` explains each option."""

    backend: str = "auto"
    layer: int | Literal["all"] = -1
    output_position: OutputPosition = "auto"
    head_reduction: HeadReduction = "mean"
    residual_weight: float = 0.5
    normalize: str = "sum"
    special_tokens: str = "keep"
    first_token: str = "keep"
    position_correction: str = "none"
    keep: str = "layers"
    n_permutations: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all that can be checked without a model."""
        if isinstance(self.layer, str):
            check_choice("layer", self.layer, ["all"])
        if isinstance(self.output_position, str):
            check_choice("output_position", self.output_position, ["all", "auto", "mean"])
        check_choice("normalize", self.normalize, NORMALIZATIONS)
        check_choice("special_tokens", self.special_tokens, SPECIAL_TOKENS)
        check_choice("first_token", self.first_token, FIRST_TOKEN)
        check_choice("position_correction", self.position_correction, POSITION_CORRECTIONS)
        check_choice("keep", self.keep, KEEP)
        check_head_reduction(self.head_reduction)
        check_residual_weight(self.residual_weight)
        check_sampling(self.n_permutations, self.seed)
        if self.keep == "rollout" and (self.position_correction != "none" or self.backend not in ("auto", "fold")):
            raise OptionError(
                "keep='rollout' folds while the model runs: it has no position_correction and no choice of a backend"
            )


def check_sampling(n_permutations: object, seed: object) -> None:
    """Raise `OptionError` unless there are two random orders at the least, and a seed."""
    for name, value, least in (("n_permutations", n_permutations, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise OptionError(f"{name} must be an integer, {least} or more, got {value!r}")


def check_generation_options(options: Options) -> None:
    """Raise `OptionError` for what generated tokens do not have."""
    if options.output_position != "auto" or options.layer == "all" or options.keep != "layers":
        raise OptionError("generated tokens are explained from the position that predicted it, in one layer")

"""`Options`: how attributions are made, checked before a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np

from attnflow_hf.attentions import HeadReduction, check_head_reduction
from attnflow_hf.edge_weights import (
    BASELINES,
    BUILT_IN,
    OWN,
    RELU,
    EdgeWeights,
    ResidualNumber,
    check_target,
    edge_weights_of,
)
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.layer_graph import residual_number
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
    head_reduction: HeadReduction = "auto"
    residual_weight: float | Literal["auto", "measured", "unlimited"] = "auto"
    edge_weights: str = "attention"
    target: int | str | Sequence[int | str | None] | None = None
    normalize_rows: bool | Literal["auto"] = "auto"
    relu: str = "after"
    baseline: str | None = None
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
        check_choice("relu", self.relu, RELU)
        self._check_edge_weights()
        if not isinstance(self.normalize_rows, bool) and self.normalize_rows != "auto":
            raise OptionError(f"normalize_rows must be True, False or 'auto', got {self.normalize_rows!r}")
        self._check_target()
        check_sampling(self.n_permutations, self.seed)
        if self.keep == "rollout" and (self.position_correction != "none" or self.backend not in ("auto", "fold")):
            raise OptionError(
                "keep='rollout' folds while the model runs: it has no position_correction and no choice of a backend"
            )

    def _check_target(self) -> None:
        """Check what goes with a target and its gradient, and what does not."""
        if self.baseline is not None:
            check_choice("baseline", self.baseline, BASELINES)
            if not self.kind.needs_target:
                raise OptionError(
                    f"a baseline is for edge weights with a gradient; edge_weights={self.edge_weights!r} have none"
                )
        for each in self.target if isinstance(self.target, (list, tuple)) else [self.target]:
            if each is not None:
                check_target(each)
        if not self.kind.needs_target and self.target is not None:
            raise OptionError(
                f"edge_weights={self.edge_weights!r} are the same for each target; a target goes with "
                "edge_weights='grad_attention'"
            )

    def _check_edge_weights(self) -> None:
        """Check what goes with edge weights, and what does not."""
        kind = self.kind
        if kind.head_reduction != OWN:
            check_head_reduction(self.heads)
        elif self.head_reduction != "auto":
            raise OptionError(
                f"edge_weights={self.edge_weights!r} make one of all heads themselves: leave head_reduction out"
            )
        if self.residual_weight == "measured":
            if not kind.measures_residual:
                raise OptionError(
                    f"edge_weights={self.edge_weights!r} do not measure the residual's share: residual_weight must be "
                    "a number from 0 to 1, or 'unlimited' for flow"
                )
        elif self.residual_weight != "auto":
            residual_number(self.residual_weight)
        if not kind.are_attention and (self.keep != "layers" or self.position_correction != "none"):
            raise OptionError(
                f"edge_weights={self.edge_weights!r} are no shares of attention: they have no keep='rollout', and no "
                "position_correction"
            )

    @property
    def kind(self) -> EdgeWeights:
        """What the edge weights need, and their defaults."""
        return edge_weights_of(self.edge_weights)

    @property
    def heads(self) -> HeadReduction:
        """How the heads become one."""
        is_auto = isinstance(self.head_reduction, str) and self.head_reduction == "auto"
        return self.kind.head_reduction if is_auto else self.head_reduction

    @property
    def divides_rows(self) -> bool:
        """Whether each row is divided by its sum."""
        return self.kind.normalizes if self.normalize_rows == "auto" else bool(self.normalize_rows)

    def residual_of(self, method: str) -> ResidualNumber:
        """Return the residual weight of a method, `inf` for edges without limit; raw weights have none.

        Raises:
            OptionError: The method needs another one.
        """
        known = self.kind.residual_weights
        if method == "raw":
            return 0.0
        if self.residual_weight == "auto":
            if method not in known:
                raise OptionError(
                    f"method={method!r} has no default with edge_weights={self.edge_weights!r}: choose a "
                    "residual_weight from 0 to 1"
                )
            return known[method]
        if self.residual_weight == "measured":
            return "measured"
        number = residual_number(self.residual_weight)
        if number == inf and method != "flow":
            raise OptionError(
                f"residual_weight='unlimited' is for method='flow', which can pass edges without limit; {method} needs "
                "a number from 0 to 1"
            )
        return number

    def with_own_defaults(self) -> Options:
        """Return the same with the defaults of edge weights of one's own written out, as a file must tell them.

        They are known where the function is, and may be others when it is registered again.
        """
        if self.edge_weights in BUILT_IN:
            return self
        residual = self.recorded_residual("flow") if self.residual_weight == "auto" else self.residual_weight
        return replace(self, normalize_rows=self.divides_rows, residual_weight=residual)

    def recorded_residual(self, method: str) -> float | Literal["measured", "unlimited"]:
        """Return the residual weight of a method as an attribution records it."""
        residual = self.residual_of(method)
        return "unlimited" if residual == inf else residual


def check_sampling(n_permutations: object, seed: object) -> None:
    """Raise `OptionError` unless there are two random orders at the least, and a seed."""
    for name, value, least in (("n_permutations", n_permutations, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise OptionError(f"{name} must be an integer, {least} or more, got {value!r}")


def check_generation_options(options: Options) -> None:
    """Raise `OptionError` for what generated tokens do not have."""
    if options.target is not None:
        raise OptionError(
            f"each generated token is explained as its own target, got target={options.target!r}; to explain another "
            "token, call the attributor on the text up to there, with that token as target"
        )
    if options.output_position != "auto" or options.layer == "all" or options.keep != "layers":
        raise OptionError("generated tokens are explained from the position that predicted it, in one layer")

"""The table of edge weights: what strength an edge may have, what each kind needs, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.errors import OptionError, check_choice, first_line
from attnflow_hf.layer_graph import residual_number

if TYPE_CHECKING:
    from attnflow_hf.captured_layer import CapturedLayer

ResidualNumber = float | Literal["measured"]
"""A residual weight, `inf` for an edge without limit; or what the edge weights measure themselves."""
OWN = "own"
"""The head reduction of edge weights whose function makes one of all heads itself."""
BASELINES = ("mask", "pad", "unk")
"""What may stand in the place of all words, for a second gradient."""
RELU = ("after", "before")
"""Whether negative products are set to zero after the heads have become one, or before."""


@dataclass(frozen=True)
class EdgeWeights:
    """What one kind of edge weights needs, and the defaults that go with it.

    Attributes:
        needs_target: Whether they are those of an explained class, so that a gradient must be taken.
        head_reduction: How the heads become one; `"own"` where the function does it.
        normalizes: Whether each row is divided by its sum.
        residual_weights: The residual weight of each method, `inf` for an edge without limit, `"measured"` for what the
            function measures. A method that is not there has no default: a number must be given.
        function: Makes them of a `CapturedLayer`; the function, or where it is, `"module:name"`.
    """

    needs_target: bool
    head_reduction: HeadReduction
    normalizes: bool
    residual_weights: Mapping[str, ResidualNumber]
    function: Callable[[CapturedLayer], Any] | str | None = None

    @property
    def are_attention(self) -> bool:
        """Whether they are attention weights, whose rows sum to 1."""
        return self.function is None and not self.needs_target

    @property
    def measures_residual(self) -> bool:
        """Whether the function tells what the residual connection adds."""
        return "measured" in self.residual_weights.values()

    def resolve(self) -> Callable[[CapturedLayer], Any]:
        """Return the function that makes them.

        Raises:
            OptionError: There is none, or it is not where it should be.
        """
        if self.function is None:
            raise OptionError("these edge weights are not made by a function of a captured layer")
        return _imported(self.function) if isinstance(self.function, str) else self.function


def _by_function(
    function: Callable[[CapturedLayer], Any] | str, normalize_rows: bool, residual_weight: ResidualNumber
) -> EdgeWeights:
    own = ("flow",) if residual_weight == inf else ("rollout", "flow", "flow_shapley")
    residuals: dict[str, ResidualNumber] = {"raw": 0.0, **dict.fromkeys(own, residual_weight)}
    return EdgeWeights(False, OWN, normalize_rows, residuals, function)


EDGE_WEIGHTS: dict[str, EdgeWeights] = {
    "attention": EdgeWeights(False, "mean", True, {"raw": 0.0, "rollout": 0.5, "flow": 0.5, "flow_shapley": 0.5}),
    "grad_attention": EdgeWeights(True, "sum", False, {"raw": 0.0, "rollout": 0.5, "flow": inf}),
    "alti": _by_function("attnflow_hf.transformed_weights:alti", True, "measured"),
    "norms": _by_function("attnflow_hf.transformed_weights:norms", True, "measured"),
}
"""`attention`: the weights themselves (Abnar & Zuidema 2020). `grad_attention`: the positive part of the weights times
the gradient of the explained class's logit with respect to them (Chefer et al. 2021). `alti`: how close what comes from
a token is to the block's output (Ferrando et al. 2022). `norms`: how long it is (Kobayashi et al. 2021). And those that
`register_edge_weights` was given."""
BUILT_IN = frozenset(EDGE_WEIGHTS)
"""Those that every process knows."""


def register_edge_weights(
    name: str,
    *,
    normalize_rows: bool = True,
    residual_weight: float | Literal["unlimited", "measured"] = 0.5,
) -> Callable[[Callable[[CapturedLayer], Any]], Callable[[CapturedLayer], Any]]:
    """Return a decorator that makes a function's edge weights known as `edge_weights=name`, beside `"attention"`.

    The function is given a `CapturedLayer`, one layer of one text without padding, and returns nonnegative finite
    edge weights `[query, key]`: a tensor, or what can be made one. It may use all that a layer has; where a model's
    blocks do not have it, the model is refused with the reason. The same name given again replaces the function.

    In configs, and where other processes must find it, say where it is: `edge_weights: "module:name"` of any module
    that Python can import, registered or not.

    Args:
        name: What they are called.
        normalize_rows: Whether each row is divided by its sum, unless an option says otherwise.
        residual_weight: The residual weight of rollout and flow, unless an option says otherwise. `"unlimited"`: of
            flow, and rollout needs a number. `"measured"`: the function returns a pair of weights and of what the
            residual connection adds to the weight of each position's own token, `[query]`.

    Raises:
        OptionError: The name is that of built-in edge weights, or an option has a value that it cannot have.

    Example:
        >>> from attnflow_hf import Attributor
        >>> @register_edge_weights("value_norms")
        ... def value_norms(layer):
        ...     lengths = layer.values.norm(dim=-1)  # [head, key]
        ...     return (layer.attention * lengths[:, None]).mean(dim=0)
        >>> attributor = Attributor.from_pretrained()
        >>> attributor("the key to the cabinets", method="rollout", edge_weights="value_norms").edge_weights
        'value_norms'
    """
    if not isinstance(name, str) or not name or name in BUILT_IN or ":" in name:
        raise OptionError(f"name must be a word without ':', and none of {', '.join(sorted(BUILT_IN))}, got {name!r}")
    if not isinstance(normalize_rows, bool):
        raise OptionError(f"normalize_rows must be True or False, got {normalize_rows!r}")
    residual: ResidualNumber = "measured" if residual_weight == "measured" else residual_number(residual_weight)

    def register(function: Callable[[CapturedLayer], Any]) -> Callable[[CapturedLayer], Any]:
        if not callable(function):
            raise OptionError(f"edge weights are made by a function of a captured layer, got {function!r}")
        EDGE_WEIGHTS[name] = _by_function(function, normalize_rows, residual)
        return function

    return register


def edge_weights_of(name: object) -> EdgeWeights:
    """Return what edge weights of this name need; those of `"module:name"` are imported, as they are now.

    Raises:
        OptionError: There are none.
    """
    if isinstance(name, str) and ":" in name:
        function = _imported(name)
        known = [each for each in list(EDGE_WEIGHTS.values()) if each.function is function]  # it has registered itself
        return known[0] if known else _by_function(function, True, 0.5)
    try:
        check_choice("edge_weights", name, EDGE_WEIGHTS)
    except OptionError as error:
        raise OptionError(
            f"{error}; those of register_edge_weights are known in the process that called it, 'module:function' in all"
        ) from None
    return EDGE_WEIGHTS[str(name)]


def check_target(asked: object, *, name: str = "target") -> None:
    """Raise `OptionError` unless this may be a class index or a label."""
    if isinstance(asked, bool) or not isinstance(asked, (int, np.integer, str)):
        raise OptionError(f"{name} must be a class index or label, got {asked!r}")


def _imported(place: str) -> Callable[[CapturedLayer], Any]:
    """Return the function at `module:name`."""
    try:
        function = resolve_name(place)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"edge_weights={place!r} names no function that can be imported ({first_line(error)}); write "
            "'module:function', of a module on Python's path (PYTHONPATH=. for one in this folder)"
        ) from error
    if not callable(function):
        raise OptionError(f"edge_weights={place!r} is {type(function).__name__}, and no function of a captured layer")
    return function  # type: ignore[no-any-return]

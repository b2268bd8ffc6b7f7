"""`ScorerSettings`: which scorers are evaluated, each with options of its own, and what they are called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, Self

from attnflow_hf.backends import METHODS
from attnflow_hf.edge_weights import BUILT_IN
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.evaluation.score_settings import IMPORTANCES, ScoreSettings, plain
from attnflow_hf.evaluation.summary import check_seed
from attnflow_hf.options import Options
from attnflow_hf.windows import Windows

RANDOM = "random"
COLUMN_SUM = "column_sum"
OF_LAYERS = (*METHODS, COLUMN_SUM)
SCORERS = (*OF_LAYERS, *IMPORTANCES, RANDOM)
Layers = int | Sequence[int] | Literal["all"]
Asked = str | Sequence[str | Mapping[str, Any]]
"""A scorer's name, or a list of names and of mappings."""

_CHANGES_NO_ORDER = ("layer", "output_position", "normalize", "special_tokens", "first_token")
_OPTIONS = ("edge_weights", *(each.name for each in fields(Options) if each.name != "edge_weights"))
_OF_PATHS = ("backend", "residual_weight", "position_correction", "keep", "n_permutations", "seed")


@dataclass(frozen=True)
class Scorer:
    """One scorer that was asked for.

    Attributes:
        method: What gives the scores, one of `SCORERS`.
        name: What it is called in tables.
        own: In what it differs from the evaluation's settings, as it was given.
        settings: The evaluation's settings, with those of its own in their place.
    """

    method: str
    name: str
    own: Mapping[str, Any]
    settings: ScorerSettings

    @property
    def slug(self) -> str:
        """The name as a part of a column's name: letters, digits and underscores."""
        return re.sub(r"\W+", "_", self.name).strip("_")

    def to_plain(self) -> str | dict[str, Any]:
        """Return the scorer's name, or where there is more to say a mapping of it, as plain values."""
        if not self.own and self.name == self.method:
            return self.name
        own: dict[str, Any] = plain({"method": self.method, "name": self.name, **self.own, **self._own_defaults})
        return own

    @property
    def _own_defaults(self) -> dict[str, Any]:
        """The defaults of its own edge weights, where they are a function of one's own."""
        if "edge_weights" not in self.own or self.own["edge_weights"] in BUILT_IN:
            return {}
        told = self.settings.options.with_own_defaults()
        return {"residual_weight": told.residual_weight, "normalize_rows": told.normalize_rows}


@dataclass(frozen=True, kw_only=True)
class ScorerSettings(ScoreSettings):
    """Which scores are evaluated; `evaluate_faithfulness` explains each."""

    scorer: Asked
    layer: Layers
    compared_with: str | None
    seed: int

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        super().__post_init__()
        check_seed(self.seed)
        if self.options.layer != -1:
            raise OptionError("say layer of the evaluation, one or a list of them, and not of the options")
        for layer in self.layers:
            if isinstance(layer, bool) or not isinstance(layer, int):
                raise OptionError(f"layer must be an index, a list of them, or 'all', got {self.layer!r}")
        if not self.layers:
            raise OptionError("layer is an empty list; give one at least, or 'all'")
        names = [each.name for each in self.scorers]
        if self.compared_with is not None:
            check_choice("compared_with", self.compared_with, names)

    @cached_property
    def scorers(self) -> tuple[Scorer, ...]:
        """The scorers asked for.

        Raises:
            OptionError: One is none, has a setting that it cannot have, or is called as another.
        """
        asked = [self.scorer] if isinstance(self.scorer, str) else self.scorer
        if not isinstance(asked, (list, tuple)) or not asked:
            raise OptionError(f"scorer must be one, or a list of different ones, got {self.scorer!r}")
        found = tuple(scorer for each in asked for scorer in self._scorers_of(each))
        for index, each in enumerate(found):
            if not each.slug:
                raise OptionError(f"a scorer's name needs a letter or a digit, got {each.name!r}")
            for other in found[:index]:
                if other.slug == each.slug:
                    raise OptionError(
                        f"scorer must be one, or a list of different ones: two are called {other.name!r} and "
                        f"{each.name!r}; give one a name of its own, as in {{method: {each.method}, name: mine}}"
                    )
        return found

    @property
    def layers(self) -> list[Any]:
        """The layers asked for; none are known of `"all"`."""
        if isinstance(self.layer, str):
            check_choice("layer", self.layer, ["all"])
        return list(self.layer) if isinstance(self.layer, (list, tuple)) else [0 if self.layer == "all" else self.layer]

    @property
    def windows(self) -> Windows | None:
        """How long texts are cut; `None` where they are not."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {**super().to_dict(), "scorer": [each.to_plain() for each in self.scorers]}

    def own_settings(self, method: str) -> tuple[str, ...]:
        """Return which settings a scorer may have of its own."""
        if method in OF_LAYERS:
            left_out = (*_CHANGES_NO_ORDER, *(_OF_PATHS if method == COLUMN_SUM else ()))
            return (*(name for name in _OPTIONS if name not in left_out), "layer")
        return IMPORTANCES[method][1] if method in IMPORTANCES else ()

    def _scorers_of(self, asked: Any) -> Iterator[Scorer]:
        """Yield the scorers of an entry of the list: one, or one for each method of a mapping."""
        if not isinstance(asked, Mapping):
            check_choice("scorer", asked, SCORERS)
            yield Scorer(asked, asked, {}, self)
            return
        own = dict(asked)
        methods, name = own.pop("method", None), own.pop("name", None)
        listed = [methods] if isinstance(methods, str) else methods
        if not isinstance(listed, (list, tuple)) or not listed:
            raise OptionError(f"a scorer's mapping needs its method, one or a list of them, got {dict(asked)!r}")
        if name is not None and (not isinstance(name, str) or len(listed) > 1):
            raise OptionError(f"a scorer's name must be a text, and that of one method, got {dict(asked)!r}")
        for method in listed:
            check_choice("scorer", method, SCORERS)
            yield Scorer(method, name or self._name(method, own), own, self._with(method, own))

    def _with(self, method: str, own: Mapping[str, Any]) -> Self:
        """Return the settings with those of a scorer's own, checked."""
        valid = self.own_settings(method)
        for name in own:
            check_choice(f"setting of the scorer {method!r}", name, [*valid, "method", "name"])
        of_options = {name: value for name, value in own.items() if method in OF_LAYERS and name != "layer"}
        others = {name: value for name, value in own.items() if name not in of_options}
        options = replace(self.options, **of_options)
        if method in METHODS:
            options.residual_of(method)
        return replace(self, scorer=method, compared_with=None, options=options, **others)

    def _name(self, method: str, own: Mapping[str, Any]) -> str:
        """Return the method's name, and in brackets what is not as for the evaluation's other scorers."""
        told = []
        for name in self.own_settings(method):
            usual = getattr(self.options if method in OF_LAYERS else self, name)
            if name in own and name != "layer" and own[name] != usual:
                value = own[name] if isinstance(own[name], str) else json.dumps(plain(own[name]))
                told.append(value if name == "edge_weights" else f"{name} {value}")
        return f"{method} ({', '.join(told)})" if told else method

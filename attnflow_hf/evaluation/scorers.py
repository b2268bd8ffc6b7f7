"""Scorers: what gives the tokens of a text scores, an attribution of some layer, an importance, or chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from attnflow_hf.attributing import attribute_all
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import METHODS, select_layers
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.evaluation.score_settings import IMPORTANCES, ScoreSettings, several
from attnflow_hf.evaluation.summary import check_seed
from attnflow_hf.given import given
from attnflow_hf.options import Options
from attnflow_hf.windows import Windows, attribute_windows

RANDOM = "random"
SCORERS = (*METHODS, *IMPORTANCES, RANDOM)
Layers = int | Sequence[int] | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class ScorerSettings(ScoreSettings):
    """Which scores are evaluated; `evaluate_faithfulness` explains each."""

    scorer: str | Sequence[str]
    layer: Layers
    compared_with: str | None
    seed: int

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        super().__post_init__()
        scorers = self.scorers
        check_seed(self.seed)
        if self.options.layer != -1:
            raise OptionError("say layer of the evaluation, one or a list of them, and not of the options")
        for layer in self.layers:
            if isinstance(layer, bool) or not isinstance(layer, int):
                raise OptionError(f"layer must be an index, a list of them, or 'all', got {self.layer!r}")
        if not self.layers:
            raise OptionError("layer is an empty list; give one at least, or 'all'")
        if self.compared_with is not None:
            check_choice("compared_with", self.compared_with, scorers)

    @property
    def scorers(self) -> list[str]:
        """The scorers asked for."""
        return several("scorer", self.scorer, SCORERS)

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
        return {**super().to_dict(), "scorer": self.scorers}


@dataclass(frozen=True)
class Scoring:
    """One scorer's scores.

    Attributes:
        method: The scorer.
        layer: The layer of an attribution; `None` for others.
    """

    method: str
    layer: int | None = None

    @property
    def label(self) -> str:
        """What stands for it in the names of columns: `rollout_layer_5`, `blank_out`."""
        return self.method if self.layer is None else f"{self.method}_layer_{self.layer}"


def scorings_of(attributor: Attributor, settings: ScorerSettings) -> tuple[Scoring, ...]:
    """Return each scorer, in the order asked for; methods with each layer.

    Raises:
        CaptureError: There are methods, and the model cannot be captured.
        PositionError: It has no such layer.
        OptionError: A layer stands twice.
    """
    layers: list[int] = []
    if set(settings.scorers) & set(METHODS):
        n_layers = attributor.capture_report().n_layers
        asked: Sequence[int | Literal["all"]] = ["all"] if settings.layer == "all" else settings.layers
        layers = [layer for each in asked for layer in select_layers(each, n_layers)]
        if len(set(layers)) < len(layers):
            raise OptionError(f"layers must differ from each other, got {settings.layer!r} of {n_layers} layers")
    return tuple(Scoring(name, layer) for name in settings.scorers for layer in (layers if name in METHODS else [None]))


def base_of(scoring: Scoring, scorings: Sequence[Scoring], compared_with: str | None) -> Scoring | None:
    """Return what a scoring is compared with: a method of several layers at the same one; `None` where there is none.

    Args:
        scoring: The scoring.
        scorings: All that there are.
        compared_with: The name of a scorer; by default `"random"`, if it is among them.
    """
    bases = [each for each in scorings if each.method == (compared_with or RANDOM) and each != scoring]
    same = [each for each in bases if each.layer == scoring.layer]
    if scoring.method == (compared_with or RANDOM):
        return None
    return same[0] if same else bases[0] if len(bases) == 1 else None


def scores_of(
    attributor: Attributor, texts: list[str], scorings: Sequence[Scoring], settings: ScorerSettings
) -> dict[Scoring, list[Any]]:
    """Return the scores of texts by each scoring, an attribution or an importance of each text.

    The methods of one layer are made from one forward pass. Importance leaves special tokens out.

    Args:
        attributor: The wrapped model.
        texts: The texts.
        scorings: By what; chance is not among them.
        settings: How.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    found: dict[Scoring, list[Any]] = {}
    for layer in dict.fromkeys(each.layer for each in scorings if each.layer is not None):
        methods = [each.method for each in scorings if each.layer == layer]
        by_text = _attributions(attributor, texts, methods, replace(settings.options, layer=layer), settings)
        found |= {Scoring(name, layer): [by_method[name] for by_method in by_text] for name in methods}
    for each in scorings:
        if each.layer is None:
            found[each] = settings.importance_of(each.method, attributor, texts, "drop")
    return found


def _attributions(
    attributor: Attributor, texts: list[str], methods: Sequence[str], options: Options, settings: ScorerSettings
) -> list[dict[str, Attribution]]:
    if settings.windows is None:
        asked = given(attributor.model, attributor.tokenizer, texts, truncation=settings.truncation)
        return attribute_all(attributor.wrapped, asked, methods, options)
    cut = [settings.windows.of(attributor.model, attributor.tokenizer, text) for text in texts]
    by_text = dict(attribute_windows(attributor.wrapped, cut, methods, options))
    return [by_text[index] for index in range(len(texts))]

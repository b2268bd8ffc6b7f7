"""`Scoring`: one scorer's scores, of a layer where it has some; and the scores of texts by many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from attnflow_hf.attributing import attribute_variously
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import METHODS, select_layers
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.column_sums import column_sums
from attnflow_hf.evaluation.scorers import COLUMN_SUM, OF_LAYERS, RANDOM, Scorer, ScorerSettings
from attnflow_hf.given import Given, given
from attnflow_hf.options import Options
from attnflow_hf.reader import Reading
from attnflow_hf.windows import Windows, attribute_windows


@dataclass(frozen=True)
class Scoring:
    """One scorer's scores.

    Attributes:
        name: What the scorer is called.
        layer: The layer of what has layers; `None` for others.
        scorer: The scorer.
    """

    name: str
    layer: int | None
    scorer: Scorer = field(compare=False, repr=False)

    @property
    def method(self) -> str:
        """What gives the scores."""
        return self.scorer.method

    @property
    def options(self) -> Options:
        """How they are made, of what has layers."""
        options = self.scorer.settings.options
        keep = "layers" if self.method == COLUMN_SUM else options.keep  # what is folded has no edge weights
        return options if self.layer is None else replace(options, layer=self.layer, keep=keep)

    @property
    def label(self) -> str:
        """What stands for it in the names of columns: `rollout_layer_5`, `blank_out`."""
        return self.scorer.slug if self.layer is None else f"{self.scorer.slug}_layer_{self.layer}"

    @property
    def shown(self) -> str:
        """What it is called where there is no room for two columns."""
        if self.layer is None or self.scorer.slug == self.name:
            return self.label if self.scorer.slug == self.name else self.name
        return f"{self.name} of layer {self.layer}"

    @property
    def row(self) -> dict[str, Any]:
        """The columns of a results table that tell it."""
        return {"method": self.name, "layer": self.layer}


def scorings_of(attributor: Attributor, settings: ScorerSettings) -> tuple[Scoring, ...]:
    """Return each scorer, in the order asked for; those of layers with each layer.

    Raises:
        CaptureError: There are scorers of layers, and the model cannot be captured.
        PositionError: It has no such layer.
        OptionError: A layer stands twice.
    """
    found: list[Scoring] = []
    for scorer in settings.scorers:
        if scorer.method not in OF_LAYERS:
            found.append(Scoring(scorer.name, None, scorer))
            continue
        layers = _layers(scorer.settings, attributor.capture_report().n_layers)
        found += [Scoring(scorer.name, layer, scorer) for layer in layers]
    labels = [each.label for each in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise OptionError(f"two scorers would have the columns of {twice[0]!r}; give one another name")
    return tuple(found)


def base_of(scoring: Scoring, scorings: Sequence[Scoring], compared_with: str | None) -> Scoring | None:
    """Return what a scoring is compared with: a scorer of several layers at the same one; `None` where there is none.

    Args:
        scoring: The scoring.
        scorings: All that there are.
        compared_with: The name of a scorer; by default the first that is chance, if one is among them.
    """
    chance = next((each.name for each in scorings if each.method == RANDOM), None)
    bases = [each for each in scorings if each.name == (compared_with or chance)]
    if scoring in bases:
        return None
    same = [each for each in bases if each.layer == scoring.layer]
    return same[0] if same else bases[0] if len(bases) == 1 else None


def scores_of(
    attributor: Attributor, texts: list[str], scorings: Sequence[Scoring], settings: ScorerSettings
) -> dict[Scoring, list[Any]]:
    """Return the scores of texts by each scoring: an attribution, an importance or column sums of each text.

    Scorings whose edge weights are made in the same way share one forward pass, whatever their layers and residual
    weights; but not in windows, where those with the same options do. Importance leaves special tokens out.

    Args:
        attributor: The wrapped model.
        texts: The texts.
        scorings: By what; chance is not among them.
        settings: How.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    found: dict[Scoring, list[Any]] = {}
    of_layers = [each for each in scorings if each.layer is not None]
    if settings.windows is None:
        for group in _groups(of_layers, lambda each: _of_the_pass(each.options)):
            inputs = given(attributor.model, attributor.tokenizer, texts, truncation=settings.truncation)
            found |= _of_one_pass(attributor, inputs, group)
    else:
        for group in _groups(of_layers, lambda each: each.options):
            found |= _in_windows(attributor, texts, group, settings.windows)
    for each in scorings:
        if each.layer is None:
            found[each] = each.scorer.settings.importance_of(each.method, attributor, texts, "drop")
    return found


def _layers(settings: ScorerSettings, n_layers: int) -> list[int]:
    asked: Sequence[int | Literal["all"]] = ["all"] if settings.layer == "all" else settings.layers
    layers = [layer for each in asked for layer in select_layers(each, n_layers)]
    if len(set(layers)) < len(layers):
        raise OptionError(f"layers must differ from each other, got {settings.layer!r} of {n_layers} layers")
    return layers


def _groups(scorings: Sequence[Scoring], key: Callable[[Scoring], Options]) -> list[list[Scoring]]:
    """Return the scorings whose options, or what `key` makes of them, are the same, together."""
    found: dict[str, list[Scoring]] = {}
    for each in scorings:
        found.setdefault(repr(key(each)), []).append(each)  # options may hold lists, which have no hash
    return list(found.values())


def _of_the_pass(options: Options) -> Options:
    """Return options without what comes after the forward pass; rollout that is folded in it knows its residual."""
    if options.keep == "rollout":
        return replace(options, layer=-1)
    later: dict[str, Any] = {"layer": -1, "residual_weight": "auto", "normalize_rows": "auto", "backend": "auto"}
    heads = "auto" if repr(options.head_reduction) == repr(options.kind.head_reduction) else options.head_reduction
    return replace(options, **later, n_permutations=16, seed=0, head_reduction=heads)


def _of_one_pass(attributor: Attributor, inputs: Given, scorings: Sequence[Scoring]) -> dict[Scoring, list[Any]]:
    groups = _groups([each for each in scorings if each.method in METHODS], lambda each: each.options)
    asked = [([each.method for each in group], group[0].options) for group in groups]
    sums = [each for each in scorings if each.method == COLUMN_SUM]

    def finish(reading: Reading, found: list[dict[str, Attribution]]) -> Mapping[Scoring, Any]:
        of_methods = {each: own[each.method] for group, own in zip(groups, found, strict=True) for each in group}
        return of_methods | {each: column_sums(reading, int(each.layer or 0), each.options) for each in sums}

    options = _of_the_pass(scorings[0].options)
    by_text = dict(attribute_variously(attributor.wrapped, inputs, asked, options, finish))
    return {each: [by_text[index][each] for index in range(len(by_text))] for each in scorings}


def _in_windows(
    attributor: Attributor, texts: list[str], scorings: Sequence[Scoring], windows: Windows
) -> dict[Scoring, list[Any]]:
    cut = [windows.of(attributor.model, attributor.tokenizer, text) for text in texts]
    methods = [each.method for each in scorings]
    by_text = dict(attribute_windows(attributor.wrapped, cut, methods, scorings[0].options))
    return {each: [by_text[index][each.method] for index in range(len(texts))] for each in scorings}

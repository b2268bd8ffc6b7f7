"""`Importance`: how much the explained output hangs on each token; and blank-out, which measures it by replacing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import ArrayError, BoolArray, FloatArray, check_choice, check_finite
from attnflow_hf.evaluation.edits import SPECIAL_TOKENS, Replacement, edit, editable, find_replacement
from attnflow_hf.evaluation.outputs import OUTPUTS, find_targets, plain_samples, read_outputs
from attnflow_hf.given import is_single
from attnflow_hf.inputs import Sample, Text
from attnflow_hf.scoring import Wrapped
from attnflow_hf.storage import field_values
from attnflow_hf.targets import Asked, Target
from attnflow_hf.tokens import Tokens

SIGNS = ("drop", "keep")


@dataclass(frozen=True, eq=False)
class Importance:
    """How much the output of the explained class hangs on each token.

    Attributes:
        alignment: The tokens; `alignment.positions` tells where each stands in the tokenizer's output, as for an
            `Attribution`.
        scores: float64 `[token]`, read-only; negative where a token speaks against the class.
        kind: `"blank_out"`, `"input_gradient"`, `"gradient_x_input"` or `"integrated_gradients"`.
        target: The explained class.
        output: `"probability"` or `"logit"`: what of it.
        output_value: That output on the text as it is.
        replacement: What stood in the place of a token: `"unk"`, `"mask"`, `"pad"`, `"drop"`; for integrated gradients
            the baseline, also `"zero"`; `None` for the other gradients.
        norm: How the embedding's dimensions became one score: `"sum"` or `"l2"`; `None` for blank-out.
        signs: `"keep"`, or `"drop"` where the scores are absolute values.
        model_name: The model's name or class.
        notes: What a reader must know.
        gap: For integrated gradients, by how much their sum over all tokens misses the change of the output.

    Raises:
        ArrayError: The scores do not fit the tokens or are not finite.
    """

    alignment: Tokens
    scores: FloatArray
    kind: str
    target: Target
    output: str
    output_value: float
    replacement: str | None = None
    norm: str | None = None
    signs: str = "keep"
    model_name: str = ""
    notes: tuple[str, ...] = ()
    gap: float | None = None

    def __post_init__(self) -> None:
        """Check that the scores fit the tokens; copy and freeze them."""
        scores = np.array(self.scores, dtype=np.float64)
        if scores.shape != (len(self.alignment),):
            raise ArrayError(f"scores of shape {scores.shape} do not fit {len(self.alignment)} tokens")
        check_finite("scores", scores)
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokenizer's own strings."""
        return self.alignment.tokens

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values, ready for JSON; what is of the tokens as `Attribution.to_dict`."""
        return {**field_values(self, without="alignment"), **field_values(self.alignment)}

    def __repr__(self) -> str:
        """Return a line with the tokens and their scores."""
        listed = " ".join(f"{token}:{score:.3f}" for token, score in zip(self.tokens, self.scores, strict=True))
        return f"Importance({self.kind}, {self.output} of {self.target.label!r}, {listed})"


class _Options(TypedDict, total=False):
    """The options of `blank_out`, for type checkers."""

    replacement: str
    output: str
    target: Asked | Sequence[Asked]
    special_tokens: str
    signs: str
    output_position: int | Literal["auto"]
    truncation: bool


@overload
def blank_out(attributor: Attributor, inputs: Text | Mapping[str, Any], **options: Unpack[_Options]) -> Importance: ...
@overload
def blank_out(attributor: Attributor, inputs: list[Text], **options: Unpack[_Options]) -> list[Importance]: ...
def blank_out(
    attributor: Attributor,
    inputs: Text | list[Text] | Mapping[str, Any],
    *,
    replacement: str = "unk",
    output: str = "probability",
    target: Asked | Sequence[Asked] = None,
    special_tokens: str = "keep",
    signs: str = "keep",
    output_position: int | Literal["auto"] = "auto",
    truncation: bool = False,
) -> Importance | list[Importance]:
    """Return how the explained output changes when each token in turn is replaced: unedited minus edited.

    The paper (Abnar & Zuidema 2020, section 4) replaces each token by UNK and takes the effect on the probability of
    the right class; its published code takes the absolute value, here `signs="drop"`. It costs as many forward passes
    of a text as it has tokens, in batches over all texts.

    Args:
        attributor: The model with its tokenizer.
        inputs: A text, a pair, a list of them, or an encoding, as for the attributor.
        replacement: `"unk"`, `"mask"` or `"pad"`; or `"drop"`, which closes the gap.
        output: `"probability"` or `"logit"` of the class. A regression head has its value alone.
        target: The class, by index or label (a token or its id for language models), or a list with one for each
            text; by default what the model predicts of the text as it is.
        special_tokens: `"keep"`: those that the tokenizer added are blanked out like all others. `"drop"`: they stay
            in the text, and are not in the result.
        signs: `"keep"`: positive where the class loses; `"drop"`: absolute values.
        output_position: Where a model that speaks of each position is asked: `"auto"`, the mask of a masked language
            model, the last token of a causal one; or an index of the text's tokens. The mask itself is not blanked out
            and not in the result.
        truncation: Cut texts that are longer than the model can read.

    Returns:
        An `Importance`; for a list, or an encoding of more than one row, a list of them.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.

    Example:
        >>> attributor = Attributor.from_pretrained()
        >>> importance = blank_out(attributor, "the keys to the cabinet", special_tokens="drop")
        >>> importance.tokens[importance.scores.argmax()], importance.target.label
        ('keys', 'plural')
    """
    check_choice("output", output, OUTPUTS)
    check_choice("signs", signs, SIGNS)
    check_choice("special_tokens", special_tokens, SPECIAL_TOKENS)
    wrapped = attributor.wrapped
    samples = plain_samples(wrapped, inputs, truncation=truncation)
    chosen = find_replacement(wrapped, replacement)
    targets = find_targets(wrapped, samples, target, output_position)
    pairs = list(zip(samples, targets, strict=True))
    masks = [editable(wrapped, sample, each, chosen, special_tokens) for sample, each in pairs]
    results = blank_out_pairs(wrapped, pairs, masks, chosen, output=output, signs=signs)
    return results[0] if is_single(inputs, len(results)) else results


def blank_out_pairs(
    wrapped: Wrapped,
    pairs: Sequence[tuple[Sample, Target]],
    masks: Sequence[BoolArray],
    replacement: Replacement,
    *,
    output: str,
    signs: str = "keep",
) -> list[Importance]:
    """Return the importance of some tokens of each text by blank-out.

    Args:
        wrapped: The model and its tokenizer.
        pairs: The texts with their targets.
        masks: Which tokens are blanked out in turn, bool `[token]` of each text.
        replacement: What stands in their place.
        output: As for `blank_out`.
        signs: As for `blank_out`.
    """
    values = read_outputs(wrapped, _blanked_out(pairs, masks, replacement), output)
    parts = np.split(values, np.cumsum([1 + int(mask.sum()) for mask in masks])[:-1])
    return [
        Importance(
            alignment=sample.tokens.select(mask),
            scores=np.abs(part[0] - part[1:]) if signs == "drop" else part[0] - part[1:],
            kind="blank_out",
            target=target,
            output=output,
            output_value=float(part[0]),
            replacement=replacement.name,
            signs=signs,
            model_name=wrapped.name,
            notes=notes_on(sample, target, mask),
        )
        for (sample, target), mask, part in zip(pairs, masks, parts, strict=True)
    ]


def notes_on(sample: Sample, target: Target, edited: BoolArray) -> tuple[str, ...]:
    """Return what a reader must know: that a text was cut, that the explained position was left out."""
    notes = []
    if sample.tokens.n_truncated:
        notes.append(f"the text was cut: {sample.tokens.n_truncated} tokens beyond the model's length were not read")
    position = target.position
    if position is not None and not edited[position] and not sample.tokens.special_tokens_mask[position]:
        notes.append(f"the explained position {position} ({sample.tokens.tokens[position]}) stays as it is")
    return tuple(notes)


def _blanked_out(
    pairs: Sequence[tuple[Sample, Target]], masks: Sequence[BoolArray], replacement: Replacement
) -> Iterator[tuple[Sample, Target]]:
    """Yield each text as it is, and then without each of its tokens in turn."""
    for (sample, target), mask in zip(pairs, masks, strict=True):
        yield sample, target
        for index in np.flatnonzero(mask):
            yield edit(sample, target, np.arange(len(sample)) == index, replacement)

"""Windows over long texts: a text read in several pieces that overlap, and their attributions merged to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from attnflow_hf.attributing import attribute_each
from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import FloatArray, IntArray, OptionError
from attnflow_hf.given import Given, check_window, sample_of_any_length
from attnflow_hf.inputs import Sample, Text
from attnflow_hf.options import Options
from attnflow_hf.prediction import Prediction, predict, predict_label
from attnflow_hf.reader import Reading
from attnflow_hf.readout import read_out, read_out_errors
from attnflow_hf.scoring import Wrapped, sampling_notes


@dataclass(frozen=True)
class Windows:
    """How long texts are cut.

    Attributes:
        size: The tokens of a window, with the special tokens that the tokenizer puts around each.
        stride: The tokens that a window shares with the one before it, as Transformers' tokenizers mean it.

    Raises:
        OptionError: These are no numbers of tokens.
    """

    size: int
    stride: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least in (("window", self.size, 1), ("stride", self.stride, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.stride >= self.size:
            raise OptionError(f"stride must be less than the window of {self.size} tokens, got {self.stride}")

    def of(self, model: Any, tokenizer: Any, text: Text) -> WindowedText:
        """Return a text cut into windows; all are of the same length, so the last may share more with its neighbor.

        Args:
            model: The model that shall read them.
            tokenizer: Its tokenizer.
            text: One text, no pair.

        Raises:
            OptionError: The text is a pair, or a window has no room for it or is more than the model reads.
            TextError: The text is empty.
        """
        if not isinstance(text, str):
            raise OptionError(f"windows are cut of one text; a pair has none, got {text!r}")
        check_window(model, tokenizer, self.size)
        whole = sample_of_any_length(model, tokenizer, text)
        indices = self._indices(whole)
        return WindowedText(whole, indices, [_select(whole, each) for each in indices])

    def _indices(self, whole: Sample) -> list[IntArray]:
        """Return the tokens of each window: those in front, a piece, those behind."""
        if len(whole) <= self.size:
            return [np.arange(len(whole))]
        inner = np.flatnonzero(~whole.tokens.special_tokens_mask)
        front, back = np.arange(inner[0]), np.arange(inner[-1] + 1, len(whole))
        room, n_inner = self.size - len(front) - len(back), int(inner[-1] - inner[0] + 1)
        if room <= self.stride:
            raise OptionError(
                f"a window of {self.size} tokens has room for {room} of the text beside {len(front) + len(back)} "
                f"special ones, so that a stride of {self.stride} leads nowhere; choose a larger window or less stride"
            )
        starts = [*range(0, n_inner - room, room - self.stride), n_inner - room]
        return [np.concatenate([front, inner[0] + start + np.arange(room), back]) for start in starts]


@dataclass(frozen=True, eq=False)
class WindowedText:
    """A text and its windows.

    Attributes:
        whole: The whole text, however long.
        indices: The tokens of each window, int64 `[token of the window]`.
        samples: The windows, as the model reads them.
    """

    whole: Sample
    indices: Sequence[IntArray]
    samples: Sequence[Sample]


def attribute_windows(
    wrapped: Wrapped, texts: Sequence[WindowedText], methods: Sequence[str], options: Options
) -> Iterator[tuple[int, dict[str, Attribution]]]:
    """Yield the index of each text, as its last window is done, and its attributions by each method.

    The score of a token is the mean over the windows that it stands in of what the method gives there. Special tokens
    stand in each window. Of a text of one window it is the attribution of that text.

    Args:
        wrapped: The model and its tokenizer.
        texts: The texts with their windows.
        methods: Which methods; all are made from one forward pass of each window.
        options: How; the output position is `"auto"` (of each window) or `"mean"`.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    if options.output_position not in ("auto", "mean"):
        raise OptionError(
            f"each window has positions of its own: output_position must be 'auto' or 'mean', "
            f"got {options.output_position!r}"
        )
    if options.kind.needs_target and options.target is None:
        raise OptionError("each window predicts a class of its own: name the target that all windows shall explain")
    owners = [(text, window) for text, each in enumerate(texts) for window in range(len(each.samples))]
    given = Given([sample for text in texts for sample in text.samples])
    plain = replace(options, normalize="none", special_tokens="keep", first_token="keep")
    found: dict[int, dict[int, _Part]] = {}
    for index, part in attribute_each(wrapped, given, methods, plain, _Part):
        text, window = owners[index]
        parts = found.setdefault(text, {})
        parts[window] = part
        if len(parts) == len(texts[text].samples):
            yield text, _merge(wrapped, texts[text], [parts[i] for i in range(len(parts))], methods, options)
            del found[text]


class _Part:
    """What was found in a window; the reading itself is given up."""

    def __init__(self, reading: Reading, found: dict[str, Attribution]) -> None:
        self.by_method = found
        self.logits = reading.logits_at("mean")


def _merge(
    wrapped: Wrapped, text: WindowedText, parts: Sequence[_Part], methods: Sequence[str], options: Options
) -> dict[str, Attribution]:
    merged = {}
    for method in methods:
        found = [part.by_method[method] for part in parts]
        position = _position(found)
        values = _mean_values(text, [each.scores for each in found], options)
        tokens, scores, _ = read_out(text.whole.tokens, values[None, None], None, position, options)
        errors = _errors(text, found, values, position, options)
        merged[method] = replace(
            found[0],
            alignment=tokens,
            scores=scores[0],
            output_position=position,
            normalize=options.normalize,
            special_tokens=options.special_tokens,
            first_token=options.first_token,
            sink_scores=None if found[0].sink_scores is None else _mean([each.sink_scores for each in found]),
            prediction=found[0].prediction if len(found) == 1 else _predict(wrapped, parts),
            target=found[0].target if len(found) == 1 else _predict_target(wrapped, parts, found[0].target),
            notes=found[0].notes if len(found) == 1 else (*_notes(text, found), *sampling_notes(errors, options)),
            saturation=found[0].saturation if len(found) == 1 else None,
            standard_errors=errors,
        )
    return merged


def _position(found: Sequence[Attribution]) -> int | Literal["mean", "all"]:
    """Return the output position that all windows share, as `[CLS]` does; else the mean over windows stands for it."""
    positions = {each.output_position for each in found}
    is_shared = len(found) == 1 or positions == {0}
    return positions.pop() if is_shared else "mean"


def _mean_values(text: WindowedText, values: Sequence[FloatArray], options: Options) -> FloatArray:
    """Return the mean of each token's values over its windows, float64 `[token]`.

    Where the first token is not kept as it is, a window that begins with a token does not speak of that token, if
    another one does.
    """
    sums, counts = np.zeros(len(text.whole)), np.zeros(len(text.whole))
    for number, (indices, own) in enumerate(zip(text.indices, values, strict=True)):
        is_covered = number > 0 and indices[0] in text.indices[number - 1]
        skipped = 1 if options.first_token != "keep" and is_covered and indices[0] > 0 else 0
        sums[indices[skipped:]] += own[skipped:]
        counts[indices[skipped:]] += 1
    return np.asarray(sums / counts)


def _errors(
    text: WindowedText,
    found: Sequence[Attribution],
    values: FloatArray,
    position: int | Literal["mean", "all"],
    options: Options,
) -> FloatArray | None:
    """Return the standard errors of a text's scores, or `None` if all windows are exact.

    The mean of the windows' is taken, as their random orders are the same: it is not too small, however they relate.
    """
    own = [each.standard_errors for each in found]
    if all(errors is None for errors in own):
        return None
    known = [np.zeros(len(each.scores)) if errors is None else errors for each, errors in zip(found, own, strict=True)]
    errors = _mean_values(text, known, options)
    return np.asarray(read_out_errors(text.whole.tokens, values[None, None], errors[None, None], position, options)[0])


def _mean(values: Sequence[Any]) -> FloatArray:
    return np.asarray(np.mean(values, axis=0))


def _predict(wrapped: Wrapped, parts: Sequence[_Part]) -> Prediction | None:
    """Return what a classifier says of the mean of its logits over all windows; other heads speak of one position."""
    if parts[0].logits is None:
        return None
    logits = _mean([part.logits for part in parts])
    return predict(wrapped.model, wrapped.tokenizer, logits, np.zeros(0, dtype=np.int64), "mean")


def _predict_target(wrapped: Wrapped, parts: Sequence[_Part], target: Prediction | None) -> Prediction | None:
    """Return what a classifier says of the target by the mean of its logits; other heads speak of one position."""
    if target is None or parts[0].logits is None:
        return target
    return predict_label(wrapped.model, _mean([part.logits for part in parts]), target.index)


def _notes(text: WindowedText, found: Sequence[Attribution]) -> tuple[str, ...]:
    n_saturated = sum(each.says_little for each in found)
    about_flow = f"flow says little about the output position of {n_saturated} of {len(found)} windows"
    common = [note for note in found[0].notes if all(note in each.notes for each in found)]
    return (
        f"the mean of {len(found)} windows of {len(text.indices[0])} tokens",
        *common,
        *([about_flow] if n_saturated else []),
    )


def _select(whole: Sample, indices: IntArray) -> Sample:
    """Return the sample of some of a text's tokens."""
    keep = np.zeros(len(whole), dtype=bool)
    keep[indices] = True
    return whole.select(keep)

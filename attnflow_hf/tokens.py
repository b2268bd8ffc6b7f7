"""`Tokens`: ids, strings, character offsets, word ids, special and padding masks of one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import numpy as np

from attnflow_hf.errors import ArrayError, BoolArray, IntArray, TokenizerError, check_choice
from attnflow_hf.white_space import word_of_character, words_touched

WORD_SPLITS = ("auto", "tokenizer", "whitespace")
_DTYPES = {"input_ids": np.int64, "special_tokens_mask": np.bool_, "positions": np.int64, "offsets": np.int64}
_WORD_MARKERS = "\u2581\u0120"  # SentencePiece's and byte BPE's sign for a space before a piece


@dataclass(frozen=True)
class Word:
    """A word and the tokens that spell it.

    Attributes:
        text: The word as it stands in the text, or put together from its tokens where the text is not known.
        token_indices: Which tokens of the `Tokens` make it.
        offsets: Its first character and the one behind its last, or `None`.
        is_special: Whether it is a special token that the tokenizer added.
    """

    text: str
    token_indices: tuple[int, ...]
    offsets: tuple[int, int] | None
    is_special: bool


@dataclass(frozen=True, eq=False)
class Tokens:
    """One text as its tokenizer sees it, without padding.

    Attributes:
        input_ids: int64 `[token]`.
        tokens: The tokenizer's own strings, `##` or `Ġ` and all.
        special_tokens_mask: bool `[token]`: the special tokens that the tokenizer added (`[CLS]`, `<s>`), not those
            that were typed into the text.
        positions: int64 `[token]`: the index of each token in the tokenizer's output without padding;
            `0 .. n - 1` until tokens are dropped.
        offsets: int64 `[token, 2]`: first character and the one behind the last, in the text the token comes from;
            `(0, 0)` for special tokens. `None` where the tokenizer cannot tell (Python-only tokenizers).
        word_ids: The tokenizer's own words (restarting in each text of a pair), `None` for special tokens;
            `None` altogether where it cannot tell.
        sequence_ids: Which text of a pair each token comes from, `None` for special tokens; or `None` altogether.
        texts: The text, or the two of a pair; empty where it is not known.
        n_truncated: How many tokens were cut off to fit the model.
        parts: `"encoder"` or `"decoder"` of each token where both were explained together; else empty.
        grid: For an image, how many rows and columns of patches there are; the patches are the tokens that are not
            special, row by row.

    Raises:
        ArrayError: The fields do not all have one length.
    """

    input_ids: IntArray
    tokens: tuple[str, ...]
    special_tokens_mask: BoolArray
    positions: IntArray
    offsets: IntArray | None = None
    word_ids: tuple[int | None, ...] | None = None
    sequence_ids: tuple[int | None, ...] | None = None
    texts: tuple[str, ...] = ()
    n_truncated: int = 0
    parts: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check that all fields are of one length; copy and freeze the arrays."""
        n = len(self.tokens)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("texts", "n_truncated", "grid") or (field.name == "parts" and not value):
                continue
            if value is None and field.default is None:
                continue
            if len(value) != n:
                raise ArrayError(f"there are {n} tokens, but {field.name} has {len(value)} entries")
            if field.name in _DTYPES:
                array: np.ndarray[Any, Any] = np.array(value, dtype=_DTYPES[field.name])
                if array.shape != ((n, 2) if field.name == "offsets" else (n,)):
                    raise ArrayError(f"{field.name} of {n} tokens cannot have shape {array.shape}")
                array.setflags(write=False)
                object.__setattr__(self, field.name, array)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    @classmethod
    def from_ids(cls, input_ids: Sequence[int], tokenizer: Any = None, **known: Any) -> Tokens:
        """Return the tokens of `input_ids` where the tokenizer tells nothing but strings and special tokens.

        Args:
            input_ids: The ids of one text, without padding.
            tokenizer: Any Transformers tokenizer, or `None`: then the ids stand for the tokens.
            known: Further fields of `Tokens`, such as `texts`. Without a `special_tokens_mask`, special tokens that
                were typed in cannot be told from those the tokenizer added; masks and unknown words can.
        """
        ids = [int(i) for i in input_ids]
        strings = [None] * len(ids) if tokenizer is None else tokenizer.convert_ids_to_tokens(ids)
        if "special_tokens_mask" not in known:
            known["special_tokens_mask"] = _special_tokens_mask(ids, tokenizer)
        return cls(
            input_ids=np.array(ids, dtype=np.int64),
            tokens=tuple(str(i if token is None else token) for i, token in zip(ids, strings, strict=True)),
            positions=np.arange(len(ids), dtype=np.int64),
            **known,
        )

    @classmethod
    def from_encoding(cls, encoding: Any, real: BoolArray, **known: Any) -> Tokens:
        """Return the tokens of a fast tokenizer's encoding of one text.

        Args:
            encoding: A `tokenizers.Encoding`, padded or not.
            real: bool `[token]`, false for padding.
            known: Further fields of `Tokens`, such as `texts`.
        """
        keep = np.flatnonzero(real)
        tokens, word_ids, sequence_ids = (
            encoding.tokens,
            encoding.word_ids,
            encoding.sequence_ids,
        )
        return cls(
            input_ids=np.array(encoding.ids, dtype=np.int64)[keep],
            tokens=tuple(tokens[i] for i in keep),
            special_tokens_mask=np.array(encoding.special_tokens_mask, dtype=bool)[keep],
            positions=np.arange(len(keep), dtype=np.int64),
            offsets=np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[keep],
            word_ids=tuple(word_ids[i] for i in keep),
            sequence_ids=tuple(sequence_ids[i] for i in keep),
            **known,
        )

    @classmethod
    def from_names(cls, names: Sequence[str], special: Sequence[bool] | None = None, **known: Any) -> Tokens:
        """Return tokens that are no text: the patches of an image, the frames of a sound; their ids are -1.

        Args:
            names: What each is called.
            special: Which stand for no part of the input, as `[CLS]` of an image; by default none.
            known: Further fields of `Tokens`, such as `grid`.
        """
        mask = np.zeros(len(names), dtype=bool) if special is None else np.array(special, dtype=bool)
        return cls(np.full(len(names), -1), tuple(names), mask, np.arange(len(names)), **known)

    @classmethod
    def joined(cls, encoder: Tokens, decoder: Tokens) -> Tokens:
        """Return the tokens of an encoder and of its decoder as one; each keeps its own positions and texts."""
        n_texts = len(encoder.texts)
        halves = (encoder, decoder)
        offsets = [half.offsets for half in halves]
        known = all(half.offsets is not None and half.word_ids is not None for half in halves)
        sequences = (*(encoder.sequence_ids or ()), *_shifted(decoder.sequence_ids or (), max(n_texts, 1)))
        return cls(
            input_ids=np.concatenate([half.input_ids for half in halves]),
            tokens=encoder.tokens + decoder.tokens,
            special_tokens_mask=np.concatenate([half.special_tokens_mask for half in halves]),
            positions=np.concatenate([half.positions for half in halves]),
            offsets=np.concatenate([each for each in offsets if each is not None]) if known else None,
            word_ids=(*(encoder.word_ids or ()), *(decoder.word_ids or ())) if known else None,
            sequence_ids=sequences if known else None,
            texts=encoder.texts + decoder.texts if known else (),
            n_truncated=encoder.n_truncated + decoder.n_truncated,
            parts=("encoder",) * len(encoder) + ("decoder",) * len(decoder),
        )

    def select(self, keep: BoolArray) -> Tokens:
        """Return the tokens where `keep` `[token]` is true; `positions` tells where they stood."""
        indices = [int(i) for i in np.flatnonzero(keep)]
        return replace(
            self,
            input_ids=self.input_ids[indices],
            tokens=tuple(self.tokens[i] for i in indices),
            special_tokens_mask=self.special_tokens_mask[indices],
            positions=self.positions[indices],
            offsets=None if self.offsets is None else self.offsets[indices],
            word_ids=None if self.word_ids is None else tuple(self.word_ids[i] for i in indices),
            sequence_ids=None if self.sequence_ids is None else tuple(self.sequence_ids[i] for i in indices),
            parts=tuple(self.parts[i] for i in indices) if self.parts else (),
        )

    @property
    def pieces(self) -> tuple[str, ...]:
        """What each token stands for in the text, for display: its characters, or its string without markers."""
        return tuple(t if t.strip(_WORD_MARKERS) == "" else self._text_of([i]) for i, t in enumerate(self.tokens))

    def words(self, split: str = "auto") -> tuple[Word, ...]:
        """Return the words of the text, each with its tokens; every token belongs to just one word.

        Args:
            split: `"whitespace"`: what stands between white space, the same for every tokenizer; a token that spans
                several words joins them, white space alone goes to the word behind it (at the end of the text, to the
                word before). `"tokenizer"`: the tokenizer's own words (BERT parts punctuation, SentencePiece may not
                part at all). `"auto"`: whitespace where text and offsets are known, else the tokenizer's.

        Raises:
            TokenizerError: The tokenizer tells neither offsets nor word ids, or the text is not known.
            OptionError: An unknown `split`.
        """
        check_choice("split", split, WORD_SPLITS)
        by_whitespace = bool(self.texts) and self.offsets is not None
        if split == "whitespace" and not by_whitespace:
            raise TokenizerError("words by white space need the text and its offsets; here one is not known")
        keys = self._whitespace_keys() if by_whitespace and split != "tokenizer" else self._tokenizer_keys()
        groups = [[i for i, _ in run] for _, run in groupby(enumerate(keys), key=lambda pair: pair[1])]
        return tuple(self._word(group) for group in groups)

    def _next_solid(self, index: int) -> int:
        """Return the next token with characters of its own, `index` itself or behind it; `index` where none follows."""
        assert self.offsets is not None
        for i in range(index, len(self)):
            if self.special_tokens_mask[i] or (self.sequence_ids and self.sequence_ids[i] != self.sequence_ids[index]):
                break
            if self.offsets[i, 0] < self.offsets[i, 1]:
                return i
        return index

    def _word(self, group: list[int]) -> Word:
        special = bool(self.special_tokens_mask[group[0]])
        span = None if self.offsets is None or special else self._span(group)
        return Word(self._text_of(group), tuple(group), span, special)

    def _span(self, group: Sequence[int]) -> tuple[int, int]:
        assert self.offsets is not None
        return int(self.offsets[group, 0].min()), int(self.offsets[group, 1].max())

    def _text_of(self, group: Sequence[int]) -> str:
        if self.texts and self.offsets is not None and not self.special_tokens_mask[group[0]]:
            start, stop = self._span(group)
            piece = self._source_text(group[0])[start:stop].strip()
            if piece:
                return piece
        joined = "".join(self.tokens[i].removeprefix("##") or self.tokens[i] for i in group)
        return joined.lstrip(_WORD_MARKERS) or joined

    def _source_text(self, index: int) -> str:
        sequence = self.sequence_ids[index] if self.sequence_ids is not None else 0
        return self.texts[sequence or 0]

    def _tokenizer_keys(self) -> Iterator[tuple[object, ...]]:
        if self.word_ids is None or self.sequence_ids is None:
            raise TokenizerError(
                "this tokenizer tells neither character offsets nor word ids, so its tokens cannot be summed to "
                "words; use a fast tokenizer (tokenizer.is_fast)"
            )
        for i, (word, sequence) in enumerate(zip(self.word_ids, self.sequence_ids, strict=True)):
            yield ("special", i) if word is None else (sequence, word)

    def _whitespace_keys(self) -> Iterator[tuple[object, ...]]:
        words = [word_of_character(text) for text in self.texts]
        last: tuple[object, ...] = ("none",)
        reach = -1
        for i in range(len(self)):
            if self.special_tokens_mask[i]:
                last, reach = ("special", i), -1
                yield last
                continue
            sequence = (self.sequence_ids[i] if self.sequence_ids is not None else 0) or 0
            start, stop = self._span([self._next_solid(i)])
            first, final = words_touched(self.texts[sequence], words[sequence], start, stop)
            if last[0] != sequence or first > reach:
                last = (sequence, first)
            reach = max(reach, final) if last[0] == sequence else final
            yield last


def _shifted(sequence_ids: Sequence[int | None], by: int) -> tuple[int | None, ...]:
    return tuple(None if each is None else each + by for each in sequence_ids)


def _special_tokens_mask(ids: list[int], tokenizer: Any) -> BoolArray:
    """Return which ids are special and such that a tokenizer adds them: never an unknown word, nor a mask."""
    if tokenizer is None:
        return np.zeros(len(ids), dtype=bool)
    known = np.array(tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True), dtype=bool)
    added = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad")}
    typed = {tokenizer.unk_token_id, getattr(tokenizer, "mask_token_id", None)} - added
    return known & ~np.isin(ids, [i for i in typed if i is not None])

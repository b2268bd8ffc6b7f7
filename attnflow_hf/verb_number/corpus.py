"""All examples of a training run, and the sample of them that an epoch sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from attnflow_hf.errors import OptionError
from attnflow_hf.verb_number.examples import Example, cut_prefixes, held_out, inner_examples, read_examples
from attnflow_hf.verb_number.grammar_examples import grammar_examples, unknown_noun_examples
from attnflow_hf.verb_number.settings import Settings

__all__ = ["TEST_FILES", "Corpus", "choose", "load_corpus"]

T = TypeVar("T")

TEST_FILES = ("natural", "att1", "att2", "att3", "att4", "att5")

N_UNKNOWN = 500


@dataclass(frozen=True)
class Corpus:
    """The examples of one training run.

    Attributes:
        always: Drawn in every epoch: the naturally distributed rows and the prefixes cut out of all training rows.
        attractors: The rows with attractors, of which each epoch draws a part.
        grammar: Sentences of the grammar, of which each epoch draws a part.
        cuts: Shorter prefixes of the training rows, without a label.
        validation: Named sets that are only evaluated on, while training.
        test: Named sets that are only evaluated on, once at the end.
    """

    always: Sequence[Example]
    attractors: Sequence[Example]
    grammar: Sequence[Example]
    cuts: Sequence[str]
    validation: dict[str, list[Example]]
    test: dict[str, list[Example]]


def load_corpus(settings: Settings, data: Path) -> Corpus:
    """Return the examples of the folder `data`, with those of the grammar and those cut out of longer prefixes.

    Raises:
        OptionError: A file is missing or malformed, or `settings.natural_rows` is more than there are rows.
    """
    rows = read_examples(data / "train.tsv")
    test = {f"{name}.tsv": read_examples(data / f"{name}.tsv") for name in TEST_FILES}
    if settings.natural_rows > len(rows):
        raise OptionError(f"natural_rows is {settings.natural_rows}, but train.tsv has only {len(rows)} rows")
    natural, natural_out = _divide(rows[: settings.natural_rows], settings.validation_share)
    attractors, attractors_out = _divide(rows[settings.natural_rows :], settings.validation_share)
    known = [example.text for examples in (*test.values(), natural_out, attractors_out) for example in examples]
    inner = inner_examples([*natural, *attractors], exclude=known)
    cuts = cut_prefixes([*natural, *attractors, *inner], exclude=known)
    grammar, grammar_out = grammar_examples(settings.seed, settings.grammar_pool)
    validation = {
        "train.tsv, natural": natural_out,
        "train.tsv, attractors": attractors_out,
        "grammar": grammar_out,
        "grammar, unknown nouns": unknown_noun_examples(settings.seed, N_UNKNOWN),
    }
    return Corpus([*natural, *inner], attractors, grammar, cuts, validation, test)


def choose(options: Sequence[T], n_chosen: int, rng: np.random.Generator) -> list[T]:
    """Return `n_chosen` of the options, or all where there are fewer, in random order."""
    order = rng.permutation(len(options))[:n_chosen]
    return [options[index] for index in order]


def _divide(rows: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Return the rows to train on and those held out."""
    parts: tuple[list[Example], list[Example]] = ([], [])
    for row in rows:
        parts[held_out(row.text, share)].append(row)
    return parts

"""Labeled sentences of the grammar, to train on and held out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from attnflow_hf.verb_number import lexicon
from attnflow_hf.verb_number.examples import Example
from attnflow_hf.verb_number.grammar import Grammar, Phrase

__all__ = ["grammar_examples", "grammar_words", "unknown_noun_examples"]

HELD_OUT_PAIRS = 0.04
N_HELD_OUT = 2000


def grammar_examples(seed: int, n_sentences: int) -> tuple[list[Example], list[Example]]:
    """Return about `n_sentences` different sentences to train on, and up to 2,000 held out.

    A held-out sentence has a pair of neighboring nouns ("key", "cabinet") that is in no sentence of the first list.
    """
    parts: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for phrase in _sentences(Grammar(Random(seed)), n_sentences):
        parts[_has_held_out_pair(phrase.nouns)].setdefault(phrase.text, phrase.number)
    training, held_out = ([Example(label, text) for text, label in part.items()] for part in parts)
    return training, held_out[:N_HELD_OUT]


def unknown_noun_examples(seed: int, n_sentences: int) -> list[Example]:
    """Return sentences all of whose nouns are in no training sentence and not in the vocabulary."""
    grammar = Grammar(Random(seed), lexicon.UNKNOWN_NOUNS)
    found = {phrase.text: phrase.number for phrase in _sentences(grammar, n_sentences) if phrase.nouns}
    return [Example(label, text) for text, label in found.items()]


def grammar_words() -> list[str]:
    """Return the words of the grammar, lower-cased and in a fixed order, which the tokenizer should hold whole."""
    nouns = [form for noun in lexicon.NOUNS for form in (noun, lexicon.plural_of(noun))]
    verbs = [form for verb in lexicon.VERBS for form in (verb, lexicon.third_person_of(verb))]
    words = (*nouns, *verbs, *lexicon.MASS_NOUNS, *lexicon.NAMES, *lexicon.ADJECTIVES, *lexicon.ADVERBS)
    return list(dict.fromkeys(word.lower() for word in words))


def _sentences(grammar: Grammar, n_sentences: int) -> Iterator[Phrase]:
    return (grammar.sentence() for _ in range(n_sentences))


def _has_held_out_pair(nouns: Sequence[str]) -> bool:
    pairs = (" ".join(pair).encode() for pair in pairwise(nouns))
    return any(zlib.crc32(pair) % 10_000 < HELD_OUT_PAIRS * 10_000 for pair in pairs)

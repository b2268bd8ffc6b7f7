"""A small grammar of subject-verb agreement: everyday sentences up to the verb, with the number of that verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from attnflow_hf.verb_number import lexicon

__all__ = ["Grammar", "Phrase"]

T = TypeVar("T")

SINGULAR, PLURAL = 0, 1


@dataclass(frozen=True)
class Phrase:
    """Words, the number that their head asks of a verb (0 singular, 1 plural), and the nouns in them."""

    text: str
    number: int
    nouns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grammar:
    """Writes sentences from a lexicon; the same `random` state gives the same sentences.

    Attributes:
        random: The source of all choices.
        nouns: The singular forms of the nouns to use.
    """

    random: Random
    nouns: Sequence[str] = field(default=lexicon.NOUNS)

    def sentence(self) -> Phrase:
        """Return a new sentence, cut off before its verb."""
        subject = self._weighted(SUBJECTS)(self)
        sentence = self._weighted(FRAMES)(self, subject)
        if self._chance(0.08):
            sentence = replace(sentence, text=f"{sentence.text} {self._pick(lexicon.ADVERBS)}")
        if self._chance(0.5):
            sentence = replace(sentence, text=sentence.text[0].upper() + sentence.text[1:])
        return sentence

    # Noun phrases

    def simple(self, number: int | None = None) -> Phrase:
        """Return a determiner, perhaps adjectives, and a noun: "the old key", "many keys", "zebras"."""
        number = self._number() if number is None else number
        noun = self._noun(number)
        words = " ".join((*self._adjectives(), noun.text))
        if number == PLURAL and self._chance(0.12):
            return replace(noun, text=words)
        return replace(noun, text=_with_determiner(self._pick(lexicon.DETERMINERS[number]), words))

    def named(self) -> Phrase:
        """Return a name: "Anna"."""
        return Phrase(self._pick(lexicon.NAMES), SINGULAR)

    def pronoun(self) -> Phrase:
        """Return a pronoun: "they"."""
        number = self._number()
        return Phrase(self._pick(lexicon.PRONOUNS[number]), number)

    def mass(self) -> Phrase:
        """Return a mass noun: "the water", "much furniture"."""
        determiner = self._pick(("the ", "the ", "some ", "much ", "this ", "my ", "all the ", "", ""))
        return Phrase(determiner + " ".join((*self._adjectives(), self._pick(lexicon.MASS_NOUNS))), SINGULAR)

    def compound(self) -> Phrase:
        """Return two nouns of which the second is the head: "the school buses"."""
        first, head = self._noun(SINGULAR), self._noun(self._number())
        words = f"{first.text} {head.text}"
        return Phrase(
            _with_determiner(self._pick(lexicon.DETERMINERS[head.number]), words),
            head.number,
            (*first.nouns, *head.nouns),
        )

    def possessive(self) -> Phrase:
        """Return an owner and what is owned: "the boy's friends", "the boys' mother"."""
        owner = self.named() if self._chance(0.2) else self.simple()
        owned = self._noun(self._number())
        mark = "'" if owner.number == PLURAL and owner.text.endswith("s") else "'s"
        words = " ".join((*self._adjectives(), owned.text))
        return Phrase(f"{owner.text}{mark} {words}", owned.number, (*owner.nouns, *owned.nouns))

    def quantified(self) -> Phrase:
        """Return a quantifier that decides the number: "each of the boys", "many of them"."""
        number = self._number()
        if self._chance(0.15):
            return Phrase(
                f"{self._pick(lexicon.QUANTIFIERS[number])} of {self._pick(('them', 'us', 'these', 'those'))}", number
            )
        noun = self._noun(PLURAL)
        determiner = self._pick(("the", "the", "these", "those", "my", "our", "their"))
        words = " ".join((*self._adjectives(), noun.text))
        return Phrase(f"{self._pick(lexicon.QUANTIFIERS[number])} of {determiner} {words}", number, noun.nouns)

    def measured(self) -> Phrase:
        """Return an amount: "the number of boys" is singular, "a number of boys" and "a lot of boys" are not."""
        noun = self._noun(PLURAL)
        words = " ".join((*self._adjectives(), noun.text))
        options = (("the number of", SINGULAR), ("a number of", PLURAL), ("a lot of", PLURAL), ("lots of", PLURAL))
        start, number = self._pick(options)
        if start.endswith("lot of") and self._chance(0.4):
            return Phrase(f"{start} {self._pick(lexicon.MASS_NOUNS)}", SINGULAR)
        return Phrase(f"{start} {words}", number, noun.nouns)

    # Noun phrases with another one inside

    def with_preposition(self) -> Phrase:
        """Return a head and one or two prepositional phrases: "the key to the cabinets"."""
        head = self._head()
        phrase = self._append(head, self._pick(lexicon.PREPOSITIONS), self._inner())
        if self._chance(0.25):
            phrase = self._append(phrase, self._pick(lexicon.PREPOSITIONS), self._inner())
        return phrase

    def with_addition(self) -> Phrase:
        """Return a head and an addition that does not change its number: "the girl , together with her friends ,"."""
        comma = self._pick((" ,", " ,", ""))
        phrase = self._append(self._head(), f"{comma} {self._pick(lexicon.ADDITIONS)}".strip(), self._inner())
        return replace(phrase, text=(phrase.text + comma).replace(" ,", ","))

    def with_subject_clause(self) -> Phrase:
        """Return a head and a clause whose subject it is: "the boys who like the dog"."""
        head = self.simple()
        joint = self._pick(("who", "that", "that", "which", ", who", ", which"))
        phrase = self._append(head, f"{joint} {self._verb(head.number)}", self._inner())
        return _close(phrase, joint)

    def with_object_clause(self) -> Phrase:
        """Return a head and a clause whose object it is: "the authors that the critic likes"."""
        joint = self._pick(("that ", "that ", "who ", "which ", "", ""))
        subject = self.pronoun_subject() if self._chance(0.25) else self._inner()
        phrase = self._append(self.simple(), joint.strip(), subject)
        return replace(phrase, text=f"{phrase.text} {self._verb(subject.number)}")

    def with_participle(self) -> Phrase:
        """Return a head and a participle: "the boys standing near the door"."""
        participle = self._pick(
            ("standing near", "living in", "sitting on", "made by", "used by", "seen by", "found in", "given to")
        )
        return self._append(self.simple(), participle, self._inner())

    def coordinated(self) -> Phrase:
        """Return two phrases joined by "and", which are plural together: "my friend and my brother"."""
        makers: tuple[Callable[[Grammar], Phrase], ...] = (
            Grammar.simple,
            Grammar.simple,
            Grammar.named,
            Grammar.possessive,
        )
        first, second = self._pick(makers)(self), self._pick(makers)(self)
        return replace(self._append(first, "and", second), number=PLURAL)

    def activity(self) -> Phrase:
        """Return an activity, which is singular: "reading the letters"."""
        verb = self._pick(
            ("reading", "watching", "buying", "selling", "painting", "washing", "feeding", "carrying", "finding")
        )
        inner = self._inner()
        return Phrase(f"{verb} {inner.text}", SINGULAR, inner.nouns)

    def pronoun_subject(self) -> Phrase:
        """Return a personal pronoun: "she"."""
        number = self._number()
        return Phrase(self._pick(("he she it".split(), "they we you i".split())[number]), number)

    # Frames around the subject

    def plain(self, subject: Phrase) -> Phrase:
        """Return the subject alone."""
        return subject

    def opened(self, subject: Phrase) -> Phrase:
        """Return the subject after an opening: "in the morning , the keys"."""
        return replace(subject, text=f"{self._pick(lexicon.OPENINGS)} {subject.text}")

    def after_clause(self, subject: Phrase) -> Phrase:
        """Return the subject after a whole clause: "when the boy sleeps , the dogs"."""
        other = self._inner()
        clause = f"{other.text} {self._verb(other.number)} {self._inner().text}"
        start, joint = self._pick(
            (("when ", ","), ("if ", ","), ("because ", ","), ("", "but"), ("", "and"), ("", ", and"), ("", "because"))
        )
        return replace(
            subject,
            text=f"{start}{clause} {joint} {subject.text}".replace(" ,", ","),
            nouns=(*other.nouns, *subject.nouns),
        )

    def embedded(self, subject: Phrase) -> Phrase:
        """Return the subject of an embedded clause: "the teacher says that the students"."""
        other = self._inner()
        verb = self._pick(
            (("says", "say"), ("thinks", "think"), ("knows", "know"), ("said", "said"), ("believes", "believe"))
        )
        text = f"{other.text} {verb[other.number]} {self._pick(('that ', 'that ', ''))}{subject.text}"
        return replace(subject, text=text, nouns=(*other.nouns, *subject.nouns))

    def second_verb(self, subject: Phrase) -> Phrase:
        """Return the subject and its first verb, before a second one: "the dog likes the cats and"."""
        inner = self._inner()
        text = f"{subject.text} {self._verb(subject.number)} {inner.text} {self._pick(('and', 'but', 'and also'))}"
        return replace(subject, text=text, nouns=(*subject.nouns, *inner.nouns))

    # Choices

    def _head(self) -> Phrase:
        if self._chance(0.08):
            return Phrase(self._pick(lexicon.INDEFINITES), SINGULAR)
        return self._weighted(
            ((Grammar.simple, 8), (Grammar.compound, 1), (Grammar.possessive, 1), (Grammar.quantified, 0.5))
        )(self)

    def _inner(self) -> Phrase:
        makers = (
            (Grammar.simple, 8),
            (Grammar.named, 1),
            (Grammar.mass, 0.7),
            (Grammar.possessive, 0.7),
            (Grammar.compound, 0.5),
        )
        return self._weighted(makers)(self)

    def _append(self, head: Phrase, joint: str, inner: Phrase) -> Phrase:
        return Phrase(
            " ".join(filter(None, (head.text, joint, inner.text))).replace(" ,", ","),
            head.number,
            (*head.nouns, *inner.nouns),
        )

    def _noun(self, number: int) -> Phrase:
        noun = self._pick(self.nouns)
        return Phrase(lexicon.plural_of(noun) if number == PLURAL else noun, number, (noun,))

    def _verb(self, number: int) -> str:
        verb = self._pick(lexicon.VERBS)
        return verb if number == PLURAL else lexicon.third_person_of(verb)

    def _adjectives(self) -> list[str]:
        n_adjectives = self.random.choices((0, 1, 2), (70, 25, 5))[0]
        return [self._pick(lexicon.ADJECTIVES) for _ in range(n_adjectives)]

    def _number(self) -> int:
        return self._pick((SINGULAR, PLURAL))

    def _pick(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def _weighted(self, options: Sequence[tuple[T, float]]) -> T:
        return self.random.choices([option for option, _ in options], [weight for _, weight in options])[0]

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability


SUBJECTS: tuple[tuple[Callable[[Grammar], Phrase], float], ...] = (
    (Grammar.simple, 12), (Grammar.named, 1), (Grammar.pronoun, 1.5), (Grammar.mass, 1.5), (Grammar.compound, 4),
    (Grammar.possessive, 6), (Grammar.quantified, 5), (Grammar.measured, 2), (Grammar.with_preposition, 28),
    (Grammar.with_addition, 3), (Grammar.with_subject_clause, 9), (Grammar.with_object_clause, 9),
    (Grammar.with_participle, 3), (Grammar.coordinated, 9), (Grammar.activity, 2),
)  # fmt: skip

FRAMES: tuple[tuple[Callable[[Grammar, Phrase], Phrase], float], ...] = (
    (Grammar.plain, 54), (Grammar.opened, 14), (Grammar.after_clause, 14), (Grammar.embedded, 10),
    (Grammar.second_verb, 8),
)  # fmt: skip


def _with_determiner(determiner: str, words: str) -> str:
    sounds_like_y_or_w = words.startswith(("uni", "use", "one"))
    with_an = words.startswith("hour") or (words[0] in "aeiou" and not sounds_like_y_or_w)
    return f"{'an' if determiner == 'a' and with_an else determiner} {words}"


def _close(phrase: Phrase, joint: str) -> Phrase:
    """Return the phrase with a comma after a clause that a comma opened."""
    return replace(phrase, text=phrase.text + ",") if joint.startswith(",") else phrase

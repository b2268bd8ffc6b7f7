"""`PronounSentence`: a masked pronoun and the two it may stand for; `PronounScores`: whom model and attention name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnflow_hf.errors import FloatArray, OptionError, TextError, check_choice
from attnflow_hf.evaluation.summary import Measured

MASK = "[MASK]"
GENDERS = ("female", "male")
CANDIDATES = ("first", "second")
METRICS = ("prediction", "referent")
NO_GENDER = "neither candidate has a gender"
SAME_GENDER = "both candidates have the same gender"
UNDECIDED = "both pronouns are as probable"
NO_REFERENT = "it is not known who the pronoun stands for"
CHANCE = 0.5
"""How often attributions that know nothing agree with any choice of one of two, ties counted as a half."""
Choice = tuple[int | None, str]
"""One of the two candidates, 0 or 1, and an empty reason; or `None`, and the reason why it is none of them."""
_Pair = tuple[str | None, str | None]


@dataclass(frozen=True)
class PronounSentence:
    """A sentence with a masked pronoun, and two words that it may stand for (Abnar & Zuidema 2020, figure 4).

    Attributes:
        text: The sentence, `[MASK]` in the pronoun's place whatever the model's own mask is.
        candidates: The two, each a word, or words, that stand in the text once.
        genders: `"male"` or `"female"`, by name or by custom; `None` for one that has none (`the customer`).
        pronouns: The male and the female form that fit the place: `("his", "her")`, `("he", "she")`, `("him", "her")`.
        referent: Which of the two the pronoun stands for, `"first"` or `"second"`; `None` where that is not known.
        id: What the sentence is called.

    Raises:
        OptionError: A gender, a referent or a pair is none.
        TextError: There is not one mask in the text, or a candidate does not stand in it once.

    Example:
        >>> sentence = PronounSentence("Mary convinced John of [MASK] love.", ("Mary", "John"), ("female", "male"))
        >>> sentence.named(p_male=0.2, p_female=0.6)
        (0, '')
    """

    text: str
    candidates: tuple[str, str]
    genders: _Pair
    pronouns: tuple[str, str] = ("his", "her")
    referent: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Check that all is there, and each once."""
        for name in ("candidates", "genders", "pronouns"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise OptionError(f"{name} must be a pair (a tuple of two), got {pair!r}")
        for gender in self.genders:
            if gender is not None:
                check_choice("gender", gender, GENDERS)
        if self.referent is not None:
            check_choice("referent", self.referent, CANDIDATES)
        if not isinstance(self.text, str) or self.text.count(MASK) != 1:
            raise TextError(f"a text with one {MASK} is needed, in the pronoun's place, got {self.text!r}")
        self.spans(MASK)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> PronounSentence:
        """Return the sentence of a row such as `to_row` gives.

        Raises:
            OptionError: As the class; or a column is missing, or `pronouns` are not two.
            TextError: As the class.
        """
        lacking = [name for name in ("text", "first", "second", "pronouns") if row.get(name) is None]
        if lacking:
            raise OptionError(f"the row has no {', '.join(lacking)}; it has {', '.join(map(str, row))}")
        return cls(
            row["text"],
            (row["first"], row["second"]),
            (row.get("first_gender"), row.get("second_gender")),
            tuple(str(row["pronouns"]).split("/")),  # type: ignore[arg-type]  # the class checks that there are two
            row.get("referent"),
            str(row.get("id") or ""),
        )

    def to_row(self) -> dict[str, str | None]:
        """Return the sentence as a row of a data set: what `evaluate_pronouns` reads, and a CSV file can hold."""
        (first, second), (first_gender, second_gender) = self.candidates, self.genders
        return {
            "id": self.id,
            "text": self.text,
            "first": first,
            "second": second,
            "first_gender": first_gender,
            "second_gender": second_gender,
            "pronouns": "/".join(self.pronouns),
            "referent": self.referent,
        }

    def with_word(self, word: str) -> str:
        """Return the text with a word, or a model's own mask, in the pronoun's place."""
        return self.text.replace(MASK, word)

    def spans(self, mask: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the first character of each candidate and the one behind its last, in the text with such a mask.

        Raises:
            TextError: One does not stand there, or several times.
        """
        text = self.with_word(mask)
        first, second = (_span(text, candidate) for candidate in self.candidates)
        return first, second

    def named(self, *, p_male: float, p_female: float) -> Choice:
        """Return which candidate the model's probabilities of the two pronouns name, or why none.

        The one whose gender is that of the more probable pronoun. Where only one of the two has a gender, the other
        pronoun names the other: it cannot stand for the one. (That is how the paper's author and Sara are read: `her`
        names Sara, `his` the author. It is the weaker case, as `her` could be the author's too.)

        Args:
            p_male: The probability of the male form.
            p_female: That of the female one.

        Returns:
            0 or 1, and an empty reason; or `None`, and the reason.
        """
        if self.genders == (None, None):
            return None, NO_GENDER
        if self.genders[0] == self.genders[1]:
            return None, SAME_GENDER
        if p_male == p_female:
            return None, UNDECIDED
        gender = "male" if p_male > p_female else "female"
        if gender in self.genders:
            return self.genders.index(gender), ""
        return self.genders.index(None), ""


@dataclass(frozen=True, eq=False)
class PronounScores:
    """What a model and its attention say of one sentence.

    Attributes:
        sentence: The sentence.
        p_male: The probability of the male form in the mask's place, among all tokens.
        p_female: That of the female form.
        mask_position: Which token the mask is: the output position that is explained.
        scores: float64 `[layer, candidate]` of each method: the attributions from the mask to each candidate, those of
            the tokens that spell it summed. They are not normalized.
        named: Which candidate the model names, 0 or 1; `None` where it names none.
        reason: Why it names none.
    """

    sentence: PronounSentence
    p_male: float
    p_female: float
    mask_position: int
    scores: Mapping[str, FloatArray]
    named: int | None
    reason: str = ""

    @property
    def share_male(self) -> float:
        """The male form's share of both probabilities: the bar of the paper's figure."""
        return self.p_male / (self.p_male + self.p_female)

    @property
    def choices(self) -> dict[str, Choice]:
        """Which candidate is right, by metric: the one that the model names, or that the pronoun stands for."""
        referent = self.sentence.referent
        known: Choice = (None, NO_REFERENT) if referent is None else (CANDIDATES.index(referent), "")
        return {"prediction": (self.named, self.reason), "referent": known}

    def agreement(self, method: str, metric: str = "prediction", *, decimals: int | None = 9) -> list[Measured]:
        """Return for each layer whether the attributions name the right candidate.

        Args:
            method: One of those of `scores`.
            metric: Which candidate is right: `"prediction"`, the one that the model names; or `"referent"`, the one
                that the pronoun does stand for. (There the model plays no part, and attributions can be true to one
                that errs.)
            decimals: Scores are rounded to so many decimals first, so that what differs in the last bits is tied.

        Returns:
            1 where that candidate has the higher score, 0 where the other has, a half where they are tied (what random
            order would give); or why it is none of the two.
        """
        check_choice("method", method, self.scores)
        check_choice("metric", metric, METRICS)
        return agreement_of(self.scores[method], self.choices[metric], decimals)


def agreement_of(scores: FloatArray, choice: Choice, decimals: int | None) -> list[Measured]:
    """Return for each layer of scores `[layer, candidate]` whether they name a candidate; see `PronounScores`."""
    named, reason = choice
    if named is None:
        return [Measured(None, reason)] * len(scores)
    rounded = scores if decimals is None else scores.round(decimals)
    lead = rounded[:, named] - rounded[:, 1 - named]
    return [Measured(CHANCE if each == 0 else float(each > 0)) for each in lead]


def _span(text: str, candidate: str) -> tuple[int, int]:
    found = [each.span() for each in re.finditer(rf"(?<!\w){re.escape(str(candidate))}(?!\w)", text)]
    if len(found) != 1:
        raise TextError(
            f"the candidate {candidate!r} must stand in the text once, but stands {len(found)} times: {text!r}"
        )
    return found[0]

"""Reader of WinoGender (Rudinger et al. 2018): an occupation, another participant, and a pronoun for one of them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from attnflow_hf.errors import DatasetError, FileFormatError, OptionError, check_choice
from attnflow_hf.evaluation.pronouns import MASK, PronounSentence

SHARES = ("bergsma", "bls")
_FORMS = {"NOM": ("he", "she"), "POSS": ("his", "her"), "ACC": ("him", "her")}
_REFERENTS = {"0": "first", "1": "second"}


def read_winogender(
    templates: str | os.PathLike[str],
    statistics: str | os.PathLike[str] | None = None,
    *,
    share: str = "bls",
    definite: float = 0.7,
) -> list[PronounSentence]:
    """Return the sentences of WinoGender with their pronoun masked.

    Of each template there is one with the participant as a word, and one with `someone` in its place. The first
    candidate is the occupation, the second the participant, who has no gender. An occupation has one where at least a
    share `definite` of the people who have it are of that gender; the data set tells that twice: by the statistics of
    the US Bureau of Labor (2015/16), and of English texts (Bergsma & Lin 2006). So of a `nurse` and a `patient`, `she`
    names the nurse and `he` the patient. That is custom, not grammar: it measures models by their stereotypes, and one
    that says `he` of everybody names one by the occupation alone. The referent that the data set tells does not.

    Args:
        templates: `templates.tsv` of the data set.
        statistics: `occupations-stats.tsv` beside it; by default the file of that name in the same folder.
        share: `"bls"` or `"bergsma"`.
        definite: A share above 0.5, up to 1.

    Raises:
        DatasetError: A file is not there.
        FileFormatError: It is not what it should be.
        OptionError: An unknown share, or one that is not above a half.
    """
    check_choice("share", share, SHARES)
    if not 0.5 < definite <= 1:
        raise OptionError(f"definite must lie above 0.5, up to 1, got {definite!r}")
    beside = Path(templates).parent / "occupations-stats.tsv" if statistics is None else statistics
    column = f"{share}_pct_female"
    women = {row["occupation"]: row[column] for row in _rows(beside, ("occupation", column))}
    genders = {occupation: _gender(percent, definite, beside) for occupation, percent in women.items()}
    names = ("occupation(0)", "other-participant(1)", "answer", "sentence")
    return [each for row in _rows(templates, names) for each in _sentences(row, genders, templates)]


def _sentences(
    row: Mapping[str, str], genders: Mapping[str, str | None], path: str | os.PathLike[str]
) -> Iterator[PronounSentence]:
    occupation, participant, answer, text = row.values()
    form = next((form for form in _FORMS if f"${form}_PRONOUN" in text), None)
    if form is None or answer not in _REFERENTS or occupation not in genders:
        raise FileFormatError(
            f"{os.fspath(path)!r}: a template needs one of $NOM_PRONOUN, $POSS_PRONOUN and $ACC_PRONOUN, an answer 0 "
            f"or 1, and an occupation whose statistics are known; got {dict(row)}"
        )
    masked = text.replace(f"${form}_PRONOUN", MASK).replace("$OCCUPATION", occupation)
    named = {
        participant: masked.replace("$PARTICIPANT", participant),
        "someone": re.sub(r"\b([Tt]he|[Aa]n?) \$PARTICIPANT", _someone, masked),
    }
    for name, sentence in named.items():
        second = name if name in sentence else name.capitalize()
        yield PronounSentence(
            sentence,
            (occupation, second),
            (genders[occupation], None),
            _FORMS[form],
            _REFERENTS[answer],
            f"{occupation}.{name}.{answer}",
        )


def _someone(article: re.Match[str]) -> str:
    return "Someone" if article[1][0].isupper() else "someone"


def _gender(percent: str, definite: float, path: str | os.PathLike[str]) -> str | None:
    try:
        share = float(percent) / 100
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(path)!r}: a percentage is needed, got {percent!r}") from error
    if share >= definite:
        return "female"
    return "male" if 1 - share >= definite else None


def _rows(path: str | os.PathLike[str], columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return these columns of a file of tab-separated values."""
    if not Path(path).is_file():
        raise DatasetError(f"there is no file {os.fspath(path)!r}; give the path of the data set on your disk")
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return [{name: row[name] or "" for name in columns} for row in rows]
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise FileFormatError(
            f"{os.fspath(path)!r} must be tab-separated, with {', '.join(columns)}: {error}"
        ) from error

"""`Grid`: a table of text cells, printed as Markdown or as LaTeX; numbers with sensible digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "-"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: As it is read.
        is_best: Whether it is marked as the best of its column.
        is_number: Whether it stands to the right.
    """

    text: str
    is_best: bool = False
    is_number: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of text cells.

    Attributes:
        header: The names of the columns.
        body: Rows of as many cells.
    """

    header: tuple[str, ...]
    body: tuple[tuple[Cell, ...], ...]

    def to_markdown(self) -> str:
        """Return a table in GitHub's Markdown; the best are bold."""
        marks = ["--:" if self._is_right(index) else "---" for index in range(len(self.header))]
        rows = [
            [f"**{_plain(cell.text)}**" if cell.is_best else _plain(cell.text) for cell in row] for row in self.body
        ]
        lines = [[_plain(name) for name in self.header], marks, *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_latex(self) -> str:
        r"""Return a `tabular` with the rules of the package booktabs; all text is escaped, the best are bold."""
        columns = "".join("r" if self._is_right(index) else "l" for index in range(len(self.header)))
        rows = [[_bold(cell) for cell in row] for row in self.body]
        lines = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row([escape(name) for name in self.header]),
            r"\midrule",
            *map(_latex_row, rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _is_right(self, index: int) -> bool:
        cells = [row[index] for row in self.body if row[index].text != MISSING]
        return bool(cells) and all(cell.is_number for cell in cells)


def escape(text: str) -> str:
    """Return `text` with the characters that LaTeX would take for commands written out."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def n_decimals(numbers: Sequence[float]) -> int:
    """Return how many decimals show three digits of the largest number: three below 10, none from 1,000 on."""
    largest = max((abs(number) for number in numbers), default=0.0)
    return next((decimals for limit, decimals in ((10, 3), (100, 2), (1000, 1)) if largest < limit), 0)


def print_number(number: float, decimals: int) -> str:
    """Return a number with so many decimals, commas between thousands, and no minus before zero."""
    text = f"{number:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _bold(cell: Cell) -> str:
    return rf"\textbf{{{escape(cell.text)}}}" if cell.is_best else escape(cell.text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"

"""`EvaluationReport`: what an evaluation found, as tables to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnflow_hf.evaluation.table import ResultTable
from attnflow_hf.measured_run import RunReport
from attnflow_hf.storage import write_text

_COSTS = ("milliseconds", "peak_memory_mb")


_DIFFERENCE = {"value": "difference", "spread": "interval"}


@dataclass(frozen=True)
class Layout:
    """How a results table is turned to be read.

    Attributes:
        rows: The columns whose values name a printed row.
        columns: The column whose values stand side by side.
        spread: What stands behind the mean.
        best: What is marked.
        parts: The columns whose values have a table each.
        title: Its title, of their values.
    """

    rows: tuple[str, ...]
    columns: str
    spread: str
    best: str = "none"
    parts: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        run: What was done, as `run_dataset` tells it.
        table: The mean of each number over texts for each method (or other scorer) and layer, with its standard
            deviation, a bootstrap interval, and how many texts have no value; what its scores cost a text. Also in the
            folder, as `results.json`, `results.md` and `results.tex`.
        layout: How it is turned to be read.
    """

    run: RunReport
    table: ResultTable
    layout: Layout

    def to_markdown(self) -> str:
        """Return the tables to read in GitHub's Markdown, and what stands behind the costs."""
        return self._rendered("to_markdown", "### {}\n\n{}", "")

    def to_latex(self) -> str:
        """Return the same for LaTeX and its package booktabs."""
        return self._rendered("to_latex", "% {}\n{}", "% ")

    def __str__(self) -> str:
        """Return the run's numbers, then the tables."""
        return f"{self.run}\n\n{self.to_markdown()}"

    def save(self, folder: Path) -> None:
        """Write `results.json`, `results.md` and `results.tex`."""
        write_text(folder / "results.json", self.table.to_json() + "\n")
        write_text(folder / "results.md", self.to_markdown() + "\n")
        write_text(folder / "results.tex", self.to_latex() + "\n")

    def _rendered(self, form: str, titled: str, remark: str) -> str:
        layout, names = self.layout, self.table.data.column_names
        costs = [name for name in _COSTS if name in names]
        rendered = []
        for title, part in self._parts():
            how = {"rows": layout.rows, "columns": layout.columns, "spread": layout.spread, "best": layout.best}
            text = getattr(part, form)(**how, beside=costs)
            rendered.append(titled.format(title, text))
        parts = [*rendered, *self._differences(form, titled), *(remark + line for line in self._about_costs())]
        return "\n\n".join(part.rstrip("\n") for part in parts)

    def _about_costs(self) -> list[str]:
        """Return what stands behind the costs, if there are any."""
        known = list(dict.fromkeys(row["memory"] for row in self.table.rows if row.get("memory") is not None))
        what = "milliseconds a text and peak of memory are those of the scores alone, each by itself, on the first"
        return [f"{what} {self.table.config['cost_rows']} texts; memory: {'; '.join(known)}"] if known else []

    def _parts(self) -> Iterator[tuple[str, ResultTable]]:
        """Yield each table and its title."""
        table = self.table
        if table.rows and "bin" in table.data.column_names:
            table = table.where(bin=None)
        for values in dict.fromkeys(tuple(row[name] for name in self.layout.parts) for row in table.rows):
            own = dict(zip(self.layout.parts, values, strict=True))
            yield self.layout.title.format(**own), table.where(**own)

    def _differences(self, form: str, titled: str) -> list[str]:
        """Return the tables of paired differences, if there are any."""
        found = []
        for title, part in self._parts():
            rows = [row for row in part.rows if row.get("compared_with") is not None]
            if not rows:
                continue
            bases = list(dict.fromkeys(row["compared_with"] for row in rows))
            named = f"less {bases[0]}" if len(bases) == 1 else "less that of compared_with"
            how = {"rows": self.layout.rows, "columns": self.layout.columns}
            whole = f"{title}; {named}, text by text" if self.layout.parts else f"{named}, text by text"
            found.append(titled.format(whole, getattr(ResultTable.from_rows(rows), form)(**how, **_DIFFERENCE)))
        return found

"""`Page`: texts with their attributions as one HTML file that a reader can work with, and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import FileFormatError, OptionError
from attnflow_hf.html import page_data, render_output, render_page
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.packing import unpack
from attnflow_hf.page_flows import chosen_flows
from attnflow_hf.page_sheet import FORMAT, VERSION, Sheet, SheetGraph, page_values, render_static
from attnflow_hf.storage import write_text

MAX_GRAPH_SIZE = 1_000_000
"""Up to so many edges (4 bytes each, a third more in the file) a page holds the graph and finds any flow in it."""

_ARRAYS = ("scores", "sink_scores", "standard_errors")


@dataclass(frozen=True, eq=False)
class Page:
    """Texts with their attributions, as one HTML file without network; in a notebook it shows itself.

    A reader can choose method and layer, click an output token to see what it drew on and an input token to see where
    it went, and follow flows through the layer graph. `Page.of` makes one of attributions, `Attributor.page` of a text.

    Attributes:
        sheets: One for each text.
        title: Of the window, and above the texts.
        lead: A line below the title.
        shows_words: Whether words are shown first instead of tokens.

    Example:
        >>> page = attributor.page("the keys to the cabinet")  # doctest: +SKIP
        >>> page.save("page.html")  # doctest: +SKIP
        >>> Page.load("page.html").attributions[0].scores.shape  # doctest: +SKIP
        (6, 6, 6)
    """

    sheets: tuple[Sheet, ...]
    title: str = ""
    lead: str = ""
    shows_words: bool = False

    @classmethod
    def of(
        cls,
        attributions: Attribution | Sequence[Attribution] | Mapping[str, Attribution],
        *,
        graph: LayerGraph | None = None,
        title: str | None = None,
    ) -> Page:
        """Return a page of one text.

        Args:
            attributions: One; or several of the same text, such as `Attributor.compare` or `generate` returns: other
                methods, settings, layers and output positions become choices on the page.
            graph: The text's layer graph, whose nodes are its tokens. Up to `MAX_GRAPH_SIZE` edges it is stored in
                the page, in float32, and the page finds the flow of any pair; of a larger one the flows to the five
                strongest input tokens of each layer are.
            title: By default what the first attribution says of itself.

        Raises:
            OptionError: The attributions are of several texts, or there are none.
            ArrayError: The graph does not fit the text.
        """
        several = list(_several(attributions))
        if not several:
            raise OptionError("a page needs at least one attribution")
        sheet = Sheet(tuple(several))
        if graph is not None:
            nodes = tuple(sheet.tokens.positions.tolist())
            sheet = with_graph(sheet, SheetGraph(graph, nodes, 0, tuple(range(graph.n_layers))))
        return cls((sheet,), several[0].model_name if title is None else title)

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """The attributions of all texts."""
        return tuple(each for sheet in self.sheets for each in sheet.attributions if isinstance(each, Attribution))

    def to_html(self) -> str:
        """Return the page: one HTML file that needs no network."""
        return render_page(self._values(), render_static(self.sheets, lead=self.lead), title=self.title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which appears whole or not at all.

        Args:
            path: The file; it is replaced if it is there.
        """
        write_text(Path(path), self.to_html())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Page:
        """Return the page that `save` wrote, or the JSON file that its button saved; scores are equal to the last bit.

        Raises:
            FileFormatError: The file is neither.
        """
        try:
            return cls.from_values(page_data(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)!r} is no page of attnflow_hf: {error}") from error

    @classmethod
    def from_values(cls, values: Any) -> Page:
        """Return the page whose data `values` are, as its file holds them.

        Raises:
            FileFormatError: These are not the values of a page, or of another version.
        """
        if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (FORMAT, VERSION):
            raise FileFormatError(f"there is no {FORMAT} of version {VERSION} in it")
        try:
            sheets = tuple(_sheet(sheet) for sheet in values["sheets"])
            return cls(sheets, values["title"], values["lead"], values["shows_words"])
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"this page is damaged: {error!r}") from error

    def _values(self) -> dict[str, Any]:
        return page_values(self.sheets, title=self.title, lead=self.lead, shows_words=self.shows_words)

    def _repr_html_(self) -> str:
        return render_output(self._values(), render_static(self.sheets, lead=self.lead))

    def __repr__(self) -> str:
        """Return the title and the number of texts."""
        return f"Page({self.title!r}, {len(self.sheets)} texts)"


def with_graph(sheet: Sheet, graph: SheetGraph) -> Sheet:
    """Return the sheet with a graph that its page can search, or with chosen flows where that is too large."""
    if graph.graph.weights.size <= MAX_GRAPH_SIZE:
        return replace(sheet, graph=graph)
    return replace(sheet, flows=chosen_flows(graph, _position(sheet)))


def _position(sheet: Sheet) -> int:
    """Return the output position that is shown first."""
    if sheet.start[0] is not None:
        return sheet.start[0]
    known = [each.output_position for each in sheet.attributions if not isinstance(each.output_position, str)]
    return int(known[0]) if known else int(sheet.tokens.positions[-1])


def _several(attributions: Any) -> Iterable[Attribution]:
    if isinstance(attributions, Attribution):
        return [attributions]
    several = list(attributions.values() if isinstance(attributions, Mapping) else attributions)
    for each in several:
        if not isinstance(each, Attribution):
            raise OptionError(f"a page is made of attributions, got {type(each).__name__}")
    return several


def _sheet(values: Mapping[str, Any]) -> Sheet:
    """Return the sheet whose plain values are given."""
    attributions = []
    for plain in values["attributions"]:
        arrays = {name: unpack(plain[name]) for name in _ARRAYS if plain[name] is not None}
        attributions.append(Attribution.from_dict({**plain, **arrays}))
    graph, start = values["graph"], values["start"]
    return Sheet(
        attributions=tuple(attributions),
        graph=None if graph is None else _graph(graph),
        flows=values["flows"],
        start=(start[0], start[1]),
        heading=values["heading"],
        columns=values["columns"],
        prediction=None if values["prediction"] is None else tuple(values["prediction"]),
        error=values["error"],
    )


def _graph(values: Mapping[str, Any]) -> SheetGraph:
    weights = unpack(values["weights"]).reshape(np.array(values["size"], dtype=int))
    return SheetGraph(LayerGraph(weights), tuple(values["nodes"]), values["first_output"], tuple(values["stages"]))

"""From a text to a `Page`: all layers by several methods, and the layer graph, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from attnflow_hf.attributing import attribute_each, attribute_reading, backends_of
from attnflow_hf.capture_report import DECODER
from attnflow_hf.errors import OptionError, check_index
from attnflow_hf.given import Given
from attnflow_hf.options import Options
from attnflow_hf.page import Page, with_graph
from attnflow_hf.page_sheet import Sheet, SheetGraph
from attnflow_hf.reader import Reading
from attnflow_hf.scoring import Wrapped, position_of
from attnflow_hf.tokens import Tokens

MAX_ALL_POSITIONS = 100_000
"""Up to so many edges all output positions are explained; of larger texts the chosen one."""


def explained_page(wrapped: Wrapped, asked: Given, methods: Sequence[str], options: Options) -> Page:
    """Return the page of one input, from one forward pass.

    Args:
        wrapped: The model and its tokenizer.
        asked: What `given` made of a text or an encoding.
        methods: Which methods, in the order wanted.
        options: How; layer and output position are those shown first.

    Raises:
        AttnFlowError: One of its children says what came, what is needed and what to do.
    """
    if options.keep != "layers":
        raise OptionError("a page shows all layers: keep='rollout' keeps none of them")
    backends = backends_of(methods, options.backend)

    def sheet_of(reading: Reading, _: object) -> Sheet:
        chosen = {name: replace(options, backend=backend) for name, backend in backends.items()}
        return _sheet(reading, wrapped, chosen)

    found = dict(attribute_each(wrapped, asked, [], replace(options, backend="auto"), sheet_of))
    if len(found) != 1:
        raise OptionError(f"a page takes one text, got {len(found)}; make a page of each")
    return Page((found[0],), wrapped.name)


def _sheet(reading: Reading, wrapped: Wrapped, options: dict[str, Options]) -> Sheet:
    """Return the sheet of a reading by each method."""
    first = next(iter(options.values()))
    layer = None if first.layer == "all" else check_index("layer", first.layer, len(reading.layout.stages))
    position = position_of(reading, wrapped.tokenizer, first)
    drawn = "flow" if "flow" in options else next(iter(options))
    residual = first.residual_of(drawn if drawn != "raw" else "rollout")
    graph = reading.graph(residual, normalize_rows=first.divides_rows)
    is_small = graph.weights.size <= MAX_ALL_POSITIONS and not first.kind.needs_target  # a target has one position
    attributions = [
        attribute_reading(wrapped, reading, name, each)
        for name, chosen in options.items()
        for each in _wanted(name, chosen, layer, position, is_small)
    ]
    start = None if isinstance(position, str) else position
    sheet = Sheet(tuple(attributions), start=(start, layer))
    if residual == inf:  # whose flows a page cannot draw
        return sheet
    nodes = tuple(_nodes(reading, sheet.tokens))
    return with_graph(sheet, SheetGraph(graph, nodes, reading.layout.first_output, reading.layout.stages))


def _wanted(name: str, options: Options, layer: int | None, position: int | str, is_small: bool) -> Iterator[Options]:
    """Yield the options of the attributions that are made by a method."""
    if name == "flow_shapley":  # many times the work of a flow
        yield replace(options, layer=-1 if layer is None else layer)
        return
    is_one = isinstance(position, int)
    yield replace(options, layer="all", output_position="all" if is_one and is_small else options.output_position)


def _nodes(reading: Reading, tokens: Tokens) -> Iterator[int]:
    """Yield the node of each token that is kept."""
    layout = reading.layout
    for position, part in zip(tokens.positions.tolist(), tokens.parts or ("",) * len(tokens), strict=True):
        yield position + (layout.first_output if part == DECODER else layout.first_token)

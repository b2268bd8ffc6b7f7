"""`page_of_run`: the rows of a dataset run's folder as a `Page`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attnflow_hf.attentions import plain_heads
from attnflow_hf.attribution import Attribution
from attnflow_hf.edge_weights import BUILT_IN, OWN, edge_weights_of
from attnflow_hf.errors import FileFormatError, IntArray, OptionError
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.manifest import FILE_NAME, Manifest, Shard, finished
from attnflow_hf.options import Options
from attnflow_hf.page import MAX_GRAPH_SIZE, Page
from attnflow_hf.page_sheet import Sheet, SheetGraph
from attnflow_hf.shards import LAYER_GRAPH, result_schema, target_of_row
from attnflow_hf.tokens import Tokens

_MAX_SHOWN = 300  # characters of a column's value
_SETTINGS = ("normalize", "special_tokens", "first_token", "position_correction")


def page_of_run(folder: str | os.PathLike[str], *, n_rows: int = 200) -> Page:
    """Return a page of the first rows of a run, to search and to leaf through.

    A row has its text, each method's scores, the prediction, and the columns of its data set; its layer graph if the
    run kept them, up to a million edges in all.

    Args:
        folder: The folder that `run_dataset` or `attnflow run` wrote; the run may not be finished.
        n_rows: How many rows at most.

    Raises:
        OptionError: `n_rows` is no positive number, or the folder holds no attributions.
        FileFormatError: The folder's manifest or a shard cannot be read.
    """
    if isinstance(n_rows, bool) or not isinstance(n_rows, int) or n_rows < 1:
        raise OptionError(f"n_rows must be a positive integer, got {n_rows!r}")
    path = Path(folder)
    manifest = finished(path)
    made_from = _made_from(path)
    settings = made_from.get("settings", {})
    if not manifest.shards or "options" not in settings or "method" not in settings:
        raise OptionError(f"{str(path)!r} holds no attributions: a folder that attnflow run wrote is needed")
    rows = _Rows(settings, settings["method"], MAX_GRAPH_SIZE)
    sheets = tuple(rows.sheets(path, manifest, n_rows))
    total = sum(shard.n_rows for shard in manifest.shards)
    lead = f"{len(sheets):,} of {total:,} rows" + ("" if manifest.is_complete else " so far; the run is not finished")
    without = sum(sheet.graph is None and not sheet.error for sheet in sheets) if settings["save_layer_graphs"] else 0
    graphs = f"; {without} of them without their layer graph, which would make the page too large" if without else ""
    return Page(sheets, f"{path.name}: {made_from['model']['class']}", lead + graphs)


def _made_from(folder: Path) -> Mapping[str, Any]:
    """Return what the run was made from, as its manifest tells it."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise OptionError(f"{str(folder)!r} has no {FILE_NAME}: a folder that attnflow run wrote is needed")
    return Manifest.load(path).made_from


@dataclass
class _Rows:
    """Makes sheets of rows.

    Attributes:
        settings: Those of the run.
        methods: Its methods.
        room: How many edges of layer graphs the page can still hold.
    """

    settings: Mapping[str, Any]
    methods: list[str]
    room: int

    def sheets(self, folder: Path, manifest: Manifest, n_rows: int) -> Iterator[Sheet]:
        """Yield the sheets of the first rows."""
        left = n_rows
        for shard in manifest.shards:
            if left <= 0:
                return
            table = _read(folder / shard.file).slice(0, left)
            left -= len(table)
            numbers = _row_numbers(shard)
            for number, row in zip(numbers, table.to_pylist(), strict=False):
                yield self._sheet(number, row)

    def _sheet(self, number: int, row: Mapping[str, Any]) -> Sheet:
        added = result_schema(self.methods, words=True, layer_graphs=True, targets=self._has_target).names
        own = {*added, self.settings["text_column"], self.settings["text_pair_column"]}
        columns = {name: str(value)[:_MAX_SHOWN] for name, value in row.items() if name not in own}
        heading = f"row {number}"
        if row.get("tokens") is None:
            return Sheet((), heading=heading, columns=columns, error=row.get("error") or "no attributions")
        graph = self._graph(row)
        tokens = self._tokens(row)
        return Sheet(
            tuple(self._attribution(method, tokens, row, graph) for method in self.methods),
            graph=graph,
            heading=heading,
            columns=columns,
            prediction=(row["prediction_label"], row["prediction_probability"]) if row["prediction_label"] else None,
        )

    @property
    def _edge_weights(self) -> str:
        return str(self.settings["options"].get("edge_weights", "attention"))

    @property
    def _has_target(self) -> bool:
        return self._edge_weights in BUILT_IN and edge_weights_of(self._edge_weights).needs_target

    @property
    def _drops(self) -> bool:
        """Whether tokens were dropped, so that nobody knows at which position those stood that are left."""
        return "drop" in (self.settings["options"]["special_tokens"], self.settings["options"]["first_token"])

    def _tokens(self, row: Mapping[str, Any]) -> Tokens:
        names, offsets = row["tokens"], row["offsets"]
        text = row.get(self.settings["text_column"]) if self.settings["text_pair_column"] is None else None
        return Tokens(
            input_ids=np.full(len(names), -1),
            tokens=tuple(names),
            special_tokens_mask=np.array(row["special_tokens_mask"], dtype=bool),
            positions=np.full(len(names), -1) if self._drops else np.arange(len(names)),
            offsets=None if offsets is None else np.array(offsets, dtype=np.int64).reshape(-1, 2),
            texts=(text,) if isinstance(text, str) else (),
        )

    def _graph(self, row: Mapping[str, Any]) -> SheetGraph | None:
        weights = row.get(LAYER_GRAPH)
        if weights is None or not self.settings["save_layer_graphs"] or self._drops:
            return None
        graph = LayerGraph(np.array(weights, dtype=np.float32))
        if graph.weights.size > self.room or np.isinf(graph.weights).any():
            return None
        self.room -= graph.weights.size
        first = graph.n_tokens - len(row["tokens"])  # behind the attention sink, where there is one
        nodes: IntArray = first + np.arange(len(row["tokens"]))
        return SheetGraph(graph, tuple(nodes.tolist()), first, tuple(range(graph.n_layers)))

    def _attribution(
        self, method: str, tokens: Tokens, row: Mapping[str, Any], graph: SheetGraph | None
    ) -> Attribution:
        options = self.settings["options"]
        position = row["output_position"]
        return Attribution(
            alignment=tokens,
            scores=np.array(row[f"scores_{method}"], dtype=np.float32).astype(np.float64),
            method=method,
            backend=options["backend"],
            output_position="mean" if position is None else position,
            layer=options["layer"] if graph is None else options["layer"] % graph.graph.n_layers,
            edge_weights=self._edge_weights,
            notes=tuple(row["notes"] or ()),
            **self._of_edge_weights(method, row),
            **{name: options[name] for name in _SETTINGS},
        )

    def _of_edge_weights(self, method: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return how edge weights were made; the function of one's own need not be known here."""
        options = self.settings["options"]
        if self._edge_weights not in BUILT_IN:
            residual = 0.0 if method == "raw" else options["residual_weight"]
            return {"head_reduction": OWN, "residual_weight": residual, "normalize_rows": options["normalize_rows"]}
        asked = Options(**options)
        return {
            "head_reduction": plain_heads(asked.heads),
            "residual_weight": asked.recorded_residual(method),
            "normalize_rows": asked.divides_rows,
            "relu": asked.relu if self._has_target else None,
            "baseline": asked.baseline,
            "target": target_of_row(row) if self._has_target else None,
        }


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise FileFormatError(f"{str(path)!r} cannot be read: {error}") from error


def _row_numbers(shard: Shard) -> list[int]:
    """Return which row of the data set each row of a shard is."""
    numbers = list(range(shard.start, shard.stop))
    if shard.n_rows == len(numbers):
        return numbers
    left_out = {row for row, _ in shard.errors}
    return [number for number in numbers if number not in left_out]

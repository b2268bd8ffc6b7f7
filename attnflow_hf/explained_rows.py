"""`ExplainedRows`: texts of a data set to rows with their attributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from attnflow_hf.attributing import attribute_each
from attnflow_hf.attribution import Attribution
from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError, TextError, TokenizerError
from attnflow_hf.given import given
from attnflow_hf.inputs import Text
from attnflow_hf.options import Options
from attnflow_hf.reader import Reading
from attnflow_hf.run_settings import RunSettings
from attnflow_hf.shards import LAYER_GRAPH, Row, result_row, result_schema
from attnflow_hf.signals import SIGNALS
from attnflow_hf.windows import attribute_windows

_SAMPLE_TEXT = "a b c d"


@dataclass(frozen=True)
class ExplainedRows:
    """Finds the attributions of texts, for a run.

    Attributes:
        attributor: The wrapped model.
        settings: What was asked for.
    """

    attributor: Attributor
    settings: RunSettings

    def check(self) -> None:
        """Raise what would be an error in every row, before the first.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        if self.attributor.model.main_input_name in SIGNALS:
            raise OptionError(f"{type(self.attributor.model).__name__} does not read text; a run is over texts")
        if self.attributor.tokenizer is None:
            raise TokenizerError("a run over texts needs a tokenizer: use Attributor(model, tokenizer)")
        with suppress(TextError):  # a tokenizer that knows none of the sample's words
            list(self._rows([_SAMPLE_TEXT], replace(self.settings.options, output_position="auto")))

    def schema(self) -> pa.Schema:
        """Return the columns that are added to those of the data set, and their types."""
        settings = self.settings
        return result_schema(
            settings.methods,
            words=settings.words,
            layer_graphs=settings.save_layer_graphs,
            targets=settings.options.kind.needs_target,
        )

    def rows(self, table: pa.Table) -> Iterator[tuple[int, Row]]:
        """Yield the index of each row of the data set, in any order, and what is added to it.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        if len(table):
            yield from self._rows(self._texts(table), self.settings.options)

    def _texts(self, table: pa.Table) -> list[Any]:
        texts: list[Any] = table[self.settings.text_column].to_pylist()
        if self.settings.text_pair_column is None:
            return texts
        return list(zip(texts, table[self.settings.text_pair_column].to_pylist(), strict=True))

    def _rows(self, texts: Sequence[Text], options: Options) -> Iterator[tuple[int, Row]]:
        attributor, settings = self.attributor, self.settings
        wrapped, methods = attributor.wrapped, settings.methods
        if settings.windows is not None:
            cut = [settings.windows.of(attributor.model, attributor.tokenizer, text) for text in texts]
            for index, found in attribute_windows(wrapped, cut, methods, options):
                yield index, result_row(found, words=settings.words)
            return
        asked = given(attributor.model, attributor.tokenizer, list(texts), truncation=settings.truncation)
        yield from attribute_each(wrapped, asked, methods, options, self._row)

    def _row(self, reading: Reading, found: Mapping[str, Attribution]) -> Row:
        row = result_row(found, words=self.settings.words)
        if self.settings.save_layer_graphs:
            options = self.settings.options
            method = "flow" if "flow" in self.settings.methods else "rollout"
            graph = reading.graph(options.residual_of(method), normalize_rows=options.divides_rows)
            row[LAYER_GRAPH] = graph.weights.astype(np.float32)
        return row

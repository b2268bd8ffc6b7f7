"""`RunWork`: what there is to do in a run: the rows of each shard that is not finished, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from attnflow_hf.manifest import FILE_NAME, Manifest, Shard
from attnflow_hf.run_sources import Source
from attnflow_hf.shard_maker import ShardMaker
from attnflow_hf.shards import file_name, write_bytes


@dataclass(frozen=True)
class RunWork:
    """A run: where its rows come from, what is made of them, and where that goes.

    Attributes:
        source: The data set.
        maker: Makes shards of its rows.
        folder: Where the shards go.
    """

    source: Source
    maker: ShardMaker
    folder: Path

    @property
    def shard_size(self) -> int:
        """How many rows of the data set make a shard."""
        return self.maker.shard_size

    def unfinished(self, manifest: Manifest) -> list[int]:
        """Return the numbers of the shards to be made, of a data set that knows how many rows it has."""
        assert self.source.n_rows is not None
        n_shards = max(1, -(-self.source.n_rows // self.shard_size))  # of an empty data set one without rows
        done = manifest.files
        return [number for number in range(n_shards) if file_name(number) not in done]

    def tables(self, manifest: Manifest) -> Iterator[tuple[int, pa.Table, pa.Schema]]:
        """Yield number, rows and columns of each shard to be made; of an empty data set one without rows."""
        done = manifest.files
        first = next(number for number in range(len(done) + 1) if file_name(number) not in done)
        tables = self.source.tables(first * self.shard_size, self.shard_size)
        if first == 0:
            head = next(tables, None)
            tables = chain([self._no_rows() if head is None else head], tables)
        schema = None
        for number, table in enumerate(tables, start=first):
            schema = self._schema(number, table) if schema is None else schema
            if file_name(number) not in done:
                yield number, table, schema

    def table(self, number: int) -> tuple[pa.Table, pa.Schema]:
        """Return the rows and the columns of a shard, of a data set with random access."""
        table = next(self.source.tables(number * self.shard_size, self.shard_size), None)
        table = self._no_rows() if table is None else table
        return table, self._schema(number, table)

    def write(self, shard: Shard, data: bytes | memoryview, manifest: Manifest, name: str = FILE_NAME) -> Manifest:
        """Write a shard's file and then the manifest that lists it; return that manifest.

        Raises:
            OSError: A file cannot be written.
        """
        write_bytes(self.folder / shard.file, data)
        manifest = manifest.with_shard(shard)
        manifest.save(self.folder, name)
        return manifest

    def _no_rows(self) -> pa.Table:
        features = self.source.features
        return pa.table({}) if features is None else features.arrow_schema.empty_table()

    def _schema(self, number: int, table: pa.Table) -> pa.Schema:
        """Return the columns of all shards: those of the first shard, where no data set tells their types."""
        if self.source.features is None and number > 0:
            return Features.from_arrow_schema(pq.read_schema(self.folder / file_name(0))).arrow_schema
        return self.maker.schema(self.source.features or Features.from_arrow_schema(table.schema))

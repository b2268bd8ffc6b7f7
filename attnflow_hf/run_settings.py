"""`RunSettings`: what a user asks of a dataset run, checked before its data set and its model are looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attnflow_hf.backends import methods_of
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.options import Options
from attnflow_hf.windows import Windows

ON_ERROR = ("raise", "record", "skip")


@dataclass(frozen=True)
class RunSettings:
    """What the user asked of a run; `run_dataset` explains each."""

    text_column: str
    text_pair_column: str | None
    method: str | Sequence[str]
    options: Options
    columns: Sequence[str] | None
    words: bool
    save_layer_graphs: bool
    shard_size: int
    on_error: str
    truncation: bool
    window: int | None
    stride: int

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        methods_of(self.method)
        if isinstance(self.columns, str):
            raise OptionError(f"columns must be a list of names or None, got {self.columns!r}")
        check_sharding(self.shard_size, self.on_error)
        if "all" in (self.options.output_position, self.options.layer):
            raise OptionError(
                "a run keeps one score for each token: choose one output_position and one layer instead of 'all'"
            )
        if self.save_layer_graphs and (self.window is not None or self.options.keep != "layers"):
            raise OptionError(
                "save_layer_graphs keeps the graph of a whole text: with windows, or keep='rollout', there is none"
            )
        if isinstance(self.options.target, (list, tuple)):
            raise OptionError(f"target must be one class for all rows of a run, got {self.options.target!r}")
        self._check_windows()

    def _check_windows(self) -> None:
        if self.windows is None:
            return
        if self.truncation or self.text_pair_column is not None:
            raise OptionError("a window goes over one long text: it has no truncation, and no text_pair_column")
        if self.options.output_position not in ("auto", "mean"):
            raise OptionError(
                "each window has positions of its own: output_position must be 'auto' or 'mean', "
                f"got {self.options.output_position!r}"
            )

    @property
    def windows(self) -> Windows | None:
        """How long texts are cut, or `None`."""
        return None if self.window is None else Windows(self.window, self.stride)

    @property
    def methods(self) -> list[str]:
        """The methods asked for, in their order."""
        return methods_of(self.method)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        values = {**asdict(self), "options": asdict(self.options.with_own_defaults()), "method": self.methods}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=lambda value: value.tolist()))
        return plain


def check_sharding(shard_size: int = 1, on_error: str = "raise") -> None:
    """Raise `OptionError` unless a run can make shards so."""
    if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
        raise OptionError(f"shard_size must be a positive integer, got {shard_size!r}")
    check_choice("on_error", on_error, ON_ERROR)

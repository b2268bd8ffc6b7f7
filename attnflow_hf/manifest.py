"""`Manifest`: what a run was made from and which of its shards are finished, kept beside the shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from attnflow_hf.errors import FileFormatError, OptionError
from attnflow_hf.shards import fingerprint, is_whole, remove_leftovers, write_bytes

FILE_NAME = "manifest.json"
_FORMAT, _VERSION = "attnflow_hf.Run", 1
_ABSENT = "(nothing)"
_PLACES = ("_name_or_path", "transformers_version")  # a config's values that do not change what the model computes


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        file: Its name in the folder.
        start: The first row of the data set that it speaks of.
        stop: The row behind its last.
        n_rows: How many rows the file has: fewer where rows were left out.
        sha256: Of the file's bytes.
        errors: The rows of the data set that could not be explained, and why.
    """

    file: str
    start: int
    stop: int
    n_rows: int
    sha256: str
    errors: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a run was made from, and its finished shards.

    Attributes:
        made_from: Plain values by name, nested: settings, versions, model, tokenizer, data set.
        shards: The finished shards, in the order of their rows.
        is_complete: Whether the end of the data set was reached.
    """

    made_from: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False

    @property
    def errors(self) -> tuple[tuple[int, str], ...]:
        """The rows that could not be explained, and why."""
        return tuple(error for shard in self.shards for error in shard.errors)

    @property
    def files(self) -> frozenset[str]:
        """The names of the finished shards."""
        return frozenset(shard.file for shard in self.shards)

    def with_shard(self, shard: Shard) -> Manifest:
        """Return the manifest with one more finished shard."""
        others = (other for other in self.shards if other.file != shard.file)
        return replace(self, shards=tuple(sorted((*others, shard), key=lambda each: each.start)))

    def check_made_from(self, asked: Mapping[str, Any]) -> None:
        """Raise `OptionError` if a run of `asked` is another run than this one.

        Args:
            asked: As `made_from`.

        Raises:
            OptionError: It names each value that differs: what the folder has, what was asked.
        """
        had, wanted = dict(_flatten(self.made_from)), dict(_flatten(asked))
        if not self.errors:  # without failed rows all ways to treat them give the same shards
            had["settings.on_error"] = wanted.get("settings.on_error", _ABSENT)
        names = [name for name in {**had, **wanted} if had.get(name, _ABSENT) != wanted.get(name, _ABSENT)]
        if names:
            lines = [f"  {name}: {had.get(name, _ABSENT)} there, {wanted.get(name, _ABSENT)} asked" for name in names]
            raise OptionError(
                "the output folder holds a run made otherwise; ask for the same, or choose another folder:\n"
                + "\n".join(lines)
            )

    def save(self, folder: Path, name: str = FILE_NAME) -> None:
        """Write the manifest into `folder`, whole or not at all."""
        values = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
        text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
        write_bytes(folder / name, text.encode())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Return the manifest that `save` wrote.

        Raises:
            FileFormatError: The file is not one that `save` wrote, or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if (values["format"], values["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"format {values['format']!r} and version {values['version']!r}")
            shards = [replace(Shard(**shard), errors=_pairs(shard["errors"])) for shard in values["shards"]]
            return cls(values["made_from"], tuple(shards), values["is_complete"])
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{str(path)!r} is no manifest of {_FORMAT} version {_VERSION}: {error!r}; choose another folder"
            ) from error


def part_name(rank: int | str) -> str:
    """Return the name of the manifest that one of several processes keeps until all are done."""
    return f"manifest.{rank}.json"


def open_folder(folder: Path, made_from: Mapping[str, Any]) -> Manifest:
    """Return the folder's manifest with the shards that are whole; a new one if there is none.

    Raises:
        OptionError: The folder has a run made otherwise, or shards of which nothing is known.
    """
    found = _manifests(folder)
    if not found and any(folder.glob("shard-*.parquet")):
        raise OptionError(f"{str(folder)!r} has shards but no {FILE_NAME}; choose another folder")
    for manifest in found:
        manifest.check_made_from(made_from)
    remove_leftovers(folder)
    known = replace(finished(folder), made_from=made_from)
    whole = tuple(shard for shard in known.shards if is_whole(folder / shard.file, shard.sha256))
    opened = replace(known, shards=whole, is_complete=known.is_complete and len(whole) == len(known.shards))
    if found != [opened]:
        opened.save(folder)
    remove_parts(folder)
    return opened


def finished(folder: Path) -> Manifest:
    """Return what the folder's manifest lists, and those of several processes that have not come to their end.

    Raises:
        FileFormatError: One of them cannot be read.
    """
    found = _manifests(folder)
    known = Manifest(is_complete=any(manifest.is_complete for manifest in found))
    for shard in (shard for manifest in found for shard in manifest.shards):
        known = known.with_shard(shard)
    return known


def _manifests(folder: Path) -> list[Manifest]:
    paths = (folder / FILE_NAME, *sorted(folder.glob(part_name("*"))))
    return [Manifest.load(path) for path in paths if path.exists()]


def remove_parts(folder: Path) -> None:
    """Remove the manifests of several processes, once the folder's own has what they say."""
    for path in folder.glob(part_name("*")):
        path.unlink(missing_ok=True)


def list_errors(errors: Sequence[tuple[int, str]], n_shown: int = 10) -> list[str]:
    """Return a line for each of the first rows that could not be explained, and one for all others."""
    lines = [f"  row {row}: {message}" for row, message in errors[:n_shown]]
    more = [f"  ... and {len(errors) - n_shown} more; {FILE_NAME} lists all"]
    return lines + more if len(errors) > n_shown else lines


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256 of a model's config and weights; of weights that are not in memory, of their shape."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _PLACES}
    return fingerprint(chain([json.dumps(config, sort_keys=True, default=str).encode()], _weights(model)))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return the SHA-256 of what a tokenizer does, whatever it was used for before."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    state = {} if fast is None else json.loads(fast.to_str())
    vocabulary = tokenizer.get_vocab() if fast is None and hasattr(tokenizer, "get_vocab") else {}
    state = {name: value for name, value in state.items() if name not in ("padding", "truncation")}
    state |= {"vocabulary": vocabulary, "class": type(tokenizer).__name__}
    state |= {"model_max_length": getattr(tokenizer, "model_max_length", None)}
    return fingerprint([json.dumps(state, sort_keys=True, default=str).encode()])


def _weights(model: Any) -> Iterator[bytes | memoryview]:
    for name, tensor in model.state_dict().items():
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        if tensor.numel() and not tensor.is_meta:
            yield memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _pairs(errors: list[list[Any]]) -> tuple[tuple[int, str], ...]:
    return tuple((int(row), str(message)) for row, message in errors)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name of each value, with those of the groups it stands in, and the value as JSON."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, ensure_ascii=False)

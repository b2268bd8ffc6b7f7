"""Blocks of queries, each with the range of keys that its queries may see; and groups of samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

MOST_WEIGHTS = 2**21
"""So many attention weights at once, 8 MB in float32, stay in the cache of a CPU."""

_N_MASKS = 2  # models have one mask for all layers, or one for full and one for sliding windows


@dataclass(frozen=True)
class Part:
    """A part of an attention: a group of samples, a block of queries, and the keys that are not hidden from it.

    Attributes:
        samples: Which samples.
        rows: Which queries.
        keys: Which keys.
        size: How many samples, queries and keys there are in all.
    """

    samples: slice
    rows: slice
    keys: slice
    size: tuple[int, int, int]

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the attention."""
        return (self.samples, self.rows, self.keys) == tuple(slice(0, n) for n in self.size)

    def of(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of an attention's arguments by name belongs to the part: views of its tensors, in their order.

        Args:
            arguments: `query`, `key`, `value`, `attention_mask`, and whatever else the attention takes.
        """
        if self.is_whole:
            return dict(arguments)
        n_samples, n_queries, n_keys = self.size
        parts = {}
        for name, given in arguments.items():
            if name == "query":
                parts[name] = given[self.samples, :, self.rows]
            elif name in ("key", "value"):
                parts[name] = given[self.samples, :, self.keys]
            else:
                limit = None if name == "attention_mask" else n_keys
                parts[name] = queries_of(samples_of(given, self.samples, n_samples), self.rows, n_queries, limit)
                if name == "attention_mask" and given is not None and self.keys != slice(0, n_keys):
                    parts[name] = parts[name][..., self.keys]
        return parts


class QueryBlocks:
    """Cuts attentions into blocks of queries; keys that a mask hides from all of them are left out.

    A hidden key has a weight of just 0, so that nothing changes but the work, which is half for causal models.

    Args:
        size: How many queries a block has; `None` for one block of all queries and all keys.
    """

    def __init__(self, size: int | None) -> None:
        """Take note of the size."""
        self.size = size
        self._known: OrderedDict[int, tuple[torch.Tensor, list[slice]]] = OrderedDict()

    def of(
        self, n_queries: int, n_keys: int, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> list[tuple[slice, slice]]:
        """Return the blocks of one attention, as its queries and its keys.

        Args:
            n_queries: How many queries there are.
            n_keys: How many keys.
            mask: What is added to the scores, `[batch, head, query, key]`; or `None`.
            named: The other arguments of the attention; where one is a bias for pairs of queries and keys, all keys
                are kept.
        """
        if self.size is None or n_queries <= self.size:
            return [(slice(0, n_queries), slice(0, n_keys))]
        rows = [slice(start, min(start + self.size, n_queries)) for start in range(0, n_queries, self.size)]
        has_bias = any(isinstance(given, torch.Tensor) and given.ndim == 4 for given in named.values())
        if mask is None or has_bias or mask.ndim != 4 or mask.shape[-2:] != (n_queries, n_keys):
            return [(each, slice(0, n_keys)) for each in rows]
        return list(zip(rows, self._visible(mask, rows), strict=True))

    def parts(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, named: dict[str, Any]
    ) -> list[Part]:
        """Return the parts of one attention; on a CPU of groups of samples, so that each stays in its cache.

        Args:
            query: `[batch, head, query, size]`.
            key: `[batch, head, key, size]`.
            mask: As in `of`.
            named: As in `of`.
        """
        n_samples, n_queries, n_keys = size = len(query), query.shape[2], key.shape[2]
        blocks = self.of(n_queries, n_keys, mask, named)
        groups = [slice(0, n_samples)]
        if query.device.type == "cpu":
            n_pairs = max((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in blocks)
            groups = sample_groups(n_samples, query.shape[1] * n_pairs, mask, named)
        return [Part(samples, rows, keys, size) for samples, (rows, keys) in product(groups, blocks)]

    def _visible(self, mask: torch.Tensor, rows: list[slice]) -> list[slice]:
        """Return the keys of each block, and remember them while the layers share their mask."""
        if id(mask) not in self._known:
            self._known[id(mask)] = mask, _visible_keys(mask, rows)  # the mask is kept, so that its id stays its own
            if len(self._known) > _N_MASKS:
                self._known.popitem(last=False)
        return self._known[id(mask)][1]


def sample_groups(n_samples: int, n_weights: int, mask: torch.Tensor | None, named: dict[str, Any]) -> list[slice]:
    """Return groups of a batch's samples whose attentions are computed one after the other, so that they stay in cache.

    Args:
        n_samples: How many samples the batch has.
        n_weights: How many attention weights one of them has in a block of queries.
        mask: What is added to the scores.
        named: The other arguments of the attention. Where one may belong to samples in another way than position ids
            and what is `[batch, head, query, key]`, all samples are one group.
    """
    size = max(1, MOST_WEIGHTS // n_weights)
    tensors = {name: given for name, given in {**named, "mask": mask}.items() if isinstance(given, torch.Tensor)}
    unclear = (
        given.ndim not in (0, 4) and given.shape[0] == n_samples and name != "position_ids"
        for name, given in tensors.items()
    )
    if size >= n_samples or any(unclear):
        return [slice(0, n_samples)]
    return [slice(start, min(start + size, n_samples)) for start in range(0, n_samples, size)]


def samples_of(given: Any, samples: slice, n_samples: int) -> Any:
    """Return the part of an argument that belongs to some samples; what has no axis for them as it is."""
    if not isinstance(given, torch.Tensor) or given.ndim == 0 or given.shape[0] != n_samples:
        return given
    return given[samples]


def queries_of(given: Any, rows: slice, n_queries: int, n_keys: int | None) -> Any:
    """Return the part of an argument that belongs to some queries: masks and biases are `[batch, head, query, key]`."""
    if not isinstance(given, torch.Tensor) or given.ndim != 4 or given.shape[-2] != n_queries:
        return given
    return given[:, :, rows] if n_keys in (None, given.shape[-1]) else given


def _visible_keys(mask: torch.Tensor, rows: list[slice]) -> list[slice]:
    """Return for each block the range of keys that are not hidden; all, where a query sees none and so all alike."""
    n_keys = mask.shape[-1]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    sees_some = seen.any(dim=-1).flatten(0, 1).all(dim=0)
    by_query = seen.flatten(0, 1).any(dim=0).to(torch.uint8)
    first, last = by_query.argmax(dim=-1), n_keys - 1 - by_query.flip(-1).argmax(dim=-1)
    facts = torch.stack([sees_some.long(), first, last]).cpu()  # one wait for the device
    ranges = []
    for each in rows:
        all_see, starts, ends = facts[:, each]
        whole = slice(0, n_keys)
        ranges.append(slice(int(starts.min()), int(ends.max()) + 1) if bool(all_see.all()) else whole)
    return ranges

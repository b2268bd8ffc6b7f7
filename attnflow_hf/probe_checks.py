"""Whether the matrices of a probe can be a model's attentions: their number, shapes, sums, and what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, Site
from attnflow_hf.errors import CaptureError
from attnflow_hf.model_facts import count_decoder_layers, count_encoder_layers, count_layers, layers_without_attention


class NotProvenError(CaptureError):
    """A way of capture does not give what the model computes, or was not shown to."""


@dataclass
class Call:
    """One attention of the probe's forward pass.

    Attributes:
        n_heads: Its heads.
        part: `"encoder"`, `"decoder"` or `"cross"`; `""` where only the shape tells.
        layer: The layer that was running; `None` where that was not seen.
        module: The name of its module, for hooks.
        output_index: Where the weights stand in the module's output, for hooks.
        value_error: How far the weights times the values are from the output, as a share of it.
    """

    n_heads: int
    part: str = ""
    layer: int | None = None
    module: str = ""
    output_index: int = -1
    value_error: float = 0.0

    def as_site(self) -> Site:
        """Return what is known of the site."""
        return Site(self.part, self.layer or 0, self.n_heads, self.module, self.output_index)


@dataclass(frozen=True)
class Lengths:
    """How long the probe's input is: all tokens of the encoder (or single stack), the real ones, the decoder's."""

    n_all: int | None
    n_real: int | None
    n_decoder: int | None


def find_sites(name: str, config: Any, calls: Sequence[Call], shapes: Sequence[Any], lengths: Lengths) -> list[Site]:
    """Return the sites of all calls.

    Raises:
        NotProvenError: A shape that is no attention over all tokens, or not one attention for each layer that the
            config tells of.
    """
    parts = [
        call.part or _part_of(name, number, tuple(shape), lengths, shapes)
        for number, (call, shape) in enumerate(zip(calls, shapes, strict=True))
    ]
    for number, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        if part != _part_of(name, number, tuple(shape), lengths, shapes):
            raise NotProvenError(f"{name} reports attentions {list(shape)} as those of the {part}")
    layers: dict[int, int] = {}
    for part in (ENCODER, DECODER, CROSS) if lengths.n_decoder else (ENCODER,):
        numbers = [number for number, found in enumerate(parts) if found == part]
        count = count_encoder_layers if part == ENCODER else count_decoder_layers
        expected = count(config) if lengths.n_decoder else count_layers(config)
        wanted = layers_without_attention(config) if not lengths.n_decoder else frozenset[int]()
        layers |= _layers(
            f"{name} ({part})" if lengths.n_decoder else name,
            numbers,
            [calls[number].layer for number in numbers],
            expected,
            wanted,
        )
    if lengths.n_decoder and parts.count(CROSS) != parts.count(DECODER):
        raise NotProvenError(
            f"{name} has {parts.count(DECODER)} self and {parts.count(CROSS)} cross attentions in its decoder; one of "
            "each in every layer is needed"
        )
    return [
        Site(part, layers[number], call.n_heads, call.module, call.output_index)
        for number, (part, call) in enumerate(zip(parts, calls, strict=True))
    ]


def _part_of(name: str, number: int, shape: tuple[int, ...], lengths: Lengths, shapes: Sequence[Any]) -> str:
    """Return what an attention of shape `[batch, query, key]` belongs to, by its length."""
    n_all = lengths.n_all or int(shapes[0][-2])
    of_length: dict[tuple[int, ...], str] = {(n_all, n_all): ENCODER}
    if lengths.n_decoder:
        of_length |= {(lengths.n_decoder, lengths.n_decoder): DECODER, (lengths.n_decoder, n_all): CROSS}
    if shape[0] != 1 or shape[1:] not in of_length:
        raise NotProvenError(
            f"{name} gave attentions {list(shape)} in layer {number} where [1, {n_all}, {n_all}] is needed; local, "
            "pooled or projected attention (Longformer, Funnel, Swin, ...) does not make a layer graph"
        )
    return of_length[shape[1:]]


def _layers(
    name: str, numbers: list[int], seen: list[int | None], expected: int | None, without: frozenset[int]
) -> dict[int, int]:
    """Return the layer of each call of one part, by the call's number."""
    if numbers and (expected is None or len(numbers) == expected):
        return dict(zip(numbers, range(len(numbers)), strict=True))
    found = [layer for layer in seen if layer is not None]
    in_order = len(found) == len(seen) and found == sorted(set(found))
    if in_order and set(range(expected or 0)) - set(found) == without:
        return dict(zip(numbers, found, strict=True))
    raise NotProvenError(
        f"{name} has {expected or 'no known number of'} layers but gave attentions of {len(numbers)}, so that a layer "
        "graph of them would not be the model's"
    )


def residual_layers(config: Any, sites: Sequence[Site], *, has_decoder: bool) -> tuple[int, tuple[int, ...]]:
    """Return how many layers there are, and those of them that have no attention."""
    if has_decoder:
        return sum(site.part in (ENCODER, DECODER) for site in sites), ()
    n_layers = count_layers(config) or len(sites)
    return n_layers, tuple(sorted(set(range(n_layers)) - {site.layer for site in sites}))


@dataclass(frozen=True)
class Sums:
    """Facts of all matrices: the least and greatest sum of a row, and whether no token sees a later one."""

    least: float
    most: float
    is_causal: bool


def check_matrices(matrices: Sequence[torch.Tensor], sites: Sequence[Site], lengths: Lengths) -> Sums:
    """Return facts of the attentions, real tokens alone.

    Raises:
        NotProvenError: An entry is no probability, or padding gets a share.
    """
    sums = []
    causal = []
    for site, matrix in zip(sites, matrices, strict=True):
        queries = lengths.n_real if site.part == ENCODER else lengths.n_decoder
        keys = lengths.n_decoder if site.part == DECODER else lengths.n_real
        rows = matrix[0, :queries].cpu().double()
        if not bool(torch.isfinite(rows).all()) or float(rows.min()) < 0:
            raise NotProvenError(
                f"the attentions of layer {site.layer} are no probabilities: scores from before the softmax?"
            )
        if keys is not None and bool((rows[:, keys:] > 1e-6).any()):
            raise NotProvenError(f"real tokens attend to padding in layer {site.layer}")
        sums.append(rows[:, :keys].sum(dim=-1))
        looks_back = not bool(torch.triu(rows[:, :keys], diagonal=1).any())
        if site.part == DECODER and not looks_back:
            raise NotProvenError(f"layer {site.layer} of its decoder attends to later tokens")
        if site.part == ENCODER:
            causal.append(looks_back)
    every = torch.cat(sums)
    return Sums(float(every.min()), float(every.max()), all(causal))

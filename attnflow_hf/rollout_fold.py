"""Attention rollout folded while the model runs: one matrix, however many layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attnflow_hf.capture_report import CaptureReport
from attnflow_hf.errors import CaptureError


class RolloutFold:
    """Multiplies each layer's `A = (1 - r) W + r I` onto those below, as capture hands them on.

    The same numbers as `rollout` of the layer graph, `A_l ... A_0` (Abnar & Zuidema 2020, eq. 1), in float64 on the
    model's device (float32 where it has no float64). Costs a product of two matrices for each layer, where rollout of
    a row needs that of a vector and a matrix, but holds three matrices `[batch, query, token]` and not one a layer.

    Args:
        report: How the model is captured; one of an encoder or decoder alone.
        residual_weight: The share `r` of the residual connection, 0 to 1.
        positions: The output positions `[position]` of each sample whose rows are kept of every layer; by default
            all rows of the last layer alone.

    Raises:
        CaptureError: An encoder and its decoder cannot be folded together.
    """

    def __init__(
        self, report: CaptureReport, *, residual_weight: float = 0.5, positions: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Start with the input tokens."""
        if report.has_decoder:
            raise CaptureError("rollout is folded for one stack of layers; keep the layers of encoder-decoder models")
        self.report = report
        self.residual_weight = residual_weight
        self.positions = positions
        self.matrix: torch.Tensor | None = None
        """The rollout of the layers so far, `[batch, query, token]`; a sink's share is what its rows lack."""
        self.rows: list[list[torch.Tensor]] = []
        """Of each layer and sample the kept rows `[position, token]`, on the CPU."""

    def receive(self, index: int, weights: torch.Tensor) -> None:
        """Fold the attention of a site, `[batch, query, key]`, and the layers without attention below it."""
        self._repeat_up_to(self.report.sites[index].layer, weights)
        mixed = weights.to(_exact_type(weights.device))
        mixed.mul_((1 - self.residual_weight) / mixed.sum(dim=-1, keepdim=True).clamp_min(1e-30))
        if self.report.has_sinks:
            mixed = mixed[..., 1:]
        mixed.diagonal(dim1=-2, dim2=-1).add_(self.residual_weight)
        self.matrix = mixed if self.matrix is None else torch.bmm(mixed, self.matrix)
        self._keep_rows()

    def finish(self) -> None:
        """Add the layers without attention above the last one with it."""
        self._repeat_up_to(self.report.n_layers, None)

    def _repeat_up_to(self, layer: int, weights: torch.Tensor | None) -> None:
        """Add layers of the residual alone, which change nothing, below `layer`."""
        while self.positions is not None and len(self.rows) < layer:
            if self.matrix is None and weights is not None:
                n_tokens = weights.shape[1]
                start = torch.eye(n_tokens, dtype=_exact_type(weights.device), device=weights.device)
                self.matrix = start.expand(weights.shape[0], -1, -1)
            self._keep_rows()

    def _keep_rows(self) -> None:
        if self.positions is not None and self.matrix is not None:
            self.rows.append([self.matrix[sample, rows].cpu() for sample, rows in enumerate(self.positions)])


def _exact_type(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64

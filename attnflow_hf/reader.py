"""`Reading`: what a model made of one text, image or sound; and how samples become readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from attnflow_hf.attentions import HALF_ROW_SUM_TOLERANCE, ROW_SUM_TOLERANCE, HeadReduction
from attnflow_hf.capture import Capture, capture, report_on
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport
from attnflow_hf.captured_graph import GraphLayout, Matrix, captured_graph, layout_of
from attnflow_hf.edge_weights import ResidualNumber
from attnflow_hf.errors import ArrayError, CaptureError, FloatArray
from attnflow_hf.inputs import Sample, batches, collate
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.model_facts import input_device, padding_id, reads_padding
from attnflow_hf.rollout_fold import RolloutFold
from attnflow_hf.signals import signal_rows, signal_tokens
from attnflow_hf.targets import Target
from attnflow_hf.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model made of one input.

    Attributes:
        tokens: The input's tokens; with a decoder, the encoder's and then the decoder's.
        report: How the model was captured.
        layout: Where the tokens stand in the graph.
        matrices: float32 `[query, key]` for each site of the report, without padding; empty if folded.
        logits: The output of the model's head, or `None`.
        row_sum_tolerance: How far their rows may be from 1.
        rollouts: `[layer, position, node]`, where rollout was folded while the model ran.
        residuals: float32 `[query]` for each site, what the residual adds to a token's own weight; empty where that was
            not measured.
        head_position: The output position that the model's head reads, where that is known; else `None`.
        target: The class that the edge weights belong to; `None` for attention weights.
        unreached: The layers that the target does not depend on.
    """

    tokens: Tokens
    report: CaptureReport
    layout: GraphLayout
    matrices: tuple[Matrix, ...]
    logits: torch.Tensor | None
    row_sum_tolerance: float | None
    rollouts: FloatArray | None = None
    residuals: tuple[Matrix, ...] = ()
    head_position: int | None = None
    target: Target | None = None
    unreached: tuple[int, ...] = ()

    @property
    def output_tokens(self) -> Tokens:
        """The tokens that output positions count: all, or the decoder's."""
        if not self.tokens.parts:
            return self.tokens
        return self.tokens.select(np.array([part == DECODER for part in self.tokens.parts]))

    def graph(
        self, residual_weight: ResidualNumber, *, normalize_rows: bool = True, pass_through: bool = True
    ) -> LayerGraph:
        """Return the layer graph.

        Args:
            residual_weight: The share of the residual connection, 0 to 1; `inf` for edges without limit; or
                `"measured"`, of weights that have it in them.
            normalize_rows: Whether rows are divided by their sums.
            pass_through: Whether what has no attention in a layer passes through; else it has no edge at all.

        Raises:
            CaptureError: The attentions are no probabilities.
        """
        try:
            return captured_graph(
                self._with_residuals() if residual_weight == "measured" else self.matrices,
                self.report,
                residual_weight=0.0 if residual_weight == "measured" else residual_weight,
                row_sum_tolerance=self.row_sum_tolerance,
                normalize_rows=normalize_rows,
                pass_through=pass_through,
            )
        except ArrayError as error:
            raise CaptureError(f"{self.report.model} cannot be explained: {error}") from error

    def _with_residuals(self) -> tuple[Matrix, ...]:
        """Return the matrices with what residual connections add to each token's own weight."""
        if len(self.residuals) != len(self.matrices):
            raise CaptureError(
                "residual_weight='measured' needs edge weights that tell what the residual adds: let their function "
                "return a pair of [query, key] and [query], or choose a number"
            )
        return tuple(map(_add_to_own, self.matrices, self.residuals))

    def logits_at(self, position: int | str) -> FloatArray | None:
        """Return what the head says: `[label]` of the text, or `[1, label]` of a position; `None` where nothing."""
        if self.logits is None or (self.logits.ndim > 1 and isinstance(position, str)):
            return None
        chosen = self.logits if self.logits.ndim == 1 else self.logits[position : int(position) + 1]
        return np.asarray(chosen.float().cpu().numpy())


Take = Callable[[Mapping[str, torch.Tensor], Sequence[int]], Capture]
"""From a batch's inputs and the indices of its samples to what a forward pass gave."""


def read_samples(
    model: PreTrainedModel,
    tokenizer: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    head_reduction: HeadReduction,
    take: Take | None = None,
) -> Iterator[tuple[int, Reading]]:
    """Yield each text's index and its reading, in the order of the forward passes.

    What a pass gave is given up when its last reading was taken.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or `None`.
        samples: The texts.
        batch_size: How many texts at once.
        head_reduction: How the heads become one.
        take: Makes the pass; by default `capture`, of attention weights.
    """
    for indices in model_batches(model, samples, batch_size):
        batch = [samples[index] for index in indices]
        inputs = model_inputs(model, tokenizer, batch)
        captured = take(inputs, indices) if take else capture(model, inputs, head_reduction=head_reduction)
        for row, index in enumerate(indices):
            yield index, reading_of(captured, row, batch[row], is_head_mean=is_head_mean(head_reduction))


def fold_samples(
    model: PreTrainedModel,
    tokenizer: Any,
    samples: Sequence[Sample],
    positions: Sequence[Sequence[int]],
    *,
    batch_size: int,
    head_reduction: HeadReduction,
    residual_weight: float,
) -> Iterator[tuple[int, Reading]]:
    """Yield each text's index and its reading with the rollout of some positions, folded while the model ran.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or `None`.
        samples: The texts.
        positions: The output positions of each text.
        batch_size: How many texts at once.
        head_reduction: How the heads become one.
        residual_weight: The share of the residual connection.
    """
    report = report_on(model)
    for indices in model_batches(model, samples, batch_size):
        batch = [samples[index] for index in indices]
        fold = RolloutFold(report, residual_weight=residual_weight, positions=[positions[index] for index in indices])
        inputs = model_inputs(model, tokenizer, batch)
        captured = capture(model, inputs, head_reduction=head_reduction, receive=fold.receive)
        fold.finish()
        for row, index in enumerate(indices):
            n_tokens = len(batch[row])
            kept = torch.stack([layer[row][:, :n_tokens] for layer in fold.rows]).double().numpy()
            yield index, reading_of(captured, row, batch[row], rollouts=kept)


def read_signals(
    model: PreTrainedModel,
    encoding: Mapping[str, Any],
    decoder: Sequence[Tokens],
    *,
    head_reduction: HeadReduction,
    take: Take | None = None,
) -> Iterator[tuple[int, Reading]]:
    """Yield the index and reading of each image or sound, one forward pass for each.

    Args:
        model: The model.
        encoding: What its processor returned.
        decoder: The decoder's tokens of each; empty to explain the encoder alone.
        head_reduction: How the heads become one.
        take: As in `read_samples`.
    """
    rows = signal_rows(encoding, model.main_input_name, model.dtype)
    if decoder and len(decoder) != len(rows):
        raise ArrayError(f"there are {len(rows)} inputs, but {len(decoder)} rows of decoder_input_ids")
    for index, inputs in enumerate(rows):
        if decoder:
            inputs["decoder_input_ids"] = torch.tensor(decoder[index].input_ids)[None]
        inputs = {name: value.to(input_device(model)) for name, value in inputs.items()}
        captured = take(inputs, [index]) if take else capture(model, inputs, head_reduction=head_reduction)
        n_tokens = int(captured.matrices[0].shape[1])
        tokens = signal_tokens(model.config, inputs, n_tokens)
        yield (
            index,
            reading_of(
                captured, 0, Sample(tokens, {}, *decoder[index : index + 1]), is_head_mean=is_head_mean(head_reduction)
            ),
        )


def model_batches(model: PreTrainedModel, samples: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of the samples that go through the model together; one by one where it refuses batches."""
    pad_id = model.config.get_text_config().pad_token_id
    splits = pad_id is None and "ForSequenceClassification" in type(model).__name__  # it refuses batches
    return batches(samples, 1 if splits else batch_size, equal_lengths=reads_padding(model))


def model_inputs(model: PreTrainedModel, tokenizer: Any, batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Return the inputs of a padded batch by name, each `[batch, token]`, where the model takes them."""
    device = input_device(model)
    inputs = collate(batch, padding_id(model, getattr(tokenizer, "pad_token_id", None)))
    return {name: value.to(device) for name, value in inputs.items()}


def reading_of(
    captured: Capture,
    row: int,
    sample: Sample,
    *,
    real: npt.NDArray[np.bool_] | None = None,
    is_head_mean: bool = True,
    rollouts: FloatArray | None = None,
) -> Reading:
    """Return the reading of one row of a forward pass, without its padding.

    Args:
        captured: What the pass gave.
        row: Which row.
        sample: Its input.
        real: Which positions of the row are real, bool `[token]`; by default the first ones.
        is_head_mean: Whether heads were reduced by a mean.
        rollouts: The rollout of some positions, where it was folded.
    """
    n_tokens, n_decoder = len(sample.tokens), len(sample.decoder or ())
    report = captured.report
    tokens = np.arange(n_tokens) if real is None else np.flatnonzero(real)
    nodes = {ENCODER: tokens, DECODER: np.arange(n_decoder), CROSS: np.arange(n_decoder)}
    matrices = []
    for site, matrix in zip(report.sites, captured.matrices, strict=False):
        keys = nodes[DECODER] if site.part == DECODER else tokens
        keys = np.append(0, keys + 1) if report.has_sinks else keys
        matrices.append(_part(matrix[row].numpy(), nodes[site.part], keys))
    logits = None if captured.logits is None else captured.logits[row]
    if logits is not None and logits.ndim == 2 and real is not None and len(logits) == len(real):
        logits = logits[torch.from_numpy(tokens).to(logits.device)]
    target = captured.targets[row] if captured.targets else None
    tolerance: float | None = HALF_ROW_SUM_TOLERANCE if captured.is_half else ROW_SUM_TOLERANCE
    if not captured.are_attention or not is_head_mean:
        tolerance = np.inf if captured.are_attention else None
    residuals = zip(report.sites, captured.residuals, strict=False)
    return Reading(
        tokens=sample.tokens if sample.decoder is None else Tokens.joined(sample.tokens, sample.decoder),
        report=report,
        layout=layout_of(report, n_tokens, n_decoder),
        matrices=tuple(matrices),
        logits=logits,
        row_sum_tolerance=tolerance,
        rollouts=rollouts,
        residuals=tuple(residual[row].numpy()[nodes[site.part]] for site, residual in residuals),
        head_position=None if target is None else target.position,
        target=target,
        unreached=tuple(sorted({report.sites[index].layer for index in captured.unreached})),
    )


def _part(matrix: Matrix, queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> Matrix:
    """Return some rows and columns of a matrix; without a copy where they stand side by side from the first on."""
    n_queries, n_keys = len(queries), len(keys)
    if queries[-1] == n_queries - 1 and keys[-1] == n_keys - 1:
        return matrix[:n_queries, :n_keys]
    return np.asarray(matrix[np.ix_(queries, keys)])


def _add_to_own(matrix: Matrix, residual: Matrix) -> Matrix:
    """Return edge weights with more on each position's own token, whose column is the last but for those behind it."""
    n_queries, n_keys = matrix.shape
    if n_keys - n_queries not in (0, 1):  # a sink may stand in front
        raise CaptureError("positions of cross attention have no token of their own, which a residual could add to")
    found = matrix.copy()
    rows = np.arange(n_queries)
    found[rows, rows + n_keys - n_queries] = np.maximum(found[rows, rows + n_keys - n_queries] + residual, 0.0)
    return found


def is_head_mean(head_reduction: HeadReduction) -> bool:
    """Return whether heads are reduced by a mean, so that rows sum to 1."""
    return not isinstance(head_reduction, str) or head_reduction == "mean"

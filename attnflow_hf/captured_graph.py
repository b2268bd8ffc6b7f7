"""From captured attentions to one layer graph: sinks, layers without attention, encoder and decoder together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnflow_hf.attentions import ROW_SUM_TOLERANCE, are_probabilities, check_probabilities
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport
from attnflow_hf.errors import FloatArray, check_memory
from attnflow_hf.layer_graph import LayerGraph, mix_residual, normalize_rows

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GraphLayout:
    """Where the nodes of a captured graph stand.

    Attributes:
        n_nodes: The nodes of each level: tokens, and in front of them the attention sink where there is one.
        first_token: The node of the first token.
        first_output: The node of the first output position.
        n_outputs: How many output positions there are; of an encoder-decoder model, the decoder's.
        stages: The layer of the graph on top of which each explained layer of the model ends.
    """

    n_nodes: int
    first_token: int
    first_output: int
    n_outputs: int
    stages: tuple[int, ...]


def layout_of(report: CaptureReport, n_tokens: int, n_decoder: int = 0) -> GraphLayout:
    """Return the layout of the graph of a text with `n_tokens`, and `n_decoder` more of a decoder."""
    if report.has_decoder:
        n_encoder_layers = sum(site.part == ENCODER for site in report.sites)
        n_layers = sum(site.part == DECODER for site in report.sites)
        stages = tuple(n_encoder_layers + 2 * layer + 1 for layer in range(n_layers))
        return GraphLayout(n_tokens + n_decoder, 0, n_tokens, n_decoder, stages)
    sink = int(report.has_sinks)
    return GraphLayout(n_tokens + sink, sink, sink, n_tokens, tuple(range(report.n_layers)))


def captured_graph(
    matrices: Sequence[Matrix],
    report: CaptureReport,
    *,
    residual_weight: float = 0.5,
    row_sum_tolerance: float = ROW_SUM_TOLERANCE,
) -> LayerGraph:
    """Return the layer graph of one text's captured attentions.

    Rows are divided by their sums; then `A = (1 - r) W + r I` (Abnar & Zuidema 2020, section 3). Beyond the paper:

    - **Attention sinks.** Rows of some models (gpt-oss) sum to less than 1, as a part of the attention goes to a
      learned sink that holds nothing. Node 0 of each level is that sink; what a row lacks is its edge to it, and from
      the sink the only edge goes to the sink below. So nothing is renormalized away: scores of tokens are what they
      are, and the sink's own score says what went there.
    - **Layers without attention** (state space layers of hybrids) are the residual alone: `A = I`.
    - **Encoder-decoder models.** The nodes of a level are the encoder's positions, then the decoder's. Each encoder
      layer is a stage in which decoder positions pass through (`[[A, 0], [0, I]]`). Each decoder layer is two: its self
      attention, in which the encoder's pass through (`[[I, 0], [0, A]]`), and its cross attention `C` into the last
      encoder level with its own residual (`[[I, 0], [(1 - r) C, r I]]`). The sinks are so the encoder's input tokens
      and the decoder's prefix tokens. Passing through takes nothing away: its capacity is 1, and no flow is more.

    Args:
        matrices: For each site of the report float32 `[query, key]`, heads reduced, without padding.
        report: How they were captured.
        residual_weight: The share `r` of the residual connection, 0 to 1.
        row_sum_tolerance: How far a row may be from 1 before it is divided by its sum: little for means over heads,
            `inf` for a maximum or minimum.

    Returns:
        A graph whose rows sum to 1.

    Raises:
        ArrayError: An entry is no probability, or a row does not sum to 1.

    Example:
        One encoder layer over two tokens, one decoder layer over one, `r = 0.5`. The decoder's position gives half of
        itself to the encoder's last level, evenly to both positions, and keeps half:

        >>> from attnflow_hf.capture_report import Site
        >>> sites = (Site("encoder", 0, 1), Site("decoder", 0, 1), Site("cross", 0, 1))
        >>> report = CaptureReport("Tiny", "interface", sites, n_layers=2)
        >>> encoder, decoder, cross = [[1, 0], [0.5, 0.5]], [[1]], [[0.5, 0.5]]
        >>> graph = captured_graph([np.float32(each) for each in (encoder, decoder, cross)], report)
        >>> graph.n_layers, graph.n_tokens
        (3, 3)
        >>> graph.weights[0]
        array([[1.  , 0.  , 0.  ],
               [0.25, 0.75, 0.  ],
               [0.  , 0.  , 1.  ]])
        >>> graph.weights[2, 2]
        array([0.25, 0.25, 0.5 ])

        Rollout of the decoder's position: half stays; of the rest, half goes by each encoder position,
        `0.25 * [1, 0] + 0.25 * [0.25, 0.75]`:

        >>> from attnflow_hf import rollout
        >>> rollout(graph, output_positions=[2])
        array([[0.3125, 0.1875, 0.5   ]])
    """
    if report.has_decoder:
        for number, matrix in enumerate(matrices):
            check_probabilities(matrix[None], number, row_sum_tolerance)
        return LayerGraph.of_own(_joint_stages(matrices, report, residual_weight))
    return LayerGraph.of_own(_stages(matrices, report, residual_weight, row_sum_tolerance))


def _stages(
    matrices: Sequence[Matrix], report: CaptureReport, residual_weight: float, row_sum_tolerance: float
) -> FloatArray:
    """Return `[layer, query, key]` of one stack of layers."""
    n_tokens = matrices[0].shape[0]
    sink = int(report.has_sinks)
    weights = _empty(report.n_layers, n_tokens + sink)
    with_attention = [site.layer for site in report.sites]
    for layer, matrix in zip(with_attention, matrices, strict=True):
        weights[layer, sink:] = matrix
    weights[:, :sink, 0] = 1.0
    without = sorted(set(range(report.n_layers)) - set(with_attention))
    if without:
        weights[without] = np.eye(n_tokens + sink)
    if not are_probabilities(weights, row_sum_tolerance):
        for layer, matrix in zip(with_attention, matrices, strict=True):
            check_probabilities(matrix[None], layer, row_sum_tolerance)
    normalize_rows(weights)
    mix_residual(weights, residual_weight)
    if without:
        weights[without] = np.eye(n_tokens + sink)
    return weights


def _joint_stages(matrices: Sequence[Matrix], report: CaptureReport, residual_weight: float) -> FloatArray:
    """Return `[stage, query, key]` of an encoder and its decoder."""
    by_part: dict[str, list[FloatArray]] = {ENCODER: [], DECODER: [], CROSS: []}
    for site, matrix in zip(report.sites, matrices, strict=True):
        own = np.array(matrix, dtype=np.float64)[None]
        normalize_rows(own)
        if site.part != CROSS:
            mix_residual(own, residual_weight)
        by_part[site.part].append(own[0])
    n_encoder, n_decoder = by_part[ENCODER][0].shape[0], by_part[DECODER][0].shape[0]
    n_layers = len(by_part[ENCODER])
    weights = _empty(n_layers + 2 * len(by_part[DECODER]), n_encoder + n_decoder)
    weights[:] = np.eye(n_encoder + n_decoder)
    first, second = slice(0, n_encoder), slice(n_encoder, None)
    for layer, own in enumerate(by_part[ENCODER]):
        weights[layer, first, first] = own
    for layer, (own, cross) in enumerate(zip(by_part[DECODER], by_part[CROSS], strict=True)):
        weights[n_layers + 2 * layer, second, second] = own
        weights[n_layers + 2 * layer + 1, second, first] = (1.0 - residual_weight) * cross
        weights[n_layers + 2 * layer + 1, second, second] *= residual_weight
    return weights


def _empty(n_layers: int, n_nodes: int) -> FloatArray:
    check_memory("the layer graph", 8 * n_layers * n_nodes**2)
    return np.zeros((n_layers, n_nodes, n_nodes))

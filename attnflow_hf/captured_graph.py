"""From captured attentions to one layer graph: sinks, layers without attention, encoder and decoder together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from attnflow_hf.attentions import ROW_SUM_TOLERANCE, are_probabilities, check_probabilities
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport
from attnflow_hf.errors import FloatArray, check_memory
from attnflow_hf.layer_graph import LayerGraph, divide_rows, mix_residual

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
    row_sum_tolerance: float | None = ROW_SUM_TOLERANCE,
    normalize_rows: bool = True,
    pass_through: bool = True,
) -> LayerGraph:
    """Return the layer graph of one text's captured attentions, or of other edge weights in their place.

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

    Rows that are not normalized have the same formula. What has no attention in a stage, and passes through, has then
    the residual edge `r` alone, as all others have it beside theirs.

    Args:
        matrices: For each site of the report float32 `[query, key]`, heads reduced, without padding.
        report: How they were captured.
        residual_weight: The share `r` of the residual connection, 0 to 1; `inf` for edges without limit.
        row_sum_tolerance: How far a row may be from 1 before it is divided by its sum: little for means over heads,
            `inf` for a maximum or minimum; `None` for other weights than attention, whose rows may be all zeros.
        normalize_rows: Whether rows are divided by their sums.
        pass_through: Whether what has no attention in a stage passes through; else it has no edge at all.

    Returns:
        A graph whose rows sum to 1 if they are normalized (but for rows of zeros).

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
    mixing = _Mixing(residual_weight, row_sum_tolerance, normalize_rows, pass_through)
    stages = _joint_stages if report.has_decoder else _stages
    return LayerGraph.of_own(stages(matrices, report, mixing))


@dataclass(frozen=True)
class _Mixing:
    """How weights become edges."""

    residual_weight: float
    row_sum_tolerance: float | None
    normalize_rows: bool
    pass_through: bool

    @property
    def through(self) -> float:
        """The residual edge of what has no attention."""
        if not self.pass_through:
            return 0.0
        is_share = 0 < self.residual_weight < inf and not self.normalize_rows
        return self.residual_weight if is_share or self.residual_weight == inf else 1.0

    def check(self, matrix: Matrix, number: int) -> None:
        """Raise `ArrayError` unless attention weights are probabilities."""
        if self.row_sum_tolerance is not None:
            check_probabilities(matrix[None], number, self.row_sum_tolerance)

    def are_right(self, weights: FloatArray) -> bool:
        """Return whether weights `[layer, query, key]` pass `check`; sooner, but without saying why not."""
        return self.row_sum_tolerance is None or are_probabilities(weights, self.row_sum_tolerance)

    def divide(self, weights: FloatArray) -> None:
        """Divide rows by their sums, in place, if they are to be normalized."""
        if not self.normalize_rows:
            return
        if self.row_sum_tolerance is not None:
            divide_rows(weights)
        else:
            sums = weights.sum(axis=-1, keepdims=True)
            np.divide(weights, sums, out=weights, where=sums > 0)


def _stages(matrices: Sequence[Matrix], report: CaptureReport, mixing: _Mixing) -> FloatArray:
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
    if not mixing.are_right(weights):
        for layer, matrix in zip(with_attention, matrices, strict=True):
            mixing.check(matrix, layer)
    mixing.divide(weights)
    mix_residual(weights, mixing.residual_weight)
    if without:
        weights[without] = _straight(n_tokens + sink, mixing.through)
    return weights


def _joint_stages(matrices: Sequence[Matrix], report: CaptureReport, mixing: _Mixing) -> FloatArray:
    """Return `[stage, query, key]` of an encoder and its decoder."""
    by_part: dict[str, list[FloatArray]] = {ENCODER: [], DECODER: [], CROSS: []}
    for number, matrix in enumerate(matrices):
        mixing.check(matrix, number)
    for site, matrix in zip(report.sites, matrices, strict=True):
        own = np.array(matrix, dtype=np.float64)[None]
        mixing.divide(own)
        if site.part != CROSS:
            mix_residual(own, mixing.residual_weight)
        by_part[site.part].append(own[0])
    n_encoder, n_decoder = by_part[ENCODER][0].shape[0], by_part[DECODER][0].shape[0]
    n_layers = len(by_part[ENCODER])
    weights = _empty(n_layers + 2 * len(by_part[DECODER]), n_encoder + n_decoder)
    weights[:] = _straight(n_encoder + n_decoder, mixing.through)
    first, second = slice(0, n_encoder), slice(n_encoder, None)
    for layer, own in enumerate(by_part[ENCODER]):
        weights[layer, first, first] = own
    share = 1.0 if mixing.residual_weight == inf else 1.0 - mixing.residual_weight
    for layer, (own, cross) in enumerate(zip(by_part[DECODER], by_part[CROSS], strict=True)):
        weights[n_layers + 2 * layer, second, second] = own
        weights[n_layers + 2 * layer + 1, second, first] = share * cross
        weights[n_layers + 2 * layer + 1, second, second] = _straight(n_decoder, mixing.residual_weight)
    return weights


def _straight(n_nodes: int, capacity: float) -> FloatArray:
    """Return edges `[query, key]` straight down alone."""
    edges = np.zeros((n_nodes, n_nodes))
    np.fill_diagonal(edges, capacity)
    return edges


def _empty(n_layers: int, n_nodes: int) -> FloatArray:
    check_memory("the layer graph", 8 * n_layers * n_nodes**2)
    return np.zeros((n_layers, n_nodes, n_nodes))

"""`column_sums`: what tokens get of all edge weights together, without any path; the floor of flow and rollout."""

from __future__ import annotations

from attnflow_hf.evaluation.scored import ScoredTokens
from attnflow_hf.options import Options
from attnflow_hf.reader import Reading


def column_sums(reading: Reading, layer: int, options: Options) -> ScoredTokens:
    """Return for each token the sum of its columns: the edge weights into it, of all queries in all layers up to one.

    There is no residual in it and no path: a weight counts the same wherever it stands, whether or not the output
    position draws on its query. A method that follows paths, as flow does, has to be better than that.

    Args:
        reading: What the model made of a text.
        layer: The highest layer that counts.
        options: Those of the edge weights; rows are divided by their sums as `normalize_rows` says.

    Raises:
        CaptureError: The edge weights make no graph.
    """
    weights = reading.graph(0.0, normalize_rows=options.divides_rows, pass_through=False).weights
    top, first = reading.layout.stages[layer], reading.layout.first_token
    return ScoredTokens(reading.tokens, weights[: top + 1].sum(axis=(0, 1))[first:])

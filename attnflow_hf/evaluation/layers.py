"""`layer_table`: the scores of every layer as rows, what heat maps of layers and tokens are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation.scored import each_layer
from attnflow_hf.evaluation.table import ResultTable


def layer_table(attributions: Attribution | Sequence[Attribution], **config: Any) -> ResultTable:
    """Return the scores of every layer and token, a row each: the data of figures 2 and 3 of Abnar & Zuidema (2020).

    Args:
        attributions: One with `layer="all"`, or several: of several methods, of several texts.
        config: What shall be saved with them, such as `model="..."`.

    Returns:
        Rows with `text`, `method`, `layer` (the lowest is 0), `position` (which token of the tokenizer's output),
        `token` and `value`. `to_markdown(rows=["position", "token"], columns="layer")` of one text and method turns
        them; `save` writes JSON.

    Raises:
        OptionError: An attribution is not of all layers, or of several output positions; or its text is not known.

    Example:
        >>> attributions = [attributor("the key", method=m, layer="all") for m in ("raw", "flow")]  # doctest: +SKIP
        >>> layer_table(attributions, model="verb_number").save("figure.json")  # doctest: +SKIP
    """
    several = [attributions] if isinstance(attributions, Attribution) else attributions
    return ResultTable.from_rows([row for each in several for row in _rows(each)], config=config)


def _rows(attribution: Attribution) -> list[dict[str, Any]]:
    if not attribution.texts:
        raise OptionError("this attribution does not know its text, by which rows are told apart; attribute a text")
    tokens = attribution.alignment
    return [
        {
            "method": attribution.method,
            "layer": layer,
            "value": score,
            "text": " | ".join(attribution.texts),
            "position": position,
            "token": token,
        }
        for layer, scored in enumerate(each_layer(attribution))
        for position, token, score in zip(tokens.positions, tokens.tokens, scored.scores, strict=True)
    ]

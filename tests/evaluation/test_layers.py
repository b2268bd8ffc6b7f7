import numpy as np
import pytest
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import OptionError
from attnflow_hf.evaluation import ResultTable, layer_table


@pytest.fixture
def attributor():
    return Attributor(bert(), tokenizer())


def test_rows_are_the_scores_of_every_layer_and_come_back_from_json(attributor, tmp_path):
    texts, methods = ["the key", "an old table"], ("raw", "rollout", "flow")
    found = [attributor(text, method=method, layer="all") for text in texts for method in methods]
    layer_table(found, model="bert").save(tmp_path / "layers.json")
    table = ResultTable.load(tmp_path / "layers.json")
    assert dict(table.config) == {"model": "bert"}
    for each in found:
        rows = table.where(text=each.texts[0], method=each.method).rows
        assert [(row["layer"], row["position"]) for row in rows] == list(np.ndindex(3, len(each.tokens)))
        assert [row["token"] for row in rows] == [*each.tokens] * 3
        np.testing.assert_array_equal([row["value"] for row in rows], each.scores.ravel())


def test_positions_are_those_of_the_tokenizers_output(attributor):
    table = layer_table(attributor("the key", method="raw", layer="all", special_tokens="drop"))
    assert [(row["position"], row["token"]) for row in table.where(layer=2).rows] == [(1, "the"), (2, "key")]


def test_what_has_no_layers_or_text(attributor):
    with pytest.raises(OptionError, match="attribute with layer='all'"):
        layer_table(attributor("the key"))
    encoding = tokenizer()("the key", return_tensors="pt")
    with pytest.raises(OptionError, match="does not know its text"):
        layer_table(attributor(dict(encoding), layer="all"))

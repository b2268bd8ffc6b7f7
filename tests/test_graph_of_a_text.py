"""`Attributor.layer_graph`: the graph that a method reads gives that method's numbers."""

import numpy as np
import pytest
from architectures import ARCHITECTURES
from tiny_models import bert, tokenizer

from attnflow_hf import Attributor, Options, flow, rollout
from attnflow_hf.errors import OptionError

TEXT = "the key to old cabinets"
BY_NAME = {each.name: each for each in ARCHITECTURES}


@pytest.mark.parametrize("options", [{}, {"residual_weight": 0.8}, {"edge_weights": "alti"}, {"edge_weights": "norms"}])
def test_the_backends_give_an_attributions_numbers(options):
    attributor = Attributor(bert(), tokenizer())
    for method, function in (("flow", flow), ("rollout", rollout)):
        graph = attributor.layer_graph(TEXT, method=method, options=Options(**options))
        wanted = attributor(TEXT, method=method, normalize="none", output_position=3, **options).scores
        np.testing.assert_allclose(function(graph, output_positions=[3])[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("baseline", [None, "mask"])
def test_a_graph_of_a_target_has_residual_edges_without_limit(baseline):
    attributor = Attributor(bert(), tokenizer())
    options = {"edge_weights": "grad_attention", "target": 1, "baseline": baseline}
    graph = attributor.layer_graph(TEXT, options=Options(**options))
    assert np.isinf(np.diagonal(graph.weights, axis1=1, axis2=2)).all()
    wanted = attributor(TEXT, method="flow", normalize="none", **options)
    result = flow(graph, output_positions=[0], certificate=True, paths=True)
    np.testing.assert_allclose(result.values[0, 1:], wanted.scores[1:], rtol=1e-5)
    best = 1 + int(wanted.scores[1:].argmax())
    np.testing.assert_allclose(sum(path.amount for path in result.paths(0, best)), wanted.scores[best], rtol=1e-5)


def test_sinks_and_decoders_are_nodes():
    graph = Attributor(BY_NAME["gpt_oss"].build()).layer_graph(
        {name: value[:1] for name, value in BY_NAME["gpt_oss"].inputs().items()}, method="rollout"
    )
    assert graph.n_tokens == 17
    both = Attributor(BY_NAME["bart"].build(), tokenizer()).layer_graph(TEXT, text_target="key")
    assert both.n_tokens == len(tokenizer()(TEXT)["input_ids"]) + len(tokenizer()("key")["input_ids"])


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([TEXT], {}, "layer_graph takes one text"),
        (tokenizer()([TEXT, "key"], padding=True, return_tensors="pt"), {}, "that of one text, got 2"),
        (TEXT, {"method": "flows"}, "did you mean 'flow'"),
        (TEXT, {"options": Options(keep="rollout"), "method": "rollout"}, "keeps none of them"),
    ],
)
def test_what_has_no_graph(inputs, options, message):
    with pytest.raises(OptionError, match=message):
        Attributor(bert(), tokenizer()).layer_graph(inputs, **options)

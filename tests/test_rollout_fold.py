import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from graph_makers import mix, softmax
from tiny_models import bert, gpt2, tokenizer

from attnflow_hf import Attributor, LayerGraph, Options, rollout
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport, Site
from attnflow_hf.errors import AttnFlowError, CaptureError, OptionError, PositionError
from attnflow_hf.rollout_fold import RolloutFold

TEXTS = ["the key to the old cabinets is on a table", "the key", "one longer text and another text", "the cat sat"]
BY_NAME = {each.name: each for each in ARCHITECTURES}
MODELS = {"bert": bert, "gpt2": gpt2, "jamba": BY_NAME["jamba"].build, "gpt_oss": BY_NAME["gpt_oss"].build}
TOLERANCE = 1e-12


@pytest.fixture(scope="module", params=MODELS)
def attributor(request):
    return Attributor(MODELS[request.param](), tokenizer(), batch_size=3)


def same(got, wanted):
    assert got.tokens == wanted.tokens
    assert (got.output_position, got.layer) == (wanted.output_position, wanted.layer)
    assert (got.prediction, got.notes) == (wanted.prediction, wanted.notes)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=TOLERANCE)
    if wanted.sink_scores is None:
        assert got.sink_scores is None
    else:
        np.testing.assert_allclose(got.sink_scores, wanted.sink_scores, rtol=0, atol=TOLERANCE)


def same_as_kept_layers(attributor, inputs, **options):
    folded = attributor(inputs, method="rollout", keep="rollout", **options)
    kept = attributor(inputs, method="rollout", **options)
    for got, wanted in zip(folded, kept, strict=True):
        same(got, wanted)
        assert (got.backend, wanted.backend) == ("fold", "numpy")
    return folded


# By hand


def test_worked_example():
    """`r = 0.5`: both layers are `[[1, 0], [1/4, 3/4]]`; twice, position 1 gives `1/4 + 3/4 1/4 = 7/16` to token 0."""
    report = CaptureReport("Tiny", "interface", tuple(Site("encoder", i, 1) for i in range(2)), n_layers=2)
    fold = RolloutFold(report, positions=[[1]])
    for index in range(2):
        fold.receive(index, torch.tensor([[[1, 0], [0.5, 0.5]]]))
    fold.finish()
    torch.testing.assert_close(fold.matrix, torch.tensor([[[1, 0], [7 / 16, 9 / 16]]], dtype=torch.float64))
    np.testing.assert_array_equal([rows[0].numpy() for rows in fold.rows], [[[0.25, 0.75]], [[7 / 16, 9 / 16]]])


@pytest.mark.parametrize("residual", [0, 0.3, 1])
@pytest.mark.parametrize("with_attention", [(0, 1, 2, 3), (1, 3), (0, 3), (0, 1), (2,)])
def test_layers_without_attention_keep_what_is_below(with_attention, residual):
    weights = softmax(np.random.default_rng(0).normal(size=(4, 5, 5)) * 2)
    report = CaptureReport("Tiny", "interface", tuple(Site("encoder", i, 1) for i in with_attention), n_layers=4)
    fold = RolloutFold(report, residual_weight=residual, positions=[[0, 2, 4]])
    for index, layer in enumerate(with_attention):
        fold.receive(index, torch.tensor(weights[layer][None]))
    fold.finish()
    layers = [mix(weights[i], residual) if i in with_attention else np.eye(5) for i in range(4)]
    wanted = rollout(LayerGraph(np.stack(layers)), output_positions=[0, 2, 4], layer="all")
    np.testing.assert_allclose(torch.stack([rows[0] for rows in fold.rows]).numpy(), wanted, rtol=0, atol=TOLERANCE)


def test_without_positions_only_the_last_layer_is_kept():
    report = CaptureReport("Tiny", "interface", (Site("encoder", 1, 1),), n_layers=3)
    fold = RolloutFold(report, residual_weight=0)
    fold.receive(0, torch.tensor([[[0.25, 0.75], [1, 0]]]))
    fold.finish()
    assert fold.rows == []
    np.testing.assert_array_equal(fold.matrix.numpy(), [[[0.25, 0.75], [1, 0]]])


def test_an_encoder_and_its_decoder_are_not_folded():
    sites = (Site(ENCODER, 0, 1), Site(DECODER, 0, 1), Site(CROSS, 0, 1))
    with pytest.raises(CaptureError, match="rollout is folded for one stack of layers; keep the layers of encoder-dec"):
        RolloutFold(CaptureReport("Tiny", "interface", sites, n_layers=2))


# By the attributor


@pytest.mark.parametrize("layer", [-1, 1, "all"])
@pytest.mark.parametrize("position", ["auto", "mean", "all", 1, -1])
def test_same_numbers_as_with_kept_layers(attributor, layer, position):
    same_as_kept_layers(attributor, TEXTS, layer=layer, output_position=position)


@pytest.mark.parametrize("options", [{"head_reduction": "max"}, {"head_reduction": [0, 2]}, {"residual_weight": 0}])
def test_same_numbers_with_every_option_of_the_graph(attributor, options):
    same_as_kept_layers(attributor, TEXTS, **options)
    same_as_kept_layers(attributor, TEXTS, output_position="all", layer="all", normalize="none", **options)


@pytest.mark.parametrize("options", [{"special_tokens": "drop"}, {"first_token": "zero", "normalize": "max"}])
def test_same_numbers_with_every_option_of_the_readout(attributor, options):
    same_as_kept_layers(attributor, TEXTS, **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_an_encoding_changes_nothing(attributor, side):
    encoding = tokenizer(padding_side=side)(TEXTS, return_tensors="pt", padding=True)
    folded = same_as_kept_layers(attributor, encoding, output_position="mean", layer="all")
    for found, text in zip(folded, TEXTS, strict=True):
        single = attributor(text, method="rollout", keep="rollout", output_position="mean", layer="all")
        np.testing.assert_allclose(found.scores, single.scores, rtol=0, atol=1e-6)


def test_sink_scores_are_what_the_rows_lack():
    attributor = Attributor(MODELS["gpt_oss"](), tokenizer())
    found = attributor(TEXTS[0], method="rollout", keep="rollout", layer="all", output_position="all", normalize="none")
    assert found.sink_scores.shape == (3, 12)
    assert found.sink_scores.max() > 0.3
    np.testing.assert_allclose(found.scores.sum(axis=-1) + found.sink_scores, 1, rtol=0, atol=TOLERANCE)


def test_a_single_text_is_a_single_attribution():
    attributor = Attributor(bert(), tokenizer())
    found = attributor(TEXTS[0], method="rollout", keep="rollout")
    same(found, attributor(TEXTS[0], method="rollout"))
    assert attributor([], method="rollout", keep="rollout") == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "flow"}, OptionError, r"keep='rollout' keeps no layers, .* alone, got \['flow'\]"),
        ({"method": "raw"}, OptionError, r"it serves method='rollout' alone, got \['raw'\]"),
        ({"position_correction": "uniform"}, OptionError, "it has no position_correction and no choice of a backend"),
        ({"backend": "numpy"}, OptionError, "it has no position_correction and no choice of a backend"),
        ({"keep": "nothing"}, OptionError, "unknown keep 'nothing'; choose one of 'layers', 'rollout'"),
        ({"layer": 4}, PositionError, "layer 4 is out of range"),
        ({"output_position": 12}, PositionError, "output_position 12 is out of range: there are 12"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        Attributor(gpt2(), tokenizer())(TEXTS[0], **{"method": "rollout", "keep": "rollout", **options})


def test_images_keep_their_layers():
    architecture = BY_NAME["vit"]
    with pytest.raises(OptionError, match="keep='rollout' is for text and one stack of layers, not for images"):
        Attributor(architecture.build())(architecture.inputs(), method="rollout", keep="rollout")


def test_compare_keeps_layers_for_several_methods():
    attributor = Attributor(gpt2(), tokenizer())
    with pytest.raises(OptionError, match="serves method='rollout' alone, got"):
        attributor.compare(TEXTS[0], options=Options(keep="rollout"))
    found = attributor.compare(TEXTS[0], methods=["rollout"], options=Options(keep="rollout"))
    same(found["rollout"], attributor(TEXTS[0], method="rollout"))


def test_a_target_is_refused():
    attributor = Attributor(BY_NAME["bart"].build(), tokenizer())
    with pytest.raises(AttnFlowError, match=r"rollout is folded for one stack|keep='rollout'"):
        attributor(TEXTS[0], text_target=TEXTS[1], method="rollout", keep="rollout")

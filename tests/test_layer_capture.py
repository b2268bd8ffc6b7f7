"""Edge weights made of captured layers: ALTI and norms against direct implementations, laws, and users' functions."""

import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from architectures import ARCHITECTURES, PRESENT, is_counted
from datasets import Dataset
from tiny_models import BERT, bert, gpt2, llama, make, tokenizer
from transformers import pipeline

from attnflow_hf import (
    Attributor,
    CapturedLayer,
    LayerGraph,
    Options,
    attach,
    flow,
    register_edge_weights,
    rollout,
    run_dataset,
)
from attnflow_hf import captured_layer as captured_layer_module
from attnflow_hf.capture import report_on
from attnflow_hf.edge_weights import EDGE_WEIGHTS
from attnflow_hf.errors import CaptureError, OptionError
from attnflow_hf.layer_capture import capture_layers
from attnflow_hf.run_page import page_of_run

BY_NAME = {each.name: each for each in ARCHITECTURES}
JIT = "ignore:.*torch.jit.script:DeprecationWarning"  # of DeBERTa in older Transformers
IDS = torch.tensor([[2, 7, 8, 9, 11, 12, 13, 5, 6, 3], [2, 14, 5, 6, 7, 8, 3, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
TEXTS = ["the key to old cabinets", "a cat sat on the table near one another", "key"]
SEEN = frozenset(
    """
    bert roberta distilbert electra modernbert eurobert xlm-roberta xlm-roberta-xl camembert ernie data2vec-text
    roberta-prelayernorm xmod esm layoutlm splinter nomic_bert gte jina_embeddings_v3 ultrabert openai_privacy_filter
    clip_text_model siglip_text_model gpt2 gpt_bigcode ctrl biogpt bert(causal) llama mistral mixtral qwen2
    qwen2(window) qwen2_moe qwen3 qwen3_moe gemma vaultgemma phi3 phimoe smollm3 gpt_oss deepseek_v2 deepseek_v3 glm
    glm4_moe ernie4_5 ernie4_5_moe olmo olmoe granite stablelm starcoder2 nemotron persimmon helium hunyuan_v1_dense
    hunyuan_v1_moe seed_oss apertus arcee nanochat minimax_m2 mimo_v2_flash doge llama4_text dbrx modernbert-decoder
    jamba bamba granitemoehybrid lfm2 lfm2_moe recurrent_gemma kimi_linear vit deit dinov2 dinov2_with_registers
    dinov3_vit ijepa yolos dpt videomae vivit clip_vision_model siglip_vision_model aimv2_vision_model wav2vec2 hubert
    unispeech data2vec-audio sew audio-spectrogram-transformer
    """.split()
)
"""The architectures whose blocks are understood."""
REFUSED = {  # of those that are captured: why
    "albert": "do not stand in a list",
    "bart": "a second attention",
    "bitnet": "no linear module",
    "deberta": "captured by hooks",
    "gemma2": "not added to the layer's input",
    "gpt_neox": "not added to the layer's input",
    "xlnet": "captured by eager",
}


@pytest.fixture
def registry():
    """Users' edge weights are forgotten after the test."""
    before = dict(EDGE_WEIGHTS)
    yield
    EDGE_WEIGHTS.clear()
    EDGE_WEIGHTS.update(before)


def parts_of(model, layer):
    """By the names of the model's own modules: value projection, its input's norm, output projection, norm behind."""
    if model.config.model_type in ("bert", "roberta", "electra"):
        block = model.base_model.encoder.layer[layer].attention
        return block.self.value, None, block.output.dense, block.output.LayerNorm
    if model.config.model_type == "distilbert":
        block = model.base_model.transformer.layer[layer]
        return block.attention.v_lin, None, block.attention.out_lin, block.sa_layer_norm
    if model.config.model_type == "gpt2":
        block = model.base_model.h[layer]
        return lambda x: block.attn.c_attn(x)[..., -x.shape[-1] :], block.ln_1, block.attn.c_proj, None
    block = model.base_model.layers[layer]
    return block.self_attn.v_proj, block.input_layernorm, block.self_attn.o_proj, None


def direct(model, inputs, measure):
    """Edge weights of every layer by explicit vectors `[batch, query, key, hidden]`; alone, and with the residual."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
        for layer, attention in enumerate(outputs.attentions):
            x = outputs.hidden_states[layer]
            to_values, norm_before, projection, norm_behind = parts_of(model, layer)
            values = to_values(x if norm_before is None else norm_before(x))
            heads, size = attention.shape[1], x.shape[-1] // attention.shape[1]
            values = values.view(*values.shape[:2], -1, size)
            values = torch.stack([values[:, :, head * values.shape[2] // heads] for head in range(heads)], dim=2)
            zero = projection(torch.zeros(heads * size))
            vectors = 0
            for head in range(heads):  # what each head carries, as the projection makes it
                alone = torch.zeros(*values.shape[:2], heads * size)
                alone[..., head * size : (head + 1) * size] = values[:, :, head]
                vectors = vectors + attention[:, head, :, :, None] * (projection(alone) - zero)[:, None]
            total = x + zero + vectors.sum(2)
            residual = torch.eye(x.shape[1])[None, :, :, None] * x[:, :, None]
            output = total
            if norm_behind is not None:
                deviation = (total.var(-1, correction=0, keepdim=True) + norm_behind.eps).sqrt()[:, :, None]

                def linear(each, norm=norm_behind, deviation=deviation):
                    return (each - each.mean(-1, keepdim=True)) / deviation * norm.weight

                vectors, residual, output = linear(vectors), linear(residual), norm_behind(total)
            yield measure(vectors, output[:, :, None]), measure(vectors + residual, output[:, :, None])


def closeness(vectors, output):
    return torch.relu(output.norm(p=1, dim=-1) - torch.cdist(output, vectors, p=1)[:, :, 0])


def lengths(vectors, output):
    return (vectors**2).sum(-1) ** 0.5


DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
BLOCKS = {
    "bert": bert,
    "roberta": lambda: make("RobertaConfig", "RobertaForMaskedLM", **BERT, max_position_embeddings=66),
    "electra": lambda: make("ElectraConfig", "ElectraForMaskedLM", **BERT, embedding_size=16),
    "distilbert": lambda: make("DistilBertConfig", "DistilBertForMaskedLM", **DISTIL),
    "gpt2": gpt2,
    "llama, grouped queries": llama,
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("edge_weights", "measure"), [("alti", closeness), ("norms", lengths)])
def test_the_weights_are_those_of_explicit_vectors(name, edge_weights, measure):
    model = BLOCKS[name]()
    with torch.no_grad():  # a new model's biases are zero
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    captured = capture_layers(model, INPUTS, edge_weights)
    found = zip(captured.matrices, captured.residuals, strict=True)
    for (weights, residual), (alone, together) in zip(found, direct(model, INPUTS, measure), strict=True):
        for row, n_real in enumerate((10, 7)):
            real = (row, slice(n_real), slice(n_real))
            torch.testing.assert_close(weights[real], alone[real], rtol=1e-4, atol=1e-4)
            with_residual = weights[real].diagonal() + residual[row, :n_real]
            torch.testing.assert_close(with_residual, together[real].diagonal(), rtol=1e-4, atol=1e-4)
        assert not weights[1, 7:].any()
        assert not weights[1, :, 7:].any()


def law_of(layer: CapturedLayer) -> torch.Tensor:
    """All parts of the output are there: what is missing are the biases, the same at each position."""
    missing = layer.output - layer.transformed().sum(1) - layer.residual
    block = layer._known
    if block.scale is not None:
        # `missing = scale * centered bias + the norm's bias`: two positions tell both, all others must fit
        left = torch.stack([block.scale[:, 0], torch.ones(len(missing))], dim=1)
        fitted = left @ torch.linalg.lstsq(left, missing).solution
        assert torch.allclose(missing, fitted, atol=2e-3 * float(layer.output.abs().max()))
    else:
        assert torch.allclose(missing, missing[:1].expand_as(missing), atol=1e-3 * float(layer.output.abs().max()))
    return layer.attention.mean(0)


@pytest.mark.filterwarnings(JIT)
@pytest.mark.parametrize("architecture", [each for each in PRESENT if each.kind != "seq2seq"], ids=str)
def test_the_parts_sum_to_the_blocks_output_or_the_model_is_refused(architecture, registry):
    model, inputs = architecture.build(), architecture.inputs()
    try:
        report_on(model, with_decoder="decoder_input_ids" in inputs, like=inputs)
    except CaptureError:
        pytest.skip("not captured at all")
    register_edge_weights("law")(law_of)
    try:
        captured, why = capture_layers(model, inputs, "law"), ""
    except CaptureError as error:
        captured, why = None, str(error)
    if captured is None:
        assert "Choose edge_weights='attention' or" in why or "cannot read" in why
    else:
        assert captured.residuals == ()
        assert not captured.are_attention
    if is_counted():
        assert (captured is not None) == (architecture.name in SEEN)
        assert REFUSED.get(architecture.name, "") in why


def test_the_readme_counts_them():
    assert f"So {len(SEEN)} of the 171 architectures" in (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_what_a_layer_has(registry):
    seen = []

    @register_edge_weights("seen")
    def look(layer):
        seen.append(layer)
        return layer.attention.mean(dim=0)

    capture_layers(llama(), INPUTS, "seen")
    assert [(layer.index, layer.attention.shape[1]) for layer in seen] == [(i, n) for i in range(3) for n in (10, 7)]
    layer = seen[1]
    assert (layer.part, layer.attention.shape) == ("encoder", (4, 7, 7))
    assert layer.values.shape == (4, 7, 8)
    assert torch.equal(layer.values[0], layer.values[1])  # two heads share their keys and values
    assert layer.projected_values.shape == (4, 7, 32)
    assert layer.residual.shape == layer.output.shape == (7, 32)
    by_hand = torch.einsum("hqk,hkd->qkd", layer.attention, layer.projected_values)
    torch.testing.assert_close(layer.transformed(), by_hand)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_blocks_change_nothing(name, monkeypatch):
    model = BLOCKS[name]()
    whole = capture_layers(model, INPUTS, "alti")
    monkeypatch.setattr(captured_layer_module, "_BLOCK", 400)
    in_blocks = capture_layers(model, INPUTS, "alti")
    for first, second in zip(whole.matrices + whole.residuals, in_blocks.matrices + in_blocks.residuals, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_a_text_is_the_same_alone_and_in_a_batch(name, padding_side):
    attributor = Attributor(BLOCKS[name](), tokenizer(padding_side=padding_side))
    for alone, together in zip(
        [attributor(text, method="rollout", edge_weights="alti") for text in TEXTS],
        attributor(TEXTS, method="rollout", edge_weights="alti"),
        strict=True,
    ):
        np.testing.assert_allclose(together.scores, alone.scores, atol=2e-5)
    encoding = tokenizer(padding_side=padding_side)(TEXTS, padding=True, return_tensors="pt")
    for alone, together in zip(
        attributor(TEXTS, method="rollout", edge_weights="alti"),
        attributor(encoding, method="rollout", edge_weights="alti"),
        strict=True,
    ):
        np.testing.assert_allclose(together.scores, alone.scores, atol=2e-5)


def graph_of(attributor, text, *, with_residual, **options):
    """The layer graph by hand, of what was captured."""
    captured = capture_layers(attributor.model, attributor.tokenizer(text, return_tensors="pt"), "alti")
    weights = torch.stack(captured.matrices)[:, 0].double().numpy()
    if with_residual:
        weights = weights + np.stack([np.diag(each[0].double().numpy()) for each in captured.residuals])
    return LayerGraph.from_weights(weights, **options)


def test_residuals_are_measured_or_a_number_or_unlimited():
    attributor, text = Attributor(bert(), tokenizer()), TEXTS[0]

    def scores(method, **options):
        found = attributor(text, method=method, edge_weights="alti", normalize="none", output_position=0, **options)
        return found.scores, found.residual_weight

    measured = graph_of(attributor, text, with_residual=True, residual_weight=0.0)
    for options in ({}, {"residual_weight": "measured"}):
        found, residual = scores("rollout", **options)
        assert residual == "measured"
        np.testing.assert_allclose(found, rollout(measured, output_positions=[0])[0], rtol=1e-6)
    found, residual = scores("flow", backend="networkx")
    assert residual == "measured"
    np.testing.assert_allclose(found, flow(measured, output_positions=[0], backend="networkx")[0], rtol=1e-6)
    np.testing.assert_allclose(scores("flow")[0], found, rtol=1e-6)
    assert (scores("rollout")[0] <= found + 1e-9).all()
    found, residual = scores("rollout", residual_weight=0.75)
    assert residual == 0.75
    chosen = graph_of(attributor, text, with_residual=False, residual_weight=0.75)
    np.testing.assert_allclose(found, rollout(chosen, output_positions=[0])[0], rtol=1e-6)
    found, residual = scores("flow", residual_weight="unlimited", normalize_rows=False)
    assert residual == "unlimited"
    free = graph_of(attributor, text, with_residual=False, residual_weight="unlimited", normalize_rows=False)
    np.testing.assert_allclose(found[1:], flow(free, output_positions=[0], backend="networkx")[0][1:], rtol=1e-6)
    raw = graph_of(attributor, text, with_residual=False, residual_weight=0.0)
    np.testing.assert_allclose(scores("raw")[0], raw.weights[-1, 0], rtol=1e-6)


def test_an_attribution_tells_how_it_was_made_and_is_stored(tmp_path):
    found = Attributor(bert(), tokenizer())(TEXTS[0], method="rollout", edge_weights="alti")
    assert (found.edge_weights, found.residual_weight, found.head_reduction) == ("alti", "measured", "own")
    assert (found.target, found.relu, found.normalize_rows) == (None, None, True)
    found.save(tmp_path / "a.json")
    again = type(found).load(tmp_path / "a.json")
    assert (again.residual_weight, again.head_reduction) == ("measured", "own")
    assert found.summary().startswith("rollout on alti, layer 2")


def test_ten_lines_make_edge_weights_of_ones_own(registry):
    @register_edge_weights("value_norms", residual_weight=0.8)
    def value_norms(layer: CapturedLayer) -> torch.Tensor:
        lengths = layer.values.norm(dim=-1)
        return (layer.attention * lengths[:, None]).mean(dim=0)

    attributor = Attributor(bert(), tokenizer())
    found = attributor(TEXTS[0], method="rollout", edge_weights="value_norms")
    assert (found.edge_weights, found.residual_weight) == ("value_norms", 0.8)
    plain = attributor(TEXTS[0], method="rollout", residual_weight=0.8)
    assert not np.allclose(found.scores, plain.scores)
    register_edge_weights("value_norms")(lambda layer: layer.attention.mean(dim=0).numpy())  # anew, as in a notebook
    again = attributor(TEXTS[0], method="flow", edge_weights="value_norms")
    np.testing.assert_allclose(again.scores, attributor(TEXTS[0], method="flow").scores, rtol=1e-5)


@pytest.mark.filterwarnings(JIT)
@pytest.mark.parametrize("name", ["albert", "deberta", "xlnet", "gpt_oss", "jamba", "bart", "t5"])
def test_functions_of_attention_alone_serve_every_architecture(name, registry):
    register_edge_weights("mean")(lambda layer: layer.attention.mean(dim=0))
    model, inputs = BY_NAME[name].build(), BY_NAME[name].inputs()
    if name == "gpt_oss":  # whose rows lack what goes to the sink, which has no weight here
        register_edge_weights("mean")(
            lambda layer: layer.attention.mean(dim=0) / layer.attention.mean(0).sum(-1)[:, None]
        )
    attributor = Attributor(model)
    for found, plain in zip(
        attributor(inputs, edge_weights="mean", method="rollout", normalize="none"),
        attributor(inputs, method="rollout", normalize="none"),
        strict=True,
    ):
        if name == "gpt_oss":
            np.testing.assert_allclose(found.scores.sum(), 1, atol=1e-5)
            assert not found.sink_scores.any()
        else:
            np.testing.assert_allclose(found.scores, plain.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda layer: layer.attention, r" must be \[query, key\] \[7, 7\], got \[4, 7, 7\]"),
        (lambda layer: layer.attention.mean(0)[:, 1:], r"must be \[query, key\] \[7, 7\], got \[7, 6\]"),
        (lambda layer: layer.attention.mean(0) - 1, "must not be negative, got -"),
        (lambda layer: layer.attention.mean(0) / 0, "must be finite"),
        (lambda layer: layer.attention.mean(0) * float("nan"), "must be finite"),
        (lambda layer: "edges", r"must be a tensor \[query, key\], got str"),
        (lambda layer: None, r"must be a tensor \[query, key\], got NoneType"),
        (lambda layer: layer.attentions, "failed: AttributeError: .*attentions"),
        (lambda layer: (layer.attention.mean(0), torch.zeros(3)), r"the residual must be \[query\] \[7\], got \[3\]"),
    ],
)
def test_bad_functions_are_told_by_name_and_layer(function, message, registry):
    register_edge_weights("mine")(function)
    model = bert()
    with pytest.raises(CaptureError, match=f"edge_weights='mine' of layer 0.*{message}"):
        Attributor(model, tokenizer())(TEXTS[0], edge_weights="mine")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_function_that_says_measured_returns_a_pair(registry):
    register_edge_weights("mine", residual_weight="measured")(lambda layer: layer.attention.mean(0))
    with pytest.raises(CaptureError, match="let their function return a pair"):
        Attributor(bert(), tokenizer())(TEXTS[0], edge_weights="mine")


def test_registration_refuses(registry):
    for name in ("attention", "alti", "a:b", "", 3):
        with pytest.raises(OptionError, match="name must be a word"):
            register_edge_weights(name)
    with pytest.raises(OptionError, match="residual_weight must be a number"):
        register_edge_weights("mine", residual_weight=2)
    with pytest.raises(OptionError, match="normalize_rows must be"):
        register_edge_weights("mine", normalize_rows="no")
    with pytest.raises(OptionError, match="made by a function"):
        register_edge_weights("mine")("function")
    register_edge_weights("mine", residual_weight="unlimited")(lambda layer: layer.attention.mean(0))
    attributor = Attributor(bert(), tokenizer())
    assert attributor(TEXTS[0], edge_weights="mine").residual_weight == "unlimited"
    with pytest.raises(OptionError, match="method='rollout' has no default with edge_weights='mine'"):
        attributor(TEXTS[0], edge_weights="mine", method="rollout")


def test_functions_are_found_by_their_place(tmp_path, monkeypatch, registry):
    (tmp_path / "my_edges.py").write_text(
        "from attnflow_hf import register_edge_weights\n"
        "@register_edge_weights('heads', residual_weight=0.25)\n"
        "def first_head(layer):\n"
        "    return layer.attention[0]\n"
        "def plain(layer):\n"
        "    return layer.attention.mean(0)\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    attributor = Attributor(bert(), tokenizer())
    found = attributor(TEXTS[0], method="rollout", edge_weights="my_edges:first_head")
    assert found.residual_weight == 0.25  # as it has registered itself
    np.testing.assert_allclose(
        found.scores, attributor(TEXTS[0], method="rollout", head_reduction=0, residual_weight=0.25).scores, atol=1e-6
    )
    found = attributor(TEXTS[0], method="rollout", edge_weights="my_edges:plain")
    np.testing.assert_allclose(found.scores, attributor(TEXTS[0], method="rollout").scores, atol=1e-6)
    for place, message in [
        ("my_edges:nothing", "names no function that can be imported"),
        ("no_such_module:plain", "PYTHONPATH=."),
        ("my_edges:number", "is int, and no function"),
    ]:
        with pytest.raises(OptionError, match=message):
            attributor(TEXTS[0], edge_weights=place)
    sys.modules["my_edges"].plain = lambda layer: layer.attention[1]  # as reloaded
    register_edge_weights("heads", residual_weight=0.75)(sys.modules["my_edges"].first_head)
    again = attributor(TEXTS[0], method="rollout", edge_weights="my_edges:plain")
    np.testing.assert_allclose(again.scores, attributor(TEXTS[0], method="rollout", head_reduction=1).scores, atol=1e-6)
    assert Options(edge_weights="my_edges:first_head").residual_of("flow") == 0.75
    sys.modules.pop("my_edges")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_reduction": "max"}, "make one of all heads themselves"),
        ({"target": 1}, "are the same for each target"),
        ({"keep": "rollout", "method": "rollout"}, "no keep='rollout'"),
        ({"position_correction": "uniform"}, "no position_correction"),
        ({"residual_weight": "unlimited", "method": "rollout"}, "is for method='flow'"),
        ({"residual_weight": "measured", "edge_weights": "attention"}, "do not measure the residual's share"),
        ({"residual_weight": "measured", "edge_weights": "grad_attention"}, "do not measure the residual's share"),
        ({"edge_weights": "altis"}, "did you mean 'alti'"),
        ({"edge_weights": "elsewhere"}, "known in the process that called it, 'module:function' in all"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(OptionError, match=message):
        Attributor(bert(), tokenizer())(TEXTS[0], **{"edge_weights": "alti", **options})


def test_a_norm_without_weights():
    model = bert()
    for layer in model.bert.encoder.layer:
        norm = layer.attention.output.LayerNorm
        with torch.no_grad():
            norm.weight.fill_(1)
            norm.bias.fill_(0)
    plain = capture_layers(model, INPUTS, "alti").matrices
    for layer in model.bert.encoder.layer:
        old = layer.attention.output.LayerNorm
        layer.attention.output.LayerNorm = torch.nn.LayerNorm(32, eps=old.eps, elementwise_affine=False)
    for first, second in zip(plain, capture_layers(model, INPUTS, "alti").matrices, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype):
    texts = TEXTS[:2]
    full = Attributor(llama(), tokenizer(template=""))(texts, method="rollout", edge_weights="alti")
    half = Attributor(llama().to(dtype), tokenizer(template=""))(texts, method="rollout", edge_weights="alti")
    for first, second in zip(full, half, strict=True):
        np.testing.assert_allclose(first.scores, second.scores, atol=0.05)


def test_scaled_residuals_are_refused():
    model = BY_NAME["granite"].build()
    for layer in model.model.layers:
        layer.residual_multiplier = 0.5
    with pytest.raises(CaptureError, match="not added to the layer's input"):
        capture_layers(model, INPUTS, "alti")


class ScaledLinear(torch.nn.Linear):
    """As linear layers of 8 bits are: what it multiplies by is not its weight alone."""

    def forward(self, given):
        return torch.nn.functional.linear(given, self.weight.float() * 0.5, self.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.int8])
def test_a_quantized_projection_is_refused(dtype):
    model = bert()
    for layer in model.bert.encoder.layer:
        plain, scaled = layer.attention.output.dense, ScaledLinear(32, 32)
        weight = (2 * plain.weight).detach().to(dtype)
        scaled.weight, scaled.bias = torch.nn.Parameter(weight, requires_grad=False), plain.bias
        layer.attention.output.dense = scaled
    with pytest.raises(CaptureError, match="output projection does not multiply by its weight alone"):
        capture_layers(model, INPUTS, "alti")


def test_the_model_is_given_back_and_other_threads_see_nothing():
    model = bert()
    attributor, before = Attributor(model, tokenizer()), model(**INPUTS).logits
    found = [attributor(text, method="rollout", edge_weights="alti").scores for text in TEXTS]
    results: dict[int, list] = {}

    def work(number):
        results[number] = [attributor(text, method="rollout", edge_weights="alti").scores for text in TEXTS]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in results.values():
        for first, second in zip(found, each, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
    assert torch.equal(model(**INPUTS).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_pipelines_generation_and_runs(tmp_path):
    model, words = bert(), tokenizer()
    attributor = Attributor(model, words)
    expected = attributor(TEXTS, method="rollout", edge_weights="alti")
    options = Options(edge_weights="alti")
    pipe = attach(pipeline("text-classification", model=model, tokenizer=words), method="rollout", options=options)
    for batch_size in (1, 3):
        for found, wanted in zip(pipe(TEXTS, batch_size=batch_size), expected, strict=True):
            np.testing.assert_allclose(found["attributions"].scores, wanted.scores, atol=2e-5)
    run_dataset(
        Dataset.from_dict({"text": TEXTS}),
        attributor,
        tmp_path / "run",
        method=["rollout", "flow"],
        options=options,
        save_layer_graphs=True,
    )
    table = pq.read_table(sorted((tmp_path / "run").glob("*.parquet"))).to_pydict()
    for scores, wanted in zip(table["scores_rollout"], expected, strict=True):
        np.testing.assert_allclose(scores, wanted.scores, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(np.array(table["layer_graph"][0]).sum(-1), 1, atol=1e-3)
    first = page_of_run(tmp_path / "run").sheets[0].attributions[-1]
    assert (first.method, first.edge_weights, first.residual_weight) == ("flow", "alti", "measured")
    causal = Attributor(gpt2(), tokenizer(template=""))
    generated = causal.generate(TEXTS[0], max_new_tokens=2, method="rollout", options=options)
    text = causal(TEXTS[0], method="rollout", edge_weights="alti")
    np.testing.assert_allclose(generated[0].scores, text.scores, atol=2e-5)


def test_functions_see_no_padding_of_decoders(registry):
    @register_edge_weights("share_of_largest", normalize_rows=False)
    def share_of_largest(layer: CapturedLayer) -> torch.Tensor:
        return layer.attention.mean(0) / layer.attention.mean(0).sum(0).max()  # not row by row

    attributor = Attributor(BY_NAME["bart"].build(), tokenizer())
    options = {"edge_weights": "share_of_largest", "method": "rollout", "normalize": "none"}
    together = attributor(TEXTS[:2], text_target=["a table", "a cat sat on the mat near"], **options)
    alone = attributor(TEXTS[0], text_target="a table", **options)
    np.testing.assert_allclose(together[0].scores, alone.scores, rtol=1e-4, atol=1e-7)


def test_the_page_of_a_run_needs_no_function_of_ones_own(tmp_path, registry):
    register_edge_weights("mine", residual_weight=0.8, normalize_rows=False)(lambda layer: layer.attention.mean(0))
    (tmp_path / "seen_edges.py").write_text("def plain(layer):\n    return layer.attention.mean(0)\n")
    attributor, rows = Attributor(bert(), tokenizer()), Dataset.from_dict({"text": TEXTS})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        for folder, name in (("a", "mine"), ("b", "seen_edges:plain")):
            options = Options(edge_weights=name)
            run_dataset(rows, attributor, tmp_path / folder, method=["raw", "rollout"], options=options)
    sys.modules.pop("seen_edges")
    del EDGE_WEIGHTS["mine"]  # as in another process
    raw, rollout_of_own = page_of_run(tmp_path / "a").sheets[0].attributions
    assert (raw.residual_weight, rollout_of_own.residual_weight) == (0, 0.8)
    assert (rollout_of_own.edge_weights, rollout_of_own.normalize_rows, raw.head_reduction) == ("mine", False, "own")
    assert page_of_run(tmp_path / "b").sheets[0].attributions[1].residual_weight == 0.5


def test_a_run_goes_on_with_the_defaults_that_it_began_with(tmp_path, registry):
    attributor, rows = Attributor(bert(), tokenizer()), Dataset.from_dict({"text": TEXTS})
    for residual_weight in (0.8, 0.5):
        register_edge_weights("mine", residual_weight=residual_weight)(lambda layer: layer.attention.mean(0))
        if residual_weight == 0.8:
            run_dataset(rows, attributor, tmp_path, options=Options(edge_weights="mine"))
    with pytest.raises(OptionError, match=r"settings.options.residual_weight: 0.8 there, 0.5 asked"):
        run_dataset(rows, attributor, tmp_path, options=Options(edge_weights="mine"))

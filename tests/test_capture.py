import copy
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
import transformers
from tiny_models import BERT, GPT2, LLAMA, bert, gpt2, llama, make

import attnflow_hf.borrowing
from attnflow_hf.borrowing import borrowed
from attnflow_hf.capture import capture, report_on
from attnflow_hf.errors import CaptureError
from attnflow_hf.model_facts import declares_causal, max_positions

IDS = torch.tensor([[2, 5, 6, 7, 5, 9, 3], [2, 5, 6, 3, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
BART = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}


def state_of(model):
    """Everything that a capture could leave behind."""
    return {
        "implementation": [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        "config": model.config.to_dict(),
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "flags": ["_output_capturing_hooks_installed" in m.__dict__ for m in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def bart(**options):
    return make("BartConfig", "BartForConditionalGeneration", **BART, **options)


@pytest.fixture(params=[bert, gpt2, llama, bart])
def build(request):
    return request.param


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attentions_are_those_of_plain_eager(build, implementation):
    captured = capture(build(attn_implementation=implementation), INPUTS)
    eager = build(attn_implementation="eager")
    runner = eager.get_encoder() if eager.config.is_encoder_decoder else eager
    with torch.no_grad():
        plain = runner(**INPUTS, output_attentions=True).attentions
    assert len(captured.matrices) == len(plain) == 3
    for got, wanted in zip(captured.matrices, plain, strict=True):
        torch.testing.assert_close(got, wanted.mean(dim=1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("train", [True, False])
def test_model_comes_back_as_it_came(build, train):
    model = build().train(train)
    list(model.modules())[-1].training = not train  # a mixed state must survive too
    before = state_of(model)
    capture(model, INPUTS)
    assert state_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_model_comes_back_after_an_exception(build, error):
    model = build().train()

    def fail(*_):
        raise error("in the midst")

    module = model.get_encoder() if model.config.is_encoder_decoder else model
    list(module.modules())[-1].register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(error, match="in the midst"):
        capture(model, INPUTS)
    assert state_of(model) == before


def test_users_own_hooks_stay():
    model, calls = bert(), []
    model.bert.register_forward_hook(lambda *_: calls.append(1))
    report_on(model)
    calls.clear()
    capture(model, INPUTS)
    model(**INPUTS)
    assert len(calls) == 2


def test_model_can_still_be_copied_and_hashed_after_a_capture(tmp_path):
    model = bert()
    capture(model, INPUTS)
    torch.save(model, tmp_path / "model.pt")  # fails while Transformers' recording hooks are installed
    copy.deepcopy(model)
    model.save_pretrained(tmp_path)


def test_train_state_gives_the_attentions_of_eval():
    wanted = capture(bert(), INPUTS).matrices
    got = capture(bert(attention_probs_dropout_prob=0.5).train(), INPUTS).matrices
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)


def test_two_models_of_one_config_object_are_both_given_back():
    first = bert()
    second = type(first)(first.config).eval()
    capture(first, INPUTS)
    assert second.config._attn_implementation == "sdpa"


def test_captures_in_threads_do_not_mix():
    models = [bert(), gpt2()]
    wanted = [capture(model, INPUTS).matrices for model in models]
    failures = []

    def work(index):
        for _ in range(5):
            got = capture(models[index], INPUTS).matrices
            failures.extend(not torch.equal(a, b) for a, b in zip(got, wanted[index], strict=True))

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 6 * 5 * 3
    assert not any(failures)


def test_attentions_carry_no_gradient_and_no_cache():
    captured = capture(llama(), INPUTS)
    assert not any(attention.requires_grad for attention in captured.matrices)


@pytest.mark.parametrize(
    ("config", "model", "options", "message"),
    [
        (
            "LongformerConfig",
            "LongformerModel",
            BERT | {"attention_window": 4},
            r"\[1, 13, 5\] in layer 0 where \[1, 13, 13\]",
        ),
        (
            "FunnelConfig",
            "FunnelModel",
            {"block_sizes": [1, 1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
            r"\[1, 7, 13\] in layer 1",
        ),
        (
            "FNetConfig",
            "FNetForSequenceClassification",
            {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48},
            "FNetForSequenceClassification gave no attentions",
        ),
        ("MambaConfig", "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2}, "gave no attentions"),
        (
            "BigBirdConfig",
            "BigBirdModel",
            BERT | {"attention_type": "block_sparse"},
            "block sparse attention.* load it with from_pretrained\\(..., attention_type='original_full'\\)",
        ),
        ("SqueezeBertConfig", "SqueezeBertModel", BERT | {"embedding_size": 32}, "are no probabilities: scores"),
    ],
)
def test_models_that_cannot_be_captured_are_refused_and_given_back(config, model, options, message):
    refused = make(config, model, **options)
    before = state_of(refused)
    with pytest.raises(CaptureError, match=message):
        capture(refused, INPUTS)
    assert state_of(refused) == before


def test_eager_attention_that_looks_ahead_is_refused(monkeypatch):
    gpt2_file = transformers.models.gpt2.modeling_gpt2
    plain = gpt2_file.eager_attention_forward

    def without_mask(module, query, key, value, attention_mask, **options):
        return plain(module, query, key, value, None, **options)

    monkeypatch.setattr(gpt2_file, "eager_attention_forward", without_mask)
    model = gpt2()
    before = state_of(model)
    with pytest.raises(CaptureError, match="real tokens attend to padding in layer 0"):
        capture(model, INPUTS)
    assert state_of(model) == before


def test_a_failing_forward_is_told_with_its_reason():
    model = make("RobertaConfig", "RobertaModel", **BERT, type_vocab_size=1, max_position_embeddings=64)
    with pytest.raises(CaptureError, match="RobertaModel cannot read these inputs: index out of range"):
        capture(model, INPUTS | {"token_type_ids": torch.ones_like(IDS)})


@pytest.mark.parametrize("layers", [(3, 2), (2, 3)])
def test_decoder_halves_have_layers_of_their_own(layers):
    sizes = BART | {"encoder_layers": layers[0], "decoder_layers": layers[1]}
    assert len(capture(make("BartConfig", "BartForCausalLM", **sizes), INPUTS).matrices) == layers[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    model, context = bert(), multiprocessing.get_context("fork")
    with attnflow_hf.borrowing._locks.models:
        child = context.Process(target=_take_lock)
        child.start()
        child.join(timeout=20)
    assert child.exitcode == 0
    assert len(capture(model, INPUTS).matrices) == 3


def _take_lock():
    done = threading.Thread(target=lambda: attnflow_hf.borrowing._locks.models.__enter__())
    done.start()
    done.join(timeout=5)
    os._exit(int(done.is_alive()))


def test_wrong_number_of_layers_is_refused():
    model = bert()
    model.config.num_hidden_layers = 5
    with pytest.raises(CaptureError, match="has 5 layers but gave attentions of 3"):
        capture(model, INPUTS)


@pytest.mark.parametrize(("model", "causal"), [(bert, False), (gpt2, True), (llama, True)])
def test_declares_causal(model, causal):
    assert declares_causal(model()) is causal


@pytest.mark.parametrize(
    ("config", "model", "options", "limit"),
    [
        ("BertConfig", "BertModel", BERT | {"max_position_embeddings": 40}, 40),
        ("GPT2Config", "GPT2Model", GPT2 | {"n_positions": 40}, 40),
        ("LlamaConfig", "LlamaModel", LLAMA | {"max_position_embeddings": 40}, 40),
        ("RobertaConfig", "RobertaModel", BERT | {"max_position_embeddings": 42, "pad_token_id": 1}, 40),
        ("T5Config", "T5ForConditionalGeneration", T5, None),
        (
            "OPTConfig",
            "OPTModel",
            {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "ffn_dim": 48,
                "word_embed_proj_dim": 32,
            }
            | {"max_position_embeddings": 40},
            40,
        ),
    ],
)
def test_max_positions_is_the_longest_text_that_runs(config, model, options, limit):
    built = make(config, model, **options)
    assert max_positions(built) == limit
    ids = torch.full((1, limit or 100), 7)
    runner = built.get_encoder() if built.config.is_encoder_decoder else built
    runner(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_borrowed_restores_the_random_state_after_draws():
    model = bert()
    before = torch.get_rng_state()
    with borrowed(model, implementation=None, keep_random_state=True):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_can_be_captured(dtype):
    captured = capture(bert().to(dtype), INPUTS)
    assert captured.matrices[0].dtype == torch.float32
    np.testing.assert_allclose(captured.matrices[0].sum(-1), 1, atol=2e-2)


@pytest.mark.gpu
def test_capture_on_a_gpu_agrees_with_the_cpu():
    wanted = capture(bert(), INPUTS).matrices
    got = capture(bert().cuda(), {name: value.cuda() for name, value in INPUTS.items()}).matrices
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-5)

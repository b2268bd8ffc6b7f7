import copy
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
import transformers
from architectures import ARCHITECTURES
from tiny_models import BERT, GPT2, LLAMA, bert, gpt2, llama, make, tokenizer

import attnflow_hf.borrowing
from attnflow_hf import Attributor
from attnflow_hf.borrowing import borrowed
from attnflow_hf.capture import capture, report_on
from attnflow_hf.errors import ArrayError, CaptureError, OptionError, PositionError
from attnflow_hf.model_facts import declares_causal, max_positions

IDS = torch.tensor([[2, 5, 6, 7, 5, 9, 3], [2, 5, 6, 3, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
BART = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
HOOKS = {name for name in vars(torch.nn.Module()) if "_hooks" in name}


def state_of(model):
    """Everything that a capture could leave behind."""
    return {
        "implementation": [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        "config": model.config.to_dict(),
        "training": [m.training for m in model.modules()],
        "hooks": [[list(vars(m)[name]) for name in vars(m) if name in HOOKS] for m in model.modules()],
        "flags": ["_output_capturing_hooks_installed" in vars(m) for m in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "weights": [p._version for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "property": transformers.PreTrainedConfig.__dict__["_attn_implementation"],
    }


def bart(**options):
    return make("BartConfig", "BartForConditionalGeneration", **BART, **options)


def of_table(name):
    return next(each for each in ARCHITECTURES if each.name == name).build


def falcon(attn_implementation=None):
    return of_table("falcon")(attn_implementation)


def xlnet(attn_implementation=None):
    return of_table("xlnet")(attn_implementation)


def real(matrix, has_sinks=False):
    """The rows of real tokens, without the sink's column."""
    return matrix[INPUTS["attention_mask"].bool()][:, int(has_sinks) :]


@pytest.fixture(params=[bert, gpt2, llama, bart])
def build(request):
    return request.param


@pytest.fixture(params=[bert, bart, falcon, xlnet])
def build_each_step(request):
    """Models that are captured by the interface, by hooks, and plainly eager."""
    return request.param


@pytest.fixture
def small_blocks(monkeypatch):
    """Models that are captured by the interface are so in blocks of three queries."""
    monkeypatch.setattr("attnflow_hf.probe._CPU_BLOCK", 3)


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
def test_model_comes_back_as_it_came(build_each_step, train):
    model = build_each_step().train(train)
    list(model.modules())[-1].training = not train  # a mixed state must survive too
    next(model.parameters()).requires_grad_(False)
    hold_hooks_of_all_kinds(model)
    before = state_of(model)
    for _ in range(2):  # with the probe, and without
        capture(model, INPUTS)
        assert state_of(model) == before


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_model_comes_back_after_an_exception(build_each_step, error, known):
    model = build_each_step().train()
    if known:
        report_on(model)

    def fail(*_):
        raise error("in the midst")

    runner = model.get_encoder() if model.config.is_encoder_decoder else model
    layers = next(module for module in runner.modules() if isinstance(module, torch.nn.ModuleList))
    layers[-1].register_forward_hook(fail)
    hold_hooks_of_all_kinds(model)
    before = state_of(model)
    with pytest.raises(error, match="in the midst"):
        capture(model, INPUTS)
    assert state_of(model) == before


@pytest.mark.parametrize("head", [4, -5])
def test_model_comes_back_after_an_unknown_head(build_each_step, head):
    model = build_each_step()
    before = state_of(model)
    with pytest.raises(PositionError, match=rf"head .of layer 0. {head} is out of range: there are 4, so use -4 to 3"):
        capture(model, INPUTS, head_reduction=head)
    with pytest.raises(PositionError, match=rf"head .of layer 0. {head} is out of range"):
        capture(model, INPUTS, head_reduction=[0, head])
    assert state_of(model) == before


def hold_hooks_of_all_kinds(model):
    module = list(model.modules())[-1]
    module.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    module.register_forward_hook(lambda *_: None, always_call=True)
    module.register_full_backward_hook(lambda *_: None)


def test_state_of_sees_what_a_capture_could_leave():
    changes = [
        lambda model: model.bert.pooler.register_forward_hook(lambda *_: None),
        lambda model: model.bert.pooler.register_forward_pre_hook(lambda *_: None),
        lambda model: model.bert.pooler.register_full_backward_hook(lambda *_: None),
        lambda model: model.bert.pooler.eval(),
        lambda model: model.bert.pooler.requires_grad_(False),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: setattr(model.config, "output_attentions", True),
        lambda model: setattr(model, "_output_capturing_hooks_installed", True),
        lambda model: torch.rand(1),
    ]
    for change in changes:
        model = bert(attn_implementation="eager" if change is changes[6] else None).train()
        before = state_of(model)
        change(model)
        assert state_of(model) != before


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
    llama_file = transformers.models.llama.modeling_llama
    plain = llama_file.eager_attention_forward

    def without_mask(module, query, key, value, attention_mask, **options):
        return plain(module, query, key, value, None, **options)

    monkeypatch.setattr(llama_file, "eager_attention_forward", without_mask)
    model = llama()
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


# --- precision ---


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("build", [bert, gpt2, llama, falcon, xlnet])
def test_half_precision_models_give_float32_matrices(build, dtype, tolerance):
    wanted = capture(build(), INPUTS).matrices
    captured = capture(build().to(dtype), INPUTS)
    assert captured.report.step == report_on(build()).step
    for got, mean in zip(captured.matrices, wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(real(got).sum(dim=-1), torch.ones(11), rtol=0, atol=tolerance)
        torch.testing.assert_close(real(got), real(mean), rtol=0, atol=2e-2)


# --- head reductions ---


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("reduction", "reduce"),
    [
        ("mean", lambda heads: heads.mean(dim=1)),
        ("max", lambda heads: heads.amax(dim=1)),
        ("min", lambda heads: heads.amin(dim=1)),
        (0, lambda heads: heads[:, 0]),
        (2, lambda heads: heads[:, 2]),
        (-1, lambda heads: heads[:, 3]),
        (np.int64(1), lambda heads: heads[:, 1]),
        ([3], lambda heads: heads[:, 3]),
        ([0, -1], lambda heads: (heads[:, 0] + heads[:, 3]) / 2),
        ((2, 1, 0), lambda heads: heads[:, :3].mean(dim=1)),
    ],
)
@pytest.mark.parametrize(
    ("build", "step"), [(bert, "interface"), (llama, "interface"), (falcon, "hooks"), (xlnet, "eager")]
)
def test_head_reductions_are_those_of_plain_eager(build, step, reduction, reduce):
    captured = capture(build(), INPUTS, head_reduction=reduction)
    assert (captured.report.step, captured.report.block_size) == (step, 3 if step == "interface" else None)
    with torch.no_grad():
        plain = build("eager")(**INPUTS, output_attentions=True) if build in (falcon, xlnet) else None
        plain = plain or build(attn_implementation="eager")(**INPUTS, output_attentions=True)
    for got, heads in zip(captured.matrices, plain.attentions, strict=True):
        torch.testing.assert_close(real(got), real(reduce(heads)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        ("median", "unknown head_reduction 'median'"),
        (1.5, "head"),
        ([0, "1"], "head"),
        ([], "head"),
        (True, "head"),
    ],
)
def test_unknown_head_reductions_are_refused_before_the_model_runs(reduction, message):
    model, calls = bert(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(OptionError, match=message):
        capture(model, INPUTS, head_reduction=reduction)
    assert not calls


# --- batches, masks ---


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("name", "with_positions"),
    [
        ("bert", True),
        ("gpt2", True),
        ("llama", False),
        ("mistral", False),
        ("t5", False),
        ("gpt_oss", False),
        ("falcon", False),
        ("gptj", True),
        ("bloom", False),
        ("xlnet", False),
    ],
)
def test_a_row_of_a_padded_batch_is_the_text_alone(name, with_positions, side):
    model = of_table(name)()
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(5, 25, (length,), generator=draw) for length in (9, 5)]
    place = slice(4, 9) if side == "left" else slice(0, 5)
    ids = torch.zeros(2, 9, dtype=torch.long)
    ids[0], ids[1, place] = texts
    mask = (ids != 0).long()
    positions = {"position_ids": (mask.cumsum(dim=-1) - 1).clamp_min(0)} if with_positions else {}
    batch = capture(model, {"input_ids": ids, "attention_mask": mask, **positions})
    singles = [capture(model, {"input_ids": text[None], "attention_mask": torch.ones(1, len(text))}) for text in texts]
    n_sinks = int(batch.report.has_sinks)
    for got, first, second in zip(batch.matrices, *(each.matrices for each in singles), strict=True):
        torch.testing.assert_close(got[0], first[0], rtol=0, atol=1e-6)
        row = got[1, place]
        keys = torch.cat([row[:, :n_sinks], row[:, n_sinks:][:, place]], dim=1)
        torch.testing.assert_close(keys, second[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(row.sum(dim=-1), keys.sum(dim=-1), rtol=0, atol=1e-6)  # and none on padding


SEEN = torch.ones(7, 7, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
SEEN[1, :, :, 4:], SEEN[:, :, 3, 1] = False, False


@pytest.mark.parametrize(("block_size", "most_weights"), [(64, 10**6), (64, 1), (3, 10**6), (3, 1)])
@pytest.mark.parametrize("is_boolean", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "falcon", "gptj"])
def test_a_mask_of_each_query_and_key_is_read_as_by_plain_eager(
    name, is_boolean, block_size, most_weights, monkeypatch
):
    monkeypatch.setattr("attnflow_hf.probe._CPU_BLOCK", block_size)
    monkeypatch.setattr("attnflow_hf.query_blocks.MOST_WEIGHTS", most_weights)
    added = torch.zeros(SEEN.shape).masked_fill(~SEEN, torch.finfo(torch.float32).min)
    plain = of_table(name)("eager")
    runner = plain.get_encoder() if plain.config.is_encoder_decoder else plain
    with torch.no_grad():  # eager code adds ones and zeros to the scores, where sdpa reads what is boolean as a mask
        wanted = runner(input_ids=IDS, attention_mask=added, output_attentions=True, use_cache=False).attentions
    inputs = {"input_ids": IDS, "attention_mask": SEEN if is_boolean else added}
    for got, heads in zip(capture(of_table(name)(), inputs).matrices, wanted, strict=True):
        torch.testing.assert_close(got, heads.mean(dim=1), rtol=0, atol=1e-6)
        assert not got[~SEEN[:, 0]].any()


@pytest.mark.parametrize("name", ["bert", "llama", "falcon"])
def test_a_mask_of_each_query_and_key_in_integers_is_refused(name):
    with pytest.raises(CaptureError, match=r"an attention_mask .* must be boolean, or .* got torch.int64"):
        capture(of_table(name)(), {"input_ids": IDS, "attention_mask": SEEN.long()})


def test_an_attributor_refuses_a_mask_of_each_query_and_key():
    encoding = {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 7, 7)}
    with pytest.raises(ArrayError, match=r"text 0 has 7 input_ids, but its attention_mask has shape \[1, 7, 7\]"):
        Attributor(bert(), tokenizer())(encoding)


# --- attention sinks ---


@pytest.mark.parametrize(("block_size", "most_weights"), [(64, 10**6), (64, 1), (3, 10**6), (3, 1)])
def test_a_sink_takes_what_the_rows_lack(monkeypatch, block_size, most_weights):
    monkeypatch.setattr("attnflow_hf.probe._CPU_BLOCK", block_size)
    monkeypatch.setattr("attnflow_hf.query_blocks.MOST_WEIGHTS", most_weights)
    captured = capture(of_table("gpt_oss")(), INPUTS)
    with torch.no_grad():
        plain = of_table("gpt_oss")("eager")(**INPUTS, output_attentions=True).attentions
    assert captured.report.has_sinks
    assert captured.report.block_size == block_size
    assert "attention sink" in str(captured.report)
    for got, heads in zip(captured.matrices, plain, strict=True):
        assert got.shape == (2, 7, 8)
        mean = heads.mean(dim=1)
        torch.testing.assert_close(real(got, has_sinks=True), real(mean), rtol=0, atol=1e-6)
        torch.testing.assert_close(real(got).sum(dim=-1), torch.ones(11), rtol=0, atol=1e-6)
        torch.testing.assert_close(real(got)[:, 0], 1 - real(mean).sum(dim=-1), rtol=0, atol=1e-6)
        assert float(real(got)[:, 0].max()) > 0.1  # else the test would see no sink


@pytest.mark.parametrize(("reduction", "reduce"), [("max", "amax"), ("min", "amin")])
def test_the_sink_is_reduced_as_one_of_the_keys(reduction, reduce):
    captured = capture(of_table("gpt_oss")(), INPUTS, head_reduction=reduction)
    with torch.no_grad():
        plain = of_table("gpt_oss")("eager")(**INPUTS, output_attentions=True).attentions
    for got, heads in zip(captured.matrices, plain, strict=True):
        whole = torch.cat([1 - heads.sum(dim=-1, keepdim=True), heads], dim=-1)
        torch.testing.assert_close(real(got), real(getattr(whole, reduce)(dim=1)), rtol=0, atol=1e-6)


def test_models_without_a_sink_have_no_column_for_it(build_each_step):
    captured = capture(build_each_step(), INPUTS)
    assert not captured.report.has_sinks
    assert {matrix.shape for matrix in captured.matrices} == {(2, 7, 7)}


# --- giving away ---


@pytest.mark.usefixtures("small_blocks")
def test_what_receives_gets_each_matrix_once_and_in_order(build_each_step):
    wanted, received = capture(build_each_step(), INPUTS).matrices, []
    captured = capture(build_each_step(), INPUTS, receive=lambda index, matrix: received.append((index, matrix)))
    assert captured.matrices == ()
    assert [index for index, _ in received] == list(range(len(wanted)))
    for (_, got), matrix in zip(received, wanted, strict=True):
        assert torch.equal(got, matrix)


def test_an_error_of_what_receives_is_passed_on_and_the_model_comes_back(build_each_step):
    model = build_each_step()
    before = state_of(model)

    def fail(index, matrix):
        raise KeyboardInterrupt(f"at {index}")

    with pytest.raises(KeyboardInterrupt, match="at 0"):
        capture(model, INPUTS, receive=fail)
    assert state_of(model) == before


@pytest.mark.gpu
def test_capture_on_a_gpu_agrees_with_the_cpu():
    wanted = capture(bert(), INPUTS).matrices
    got = capture(bert().cuda(), {name: value.cuda() for name, value in INPUTS.items()}).matrices
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-5)

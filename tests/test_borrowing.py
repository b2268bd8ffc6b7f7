"""A model that is captured computes what it computed before: afterwards, and in other threads meanwhile."""

import multiprocessing
import os
import sys
import threading

import pytest
import torch
from architectures import ARCHITECTURES, OLD
from tiny_models import bert, llama
from torch import nn
from transformers import PreTrainedConfig

from attnflow_hf.borrowing import borrowed
from attnflow_hf.capture import capture, report_on
from attnflow_hf.errors import CaptureError

BY_NAME = {each.name: each for each in ARCHITECTURES}
PLAIN_PROPERTY = PreTrainedConfig.__dict__["_attn_implementation"]
ONE_OF_EACH_STEP = ["bert", "falcon", "xlnet"]  # interface, hooks, eager


def build(name, implementation=None):
    return BY_NAME[name].build(implementation)


def inputs_of(name):
    """Two rows, the second with padding; without what only a decoder reads."""
    return {key: value for key, value in BY_NAME[name].inputs().items() if key != "decoder_input_ids"}


def output_of(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=False)[0]


def layers_of(model):
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1)


def is_plain():
    return PreTrainedConfig.__dict__["_attn_implementation"] is PLAIN_PROPERTY


def equal(got, wanted):
    return len(got) == len(wanted) and all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.fixture
def hasty_threads():
    """Threads that take turns a hundred times as often as they use to."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def run_together(*works, times=12):
    """Run each work in a thread of its own, `times` times, all starting at once; raise the first of their errors."""
    start, errors, done = threading.Barrier(len(works)), [], []

    def repeat(work):
        try:
            start.wait(timeout=10)
            for _ in range(times):
                work()
            done.append(work)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if errors:
        raise errors[0]
    assert len(done) == len(works)


def capturing(model, inputs, **options):
    """A work that captures, and holds the matrices against those of a capture alone."""
    wanted = capture(model, inputs, **options).matrices

    def work():
        assert equal(capture(model, inputs, **options).matrices, wanted)

    return work


def using(model, inputs):
    """A work that uses the model plainly, and holds the output against that without threads."""
    wanted = output_of(model, inputs)

    def work():
        assert torch.equal(output_of(model, inputs), wanted)

    return work


# --- a capture that is over leaves nothing ---


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "falcon", "xlnet"])
def test_a_model_computes_what_it_computed_before(name, implementation):
    if implementation == "sdpa" and name in ("xlnet", *(["t5"] if OLD else [])):
        pytest.skip("it has eager attention alone")
    model, inputs = build(name, implementation), BY_NAME[name].inputs()
    before = output_of(model, inputs)
    capture(model, inputs_of(name))
    assert torch.equal(output_of(model, inputs), before)
    capture(model, inputs)  # of an encoder-decoder model, both
    assert torch.equal(output_of(model, inputs), before)


@pytest.mark.parametrize("name", ONE_OF_EACH_STEP)
def test_the_property_of_all_configs_is_replaced_only_during_a_capture(name):
    model, seen = build(name), []
    layers_of(model)[1].register_forward_hook(lambda *_: seen.append(is_plain()))
    capture(model, inputs_of(name))
    assert seen
    assert not any(seen)
    assert is_plain()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("name", ONE_OF_EACH_STEP)
@pytest.mark.parametrize("known", [True, False])
def test_the_property_of_all_configs_comes_back_after_an_exception(name, error, known):
    model, inputs = build(name), inputs_of(name)
    before = output_of(model, inputs)
    if known:
        report_on(model)

    def fail(*_):
        raise error("in the midst")

    handle = layers_of(model)[1].register_forward_hook(fail)
    with pytest.raises(CaptureError if error is RuntimeError else error, match="in the midst"):
        capture(model, inputs)
    assert is_plain()
    handle.remove()
    assert torch.equal(output_of(model, inputs), before)
    assert len(capture(model, inputs).matrices) == 3


def test_the_property_stays_replaced_until_the_last_of_several_captures_ends():
    first, second, inputs = bert(), llama(), inputs_of("bert")
    wanted = [capture(model, inputs).matrices for model in (first, second)]
    inside, go_on, got = threading.Event(), threading.Event(), []

    def wait(*_):
        inside.set()
        assert go_on.wait(timeout=20)

    first.bert.embeddings.register_forward_hook(wait)
    thread = threading.Thread(target=lambda: got.append(capture(first, inputs).matrices))
    thread.start()
    assert inside.wait(timeout=20)
    assert equal(capture(second, inputs).matrices, wanted[1])  # begins and ends while the first waits
    assert not is_plain()
    go_on.set()
    thread.join(timeout=20)
    assert equal(got[0], wanted[0])
    assert is_plain()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_during_a_capture_of_another_thread_is_free_of_it():
    model, inputs = bert(), inputs_of("bert")
    wanted = output_of(model, inputs), capture(model, inputs).matrices
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert go_on.wait(timeout=20)

    handle = model.bert.embeddings.register_forward_hook(wait)
    thread = threading.Thread(target=capture, args=(model, inputs))
    thread.start()
    assert inside.wait(timeout=20)
    assert not is_plain()
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(model, inputs, handle, wanted))
    child.start()
    child.join(timeout=20)
    go_on.set()
    thread.join(timeout=20)
    assert child.exitcode == 0
    assert is_plain()


def _use_in_child(model, inputs, handle, wanted):
    torch.set_num_threads(1)
    handle.remove()
    right = is_plain() and torch.equal(output_of(model, inputs), wanted[0])
    right = right and equal(capture(model, inputs).matrices, wanted[1])
    os._exit(int(not (right and is_plain())))


# --- threads ---


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "falcon", "gptj", "xlnet"])
def test_threads_use_a_model_plainly_while_others_capture_from_it(name):
    model, inputs = build(name), inputs_of(name)
    capture_it = capturing(model, inputs)
    use_it = using(model, BY_NAME[name].inputs())
    run_together(use_it, capture_it, use_it, capture_it)
    assert is_plain()


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_capture_first_at_the_same_time_agree():
    wanted = {name: capture(build(name), inputs_of(name)).matrices for name in ONE_OF_EACH_STEP}
    for name in ONE_OF_EACH_STEP:
        model, inputs = build(name), inputs_of(name)
        use_it = using(model, inputs)

        def capture_it(model=model, inputs=inputs, name=name):
            assert equal(capture(model, inputs).matrices, wanted[name])

        run_together(capture_it, use_it, capture_it, times=2)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_capture_by_different_steps_and_head_reductions_at_the_same_time():
    models = [build(name) for name in ONE_OF_EACH_STEP]
    works = [
        capturing(model, inputs_of(name), head_reduction=reduction)
        for model, name in zip(models, ONE_OF_EACH_STEP, strict=True)
        for reduction in ("max", 1)
    ]
    run_together(*works)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("name", ["bert", "falcon"])
def test_two_models_of_one_config_object_are_captured_and_used_at_the_same_time(name):
    first, inputs = build(name), inputs_of(name)
    second = type(first)(first.config).eval()
    assert second.config is first.config
    assert not torch.equal(output_of(first, inputs), output_of(second, inputs))
    works = [kind(model, inputs) for model in (first, second) for kind in (capturing, using)]
    run_together(*works)
    assert first.config._attn_implementation == "sdpa"


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_ask_for_gradients_get_them_while_others_capture():
    model, inputs = llama(), inputs_of("llama")

    def gradients():
        return torch.autograd.grad(model(**inputs).logits.square().mean(), list(model.parameters()))

    wanted = gradients()

    def use_it():
        assert equal(gradients(), wanted)

    run_together(use_it, capturing(model, inputs), times=6)


# --- train state ---


@pytest.mark.parametrize("name", ["bert", "falcon", "xlnet", "t5"])
def test_dropout_is_off_during_a_capture_and_each_module_comes_back_in_its_state(name):
    wanted, model = capture(build(name), inputs_of(name)).matrices, build(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    frozen = layers_of(model)[0].eval()  # as one layer of a model that is fine-tuned
    before = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    assert equal(capture(model, inputs_of(name)).matrices, wanted)
    assert [module.training for module in model.modules()] == before
    assert not any(module.training for module in frozen.modules())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("name", ["bert", "falcon"])
def test_two_threads_capture_from_a_model_in_train_state(name):
    model, other, inputs = build(name).train(), build(name), inputs_of(name)
    layers_of(model)[0].eval()
    before = [module.training for module in model.modules()]
    run_together(capturing(model, inputs), capturing(model, inputs), capturing(other, inputs), using(other, inputs))
    assert [module.training for module in model.modules()] == before


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "falcon"])
def test_a_training_step_with_gradient_checkpointing_is_the_same_after_a_capture(name):
    wanted, inputs = capture(build(name), inputs_of(name)).matrices, inputs_of(name)
    model = build(name).train()
    model.gradient_checkpointing_enable()

    def gradients():
        torch.manual_seed(1)  # for the dropout
        model.zero_grad()
        model(**inputs, use_cache=False)[0].square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    before = gradients()
    assert equal(capture(model, inputs).matrices, wanted)
    assert model.is_gradient_checkpointing
    assert equal([p.grad for p in model.parameters() if p.grad is not None], before)
    assert equal(gradients(), before)
    assert len(before) > 20


def test_outputs_computed_before_a_capture_can_be_differentiated_after_it():
    model, inputs = llama(), inputs_of("llama")
    model.train()
    wanted = torch.autograd.grad(model(**inputs).logits.square().mean(), list(model.parameters()))
    loss = model(**inputs).logits.square().mean()
    capture(model, inputs)
    assert equal(torch.autograd.grad(loss, list(model.parameters())), wanted)


# --- what is compiled, what is dispatched ---


class Backend:
    """Counts what torch.compile asks for: graphs compiled, and calls of them."""

    def __init__(self):
        self.n_compiled = self.n_calls = 0

    def __call__(self, graph, example_inputs):
        self.n_compiled += 1

        def run(*inputs):
            self.n_calls += 1
            return graph.forward(*inputs)

        return run


@pytest.fixture
def dynamo():
    """Compile anew, and leave nothing compiled to the next test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("regional", [False, True])
def test_a_compiled_model_is_captured_uncompiled_and_stays_compiled(regional):
    model, inputs, backend = llama(), inputs_of("llama"), Backend()
    wanted = capture(llama(), inputs).matrices
    for module in layers_of(model) if regional else [model]:
        module.compile(backend=backend)
    before = output_of(model, inputs)
    n_compiled, n_calls = backend.n_compiled, backend.n_calls
    assert n_calls >= n_compiled > 0
    assert equal(capture(model, inputs).matrices, wanted)
    assert (backend.n_compiled, backend.n_calls) == (n_compiled, n_calls)
    assert torch.equal(output_of(model, inputs), before)
    assert (backend.n_compiled, backend.n_calls) == (n_compiled, 2 * n_calls)


@pytest.mark.usefixtures("dynamo")
def test_a_model_that_is_captured_before_it_first_runs_is_compiled_for_its_own_implementation():
    model, inputs, backend = bert(), inputs_of("bert"), Backend()
    before = output_of(model, inputs)
    model.compile(backend=backend)
    capture(model, inputs)
    assert backend.n_compiled == 0
    torch.testing.assert_close(output_of(model, inputs), before, rtol=0, atol=1e-5)
    assert backend.n_compiled > 0


@pytest.mark.usefixtures("dynamo")
def test_an_optimized_module_gives_the_attentions_of_its_model():
    model, inputs, backend = bert(), inputs_of("bert"), Backend()
    wanted = capture(model, inputs).matrices
    assert equal(capture(torch.compile(model, backend=backend), inputs).matrices, wanted)
    assert backend.n_compiled == 0


@pytest.mark.usefixtures("dynamo")
def test_the_stance_of_the_compiler_comes_back():
    stance = torch._dynamo.eval_frame._stance
    model = bert()
    capture(model, inputs_of("bert"))
    assert torch._dynamo.eval_frame._stance == stance


def _dispatch(model, kind, folder):
    """Let accelerate fetch one layer, or all weights, only when they are needed."""
    import accelerate

    if kind != "disk: one layer":
        offload = accelerate.cpu_offload if kind == "cpu: all" else accelerate.disk_offload
        extra = {} if kind == "cpu: all" else {"offload_dir": folder}
        return offload(model, execution_device=torch.device("cpu"), **extra)
    names = {module: name for name, module in model.named_modules()}
    layers = [names[layer] for layer in layers_of(model)]
    owners = [next((each for each in layers if name.startswith(f"{each}.")), name) for name in model.state_dict()]
    places = {owner: "disk" if owner == layers[1] else "cpu" for owner in owners}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
@pytest.mark.parametrize("kind", ["disk: one layer", "cpu: all", "disk: all"])
@pytest.mark.parametrize("name", ["bert", "llama", "gptj", "xlnet"])
def test_a_model_dispatched_by_accelerate_gives_the_same_attentions(name, kind, tmp_path):
    pytest.importorskip("accelerate")
    model, inputs = build(name), inputs_of(name)
    wanted, before = capture(build(name), inputs).matrices, output_of(model, inputs)
    model = _dispatch(model, kind, tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert equal(capture(model, inputs).matrices, wanted)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(output_of(model, inputs), before)


# --- captures within captures ---


def capture_within(outer, inner, inputs):
    """Capture from `outer`; a hook of the user captures from `inner` in its midst."""
    within = []

    def look(*_):
        if not within:
            within.append(None)  # the inner capture runs this hook too, if the models are one
            within[0] = capture(inner, inputs).matrices

    handle = layers_of(outer)[1].register_forward_hook(look)
    try:
        return capture(outer, inputs).matrices, within[0]
    finally:
        handle.remove()


@pytest.mark.parametrize("outer", ["bert", "gptj", "xlnet"])
@pytest.mark.parametrize("inner", ["llama", "falcon", "xlnet"])
def test_a_users_hook_captures_from_another_model(outer, inner):
    models, inputs = (build(outer), build(inner)), inputs_of("bert")
    wanted = [capture(model, inputs).matrices for model in models]
    got = capture_within(*models, inputs)
    assert all(equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert is_plain()


@pytest.mark.parametrize("name", ["bert", "llama", "xlnet", "gptj", "falcon"])
def test_a_users_hook_captures_from_the_same_model(name):
    model, inputs = build(name), inputs_of(name)
    wanted, before = capture(model, inputs).matrices, output_of(model, inputs)
    first, second = capture_within(model, model, inputs)
    assert equal(first, wanted)
    assert equal(second, wanted)
    assert is_plain()
    assert torch.equal(output_of(model, inputs), before)


@pytest.mark.parametrize("name", ["bert", "gptj"])
def test_a_users_hook_that_runs_the_same_model_is_told_of(name):
    model, inputs, runs = build(name), inputs_of(name), []
    report_on(model)

    def run(*_):
        if not runs:
            runs.append(None)
            output_of(model, inputs)

    layers_of(model)[1].register_forward_hook(run)
    with pytest.raises(CaptureError, match="or is it used by a hook of its own"):
        capture(model, inputs)
    assert is_plain()


# --- borrowed alone ---


def test_a_borrowed_model_reads_the_implementation_in_each_of_its_configs():
    model = build("t5gemma", "eager")
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    assert len({id(config) for config in configs}) > 1

    def implementations():
        return {config._attn_implementation for config in configs}

    with borrowed(model, implementation="sdpa"):
        assert implementations() == {"sdpa"}
        with borrowed(model, implementation=None):
            assert implementations() == {"eager"}
        assert implementations() == {"sdpa"}
    assert implementations() == {"eager"}


def test_an_implementation_that_another_thread_sets_meanwhile_is_kept():
    model = bert()
    with borrowed(model, implementation="eager"):
        setting = threading.Thread(target=model.set_attn_implementation, args=("eager",))
        setting.start()
        setting.join(timeout=20)
    assert model.config._attn_implementation == "eager"


def test_hooks_that_a_user_registers_meanwhile_are_kept():
    model, inputs, calls, registered = build("falcon"), inputs_of("falcon"), [], []
    report_on(model)

    def register(*_):
        if not registered:
            registered.append(model.lm_head.register_forward_hook(lambda *_: calls.append(1)))

    model.register_forward_pre_hook(register)
    capture(model, inputs)
    calls.clear()
    output_of(model, inputs)
    assert calls == [1]


@pytest.mark.parametrize("train", [False, True])
def test_captures_that_change_a_model_for_all_wait_for_each_other(train):
    model, entered = bert().train(train), []

    def enter():
        with borrowed(model, implementation=None, exclusive=not train):
            entered.append(model.training)

    with borrowed(model, implementation=None, exclusive=not train):
        waiting = threading.Thread(target=enter)
        waiting.start()
        waiting.join(timeout=0.2)
        assert entered == []
        assert not model.training
    waiting.join(timeout=20)
    assert entered == [False]
    assert model.training is train


def test_captures_that_change_nothing_do_not_wait():
    model, entered = bert(), []

    def enter():
        with borrowed(model, implementation="eager"):
            entered.append(model.config._attn_implementation)

    with borrowed(model, implementation=None):
        other = threading.Thread(target=enter)
        other.start()
        other.join(timeout=20)
        assert entered == ["eager"]
        assert model.config._attn_implementation == "sdpa"

"""A model borrowed for one forward pass: what the pass needs, seen by this thread alone, and given back after it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_MARKS = frozenset({"_output_capturing_hooks_installed", "forward"})
"""What Transformers leaves in a module whose outputs it has recorded: in 5.0 a `forward` of its own."""
_implementation: ContextVar[str | None] = ContextVar("attention implementation", default=None)


@contextmanager
def borrowed(
    model: nn.Module,
    *,
    implementation: str | None,
    exclusive: bool = False,
    keep_random_state: bool = False,
    gradients: bool = False,
) -> Iterator[None]:
    """Let this thread's forward passes read `implementation` in every config, in eval state; without gradients.

    No config is changed: what other threads run meanwhile computes what it computed before. A model in train state is
    put into eval state, which all threads see; captures of other threads wait meanwhile. What was compiled runs
    uncompiled, so that it reads the implementation anew.

    Args:
        model: Any module; it comes back as it was, after an exception too.
        implementation: The name of a registered attention function, or `"eager"`; `None` for the model's own.
        exclusive: Let other captures wait, and take off the recording hooks that Transformers may install.
        keep_random_state: Give the random number generators back as they came.
        gradients: Let them be taken, also where the caller has switched them off.
    """
    modules = list(model.modules())
    with ExitStack() as stack:
        with _locks.models:
            training = [module for module in modules if module.training]
            if exclusive or training:
                stack.enter_context(_locks.models)  # once more, and so held to the end
        stack.enter_context(_locks.switch.on())
        if training:
            stack.enter_context(_in_eval_state(model, modules))
        if exclusive:
            stack.enter_context(_hooks_as_they_were(modules))
        if keep_random_state:
            stack.enter_context(torch.random.fork_rng(devices=cuda_devices(model)))
        if gradients:
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        token = _implementation.set(implementation)
        stack.callback(_implementation.reset, token)
        yield


def cuda_devices(model: nn.Module) -> list[int]:
    """Return the indices of the CUDA devices that hold parts of a model."""
    return sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})


def own_implementation(model: PreTrainedModel) -> str | None:
    """Return the attention implementation that a model has outside of captures."""
    token = _implementation.set(None)
    try:
        found: str | None = model.config._attn_implementation
    finally:
        _implementation.reset(token)
    return found


@contextmanager
def _in_eval_state(model: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    training = [module.training for module in modules]
    try:
        model.eval()
        yield
    finally:
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training


@contextmanager
def _hooks_as_they_were(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Take off what Transformers puts on modules meanwhile in order to record their outputs, and nothing else."""
    before = [(set(module._forward_hooks), _MARKS & module.__dict__.keys()) for module in modules]
    try:
        yield
    finally:
        for module, (hook_ids, marks) in zip(modules, before, strict=True):
            for hook_id in set(module._forward_hooks) - hook_ids:
                if getattr(module._forward_hooks[hook_id], "__module__", "").startswith("transformers."):
                    del module._forward_hooks[hook_id]
            for mark in _MARKS & module.__dict__.keys() - marks:
                del module.__dict__[mark]


class _Switch:
    """Lets configs read the implementation of the running context; in place only while a capture runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._undo = ExitStack()

    @contextmanager
    def on(self) -> Iterator[None]:
        with self._lock:
            if self._n_users == 0:
                self._put_in_place()
            self._n_users += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._undo.close()

    def _put_in_place(self) -> None:
        plain = PreTrainedConfig.__dict__["_attn_implementation"]
        read = property(lambda config: _implementation.get() or plain.fget(config), plain.fset)
        self._undo.callback(setattr, PreTrainedConfig, "_attn_implementation", plain)
        PreTrainedConfig._attn_implementation = read  # type: ignore[assignment]
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            self._undo.enter_context(torch.compiler.set_stance("force_eager"))

    def put_away(self) -> None:
        """Undo it in a forked child, where the threads that used it are gone."""
        self._undo.close()


class _Locks:
    """What the captures of this process share."""

    def __init__(self) -> None:
        self.models = threading.RLock()
        """Held while a model is changed in a way that other threads can see."""
        self.switch = _Switch()


_locks = _Locks()


def _renew_locks() -> None:
    """Give a forked child locks of its own: a thread of the parent may have held the old ones."""
    global _locks
    _locks.switch.put_away()
    _locks = _Locks()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_locks)

"""`Embedded`: a model as a function of its embeddings, whichever way its inputs are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnflow_hf.borrowing import borrowed
from attnflow_hf.errors import BoolArray, OptionError
from attnflow_hf.evaluation.edits import Replacement, edit
from attnflow_hf.evaluation.outputs import at_positions, head_logits, head_outputs
from attnflow_hf.inputs import Sample
from attnflow_hf.reader import model_batches, model_inputs
from attnflow_hf.scoring import Wrapped
from attnflow_hf.targets import Target

EMBEDDINGS = ("block", "word")
Baseline = tuple[Sequence[BoolArray], Replacement | None]
"""Which tokens of each text are something else in the baseline, and what; `None` for zeros."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """Some texts as functions of their embeddings.

    Attributes:
        output: From embeddings and `arguments` to the head's outputs, `[batch, label]`.
        embeddings: Those of the texts, `[batch, token, dimension]`; they ask for gradients.
        baselines: Those of the baseline; `None` without one.
        arguments: Positions, and then the model's inputs.
        targets: The class of each text, `[batch]`.
        n_rows: How many rows may go through the model at once.
    """

    output: Callable[..., torch.Tensor]
    embeddings: torch.Tensor
    baselines: torch.Tensor | None
    arguments: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    n_rows: int


@contextmanager
def embedded(
    wrapped: Wrapped,
    pairs: Sequence[tuple[Sample, Target]],
    output: str,
    embeddings: str = "word",
    baseline: Baseline | None = None,
) -> Iterator[Embedded]:
    """Give some texts as functions of their embeddings; the model comes back as it was.

    The model reads its inputs as always, and given embeddings are put in the place of its own on the way: position ids,
    masks and scales are those of the ids, and models need not take `inputs_embeds`. Gradients are off until whoever
    wants them switches them on.

    Args:
        wrapped: The model and its tokenizer.
        pairs: The texts of one batch with their targets.
        output: `"logit"` or `"probability"`.
        embeddings: `"word"`, what the word embedding gives; `"block"`, what the embedding block makes of it.
        baseline: What is to be the baseline.

    Raises:
        OptionError: The model has no embedding block, or uses its embeddings more than once in a pass.
    """
    model = wrapped.model
    inputs = model_inputs(model, wrapped.tokenizer, [sample for sample, _ in pairs])
    with borrowed(model, implementation=None), _Substitution.on(_module(model, embeddings)) as substitution:

        def function(values: torch.Tensor, positions: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
            with substitution.of(values, type(model).__name__):
                logits = head_logits(model, dict(zip(inputs, features, strict=True)))
            return head_outputs(model, at_positions(logits, positions), output)

        values = substitution.record(model, inputs)
        baselines = None if baseline is None else _baselines(wrapped, substitution, values, pairs, baseline)
        positions = torch.tensor([target.position or 0 for _, target in pairs])
        targets = torch.tensor([target.index for _, target in pairs])
        yield Embedded(
            output=function,
            embeddings=values.requires_grad_(),
            baselines=baselines,
            arguments=(positions.to(values.device), *inputs.values()),
            targets=targets.to(values.device),
            n_rows=max(map(len, model_batches(model, [pairs[0][0]] * wrapped.batch_size, wrapped.batch_size))),
        )


def _module(model: Any, embeddings: str) -> nn.Module:
    """Return the module that gives the embeddings."""
    if embeddings == "word":
        found: nn.Module = model.get_input_embeddings()
        return found
    block = getattr(model.base_model, "embeddings", None)
    if not isinstance(block, nn.Module) or block is model.get_input_embeddings():
        raise OptionError(f"{type(model).__name__} has no embedding block, as BERT has it; use embeddings='word'")
    return block


def _baselines(
    wrapped: Wrapped,
    substitution: _Substitution,
    values: torch.Tensor,
    pairs: Sequence[tuple[Sample, Target]],
    baseline: Baseline,
) -> torch.Tensor:
    """Return the embeddings of the baseline: of the texts with their tokens replaced, or with zeros in their place."""
    masks, replacement = baseline
    if replacement is None:
        replaced = nn.utils.rnn.pad_sequence([torch.from_numpy(mask) for mask in masks], batch_first=True)
        return values.masked_fill(replaced.to(values.device)[..., None], 0.0)
    edited = [edit(sample, target, mask, replacement)[0] for (sample, target), mask in zip(pairs, masks, strict=True)]
    return substitution.record(wrapped.model, model_inputs(wrapped.model, wrapped.tokenizer, edited))


class _Substitution:
    """Puts given embeddings in the place of a module's output, in this thread's passes alone."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._is_on = False
        self._given: torch.Tensor | None = None
        self._seen: list[torch.Tensor] = []

    @classmethod
    @contextmanager
    def on(cls, module: nn.Module) -> Iterator[_Substitution]:
        """Stand behind a module, and be taken off after an exception too."""
        self = cls()
        handle = module.register_forward_hook(self._take_place, prepend=True)
        try:
            yield self
        finally:
            handle.remove()

    def record(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the module gives in a pass over these inputs."""
        with self.of(None, type(model).__name__):
            head_logits(model, inputs)
        return self._seen[0].detach()

    @contextmanager
    def of(self, embeddings: torch.Tensor | None, model_name: str) -> Iterator[None]:
        """Substitute `embeddings` in the pass that is made meanwhile; `None` leaves the module's own.

        Raises:
            OptionError: The module was not used, or more than once.
        """
        self._is_on, self._given, self._seen = True, embeddings, []
        try:
            yield
        finally:
            self._is_on, self._given = False, None
        if len(self._seen) != 1:
            raise OptionError(
                f"{model_name} used its embeddings {len(self._seen)} times in a pass; gradients with respect to them "
                "are those of models that use them once. blank_out works for all"
            )

    def _take_place(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not self._is_on or threading.get_ident() != self._thread:
            return None
        self._seen.append(output)
        return self._given

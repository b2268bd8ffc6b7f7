"""The sanity check of Adebayo et al. (2018): attributions of a model whose weights were made random anew.

An attribution that stays the same when the weights are random tells nothing of what the model has learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import CaptureError, OptionError
from attnflow_hf.evaluation.agreement import rank_agreement
from attnflow_hf.evaluation.summary import Bootstrap, Summary, check_seed
from attnflow_hf.model_facts import count_layers

ALL = "all"
_FLAG = "_is_hf_initialized"  # Transformers leaves alone what carries it


def randomize(model: PreTrainedModel, *, n_parts: int | str = ALL, seed: int = 0) -> PreTrainedModel:
    """Return a copy of a model with weights made random, as Transformers makes those of a new model.

    The model given is not touched, nor are the random numbers of PyTorch. Transformers' own `initialize_weights` does
    the work, so each architecture gets its own distribution.

    Args:
        model: Any Transformers model.
        n_parts: How many of `randomizable_parts(model)`, from the head down; `"all"` makes the whole model random, of
            any architecture. A weight that is shared by two parts (a language model's head is often its embedding) is
            random once the lower one is.
        seed: The same seed gives the same weights, to each part whatever becomes of those below it; `"all"` gives
            others than all parts one after the other.

    Raises:
        OptionError: A number of parts that there is not, or a model that has no parts.
        CaptureError: Transformers does not say how some weights begin; the message names them.

    Example:
        >>> from attnflow_hf import Attributor
        >>> random = randomize(Attributor.from_pretrained().model)
        >>> bool((random.classifier.bias == 0).all())
        True
    """
    check_seed(seed)
    changed = copy.deepcopy(model)
    seen: list[nn.Module] = []
    for number, modules in enumerate(_steps(changed, n_parts)):
        seen.extend(modules)
        weights = _weights_of(changed, modules, seen)
        with torch.no_grad(), _flags(changed, modules, weights), _seeded(changed, seed, number):
            _make_random(changed, weights)
    return changed


def randomizable_parts(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the parts of a model of one stack of layers, from the head down, that are made random one after the other.

    `"head"` is all that lies behind the layers (poolers and last norms too), `"embeddings"` all before them.

    Raises:
        OptionError: The model is not one stack of layers: it has an encoder and a decoder, or shared layers.

    Example:
        >>> from attnflow_hf import Attributor
        >>> randomizable_parts(Attributor.from_pretrained().model)
        ('head', 'layer 5', 'layer 4', 'layer 3', 'layer 2', 'layer 1', 'layer 0', 'embeddings')
    """
    return tuple(name for name, _ in _parts(model))


@dataclass(frozen=True)
class RandomizedAgreement:
    """How far attributions on partly random weights agree with those on the trained ones.

    Attributes:
        n_parts: How many parts were made random.
        part: The lowest of them; `"none"`, or `"all"` of the model as a whole.
        summary: Of the rank correlation of each sentence. A method that sees what was learned comes near 0.
    """

    n_parts: int | str
    part: str
    summary: Summary

    def to_row(self) -> dict[str, Any]:
        """Return the columns of a results table."""
        return {"randomized": self.part, **self.summary.to_row()}


def agreement_with_randomized(
    attributor: Attributor,
    explain: Callable[[Attributor], Sequence[Any]],
    *,
    special_tokens: str,
    n_parts: Sequence[int | str] = (ALL,),
    seed: int = 0,
    statistic: str = "spearman",
    decimals: int | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[RandomizedAgreement]:
    """Return how far what `explain` gives on random weights agrees with what it gives on the trained ones.

    Args:
        attributor: The model with its tokenizer; neither is touched.
        explain: Given an attributor, returns an attribution or importance for each sentence:
            `lambda attributor: attributor(texts, method="rollout")`.
        special_tokens: `"keep"` or `"drop"`; see `Agreement`.
        n_parts: How many parts from the head down are random, a result each; or `"all"`. The cascade is
            `range(len(randomizable_parts(model)) + 1)`.
        seed: Of the weights; see `randomize`.
        statistic: `"spearman"` or `"kendall"`.
        decimals: Round the scores first; see `Agreement`.
        bootstrap: How the interval of the mean is found.

    Raises:
        AttnFlowError: As `randomize` and `rank_agreement`.
    """
    trained = explain(attributor)
    results = []
    for count in n_parts:
        model = randomize(attributor.model, n_parts=count, seed=seed)
        found = explain(Attributor(model, attributor.tokenizer, batch_size=attributor.batch_size))
        summary = rank_agreement(
            trained,
            found,
            special_tokens=special_tokens,
            statistic=statistic,
            decimals=decimals,
            bootstrap=bootstrap,
        )
        part = ALL if count == ALL else ("none", *randomizable_parts(attributor.model))[int(count)]
        results.append(RandomizedAgreement(count, part, summary))
    return results


def _steps(model: PreTrainedModel, n_parts: int | str) -> list[list[nn.Module]]:
    """Return the modules, without those they are made of, that become random one after the other."""
    if n_parts == ALL:
        return [list(model.modules())]
    parts = _parts(model)
    if isinstance(n_parts, (bool, str)) or not isinstance(n_parts, int) or not 0 <= n_parts <= len(parts):
        raise OptionError(f"n_parts must be 'all' or lie from 0 to {len(parts)}, got {n_parts!r}")
    return [modules for _, modules in parts[:n_parts]]


def _weights_of(
    model: PreTrainedModel, modules: Sequence[nn.Module], seen: Sequence[nn.Module]
) -> dict[int, nn.Parameter]:
    """Return the weights of some modules, by identity, without those that modules have which are not yet seen."""
    known = {id(module) for module in seen}
    later = [module for module in model.modules() if id(module) not in known]
    kept = {id(weight) for module in later for weight in module.parameters(recurse=False)}
    own = [weight for module in modules for weight in module.parameters(recurse=False)]
    return {id(weight): weight for weight in own if id(weight) not in kept}


def _parts(model: PreTrainedModel) -> list[tuple[str, list[nn.Module]]]:
    """Return the parts from the head down, each with its modules; together they are all modules of the model."""
    n_layers = count_layers(model.config)
    stacks = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == n_layers]
    stacks = [each for each in stacks if any(True for _ in each[0].parameters())]
    if len(stacks) != 1 or model.config.is_encoder_decoder:
        raise OptionError(
            f"{type(model).__name__} is not one stack of {n_layers} layers, so it cannot be made random part by part; "
            "use n_parts='all'"
        )
    every = list(model.modules())
    in_layers = [list(layer.modules()) for layer in stacks[0]]
    inner = {id(module) for modules in in_layers for module in modules}
    start = next(index for index, module in enumerate(every) if module is stacks[0])
    holders = {id(module) for module in every if any(each is stacks[0] for each in module.modules())}
    behind = [module for module in every[start:] if id(module) not in inner | holders]
    before = [module for module in every[:start] if id(module) not in holders]
    layers = [(f"layer {number}", modules) for number, modules in enumerate(in_layers)]
    head = [*behind, *(module for module in every if id(module) in holders)]
    return [("head", head), *reversed(layers), ("embeddings", before)]


@contextmanager
def _flags(model: PreTrainedModel, modules: Sequence[nn.Module], weights: dict[int, nn.Parameter]) -> Iterator[None]:
    """Let Transformers see what shall be initialized and what shall be left alone; no flag is left behind."""
    chosen = {id(module) for module in modules}
    tensors = [*model.parameters(), *model.buffers()]
    of_chosen = {id(buffer) for module in modules for buffer in module.buffers(recurse=False)} | weights.keys()
    for module in model.modules():
        setattr(module, _FLAG, id(module) not in chosen)
    for tensor in tensors:
        setattr(tensor, _FLAG, id(tensor) not in of_chosen)
    try:
        yield
    finally:
        for each in (*model.modules(), *tensors):
            delattr(each, _FLAG)


@contextmanager
def _seeded(model: PreTrainedModel, seed: int, number: int) -> Iterator[None]:
    """Seed PyTorch for the part of this number, and give its random numbers back."""
    devices = sorted({weight.device.index or 0 for weight in model.parameters() if weight.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        yield


def _make_random(model: PreTrainedModel, weights: dict[int, nn.Parameter]) -> None:
    """Initialize anew; weights are NaN before it, so that none can be left as it was trained unseen."""
    for weight in weights.values():
        if not weight.is_floating_point():
            raise CaptureError(
                f"{type(model).__name__} has quantized weights ({weight.dtype}), which cannot be made random; load it "
                "without quantization"
            )
        weight.fill_(float("nan"))
    model.initialize_weights()
    left = [name for name, weight in model.named_parameters() if id(weight) in weights and weight.isnan().any()]
    if left:
        listed = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        raise CaptureError(
            f"Transformers does not say how these weights of {type(model).__name__} begin, so they cannot be made "
            f"random anew: {listed}"
        )

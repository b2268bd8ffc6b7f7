"""Which way of capture is right for a model: each is tried on a short random input, and taken only if it is proven."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from attnflow_hf.attention_function import Recorder, recording
from attnflow_hf.borrowing import borrowed, cuda_devices, own_implementation
from attnflow_hf.capture_report import CaptureReport
from attnflow_hf.errors import CaptureError
from attnflow_hf.forward_pass import call, reported_attentions, run
from attnflow_hf.model_facts import declares_causal, input_device, reads_padding
from attnflow_hf.probe_checks import Call, Lengths, NotProvenError, check_matrices, find_sites, residual_layers
from attnflow_hf.probe_hooks import found_weights, watched_layers
from attnflow_hf.probe_inputs import N_DECODER_TOKENS, probe_inputs

_logger = logging.getLogger(__name__)
_CPU_BLOCK, _DEVICE_BLOCK = 64, 256  # queries at once: few for the cache of a CPU, more for fewer calls of a device
_PROBE_BLOCK = 4  # several blocks in a short text
_EXACT, _HALF = 1e-5, 3e-2  # how far two ways to the same numbers may be apart, in single and in half precision
_OWN, _HALF_OWN = 1e-3, 0.1  # the same for the model's own attention implementation, which sums in another order


def probe(
    model: PreTrainedModel, *, with_decoder: bool = False, like: Mapping[str, torch.Tensor] | None = None
) -> CaptureReport:
    """Return how `model` is captured: the first of interface, hooks and plain eager that is proven right.

    Each is tried on a short random input. It is right if the captured pass gives the output that the model gives
    without it; and if there is one matrix for each layer, of probabilities, with nothing on padding and, in causal
    models, nothing on later tokens. By the interface the weights times the values must also be the attention's output;
    by hooks the weights must be those that plain eager attention reports.

    Args:
        model: The model, or the encoder of one.
        with_decoder: Capture encoder and decoder together.
        like: Images or sound whose size the random input shall have; a text is short in any case.

    Raises:
        CaptureError: None is right; the message says why not.
    """
    _refuse_known(model)
    trial = _Trial(model, with_decoder, like)
    steps: dict[str, Callable[[], CaptureReport]] = {
        "interface": lambda: trial.interface(_CPU_BLOCK if input_device(model).type == "cpu" else _DEVICE_BLOCK),
        "interface in one block": lambda: trial.interface(None),
        "hooks": trial.hooks,
        "eager": trial.eager,
    }
    reasons: list[str] = []
    for name, step in steps.items():
        if name == "interface in one block" and not trial.uses_interface:
            continue
        try:
            report = step()
        except CaptureError as error:
            reasons.append(f"{name}: {error}")
            continue
        if trial.uses_interface and report.step != "interface":
            _logger.warning("%s is captured by %s: %s", trial.name, name, "; ".join(reasons))
        return replace(report, passed_over=tuple(reasons), mixes_elsewhere=trial.mixes_elsewhere(report))
    raise CaptureError(f"{trial.name} cannot be captured: {reasons[-1].partition(': ')[2]}")


def _refuse_known(model: PreTrainedModel) -> None:
    """Raise `CaptureError` for a model that cannot even be tried without changing it."""
    if getattr(model.config, "attention_type", None) == "block_sparse":
        raise CaptureError(
            f"{type(model).__name__} has block sparse attention, which is approximate, and turns itself into another "
            "model for short texts; load it with from_pretrained(..., attention_type='original_full')"
        )


class _Trial:
    """A model, a random input, and what the model makes of it by itself."""

    def __init__(self, model: PreTrainedModel, with_decoder: bool, like: Mapping[str, torch.Tensor] | None) -> None:
        self.model, self.with_decoder, self.name = model, with_decoder, type(model).__name__
        self.inputs = probe_inputs(model, with_decoder=with_decoder, like=like)
        mask = self.inputs.get("attention_mask")
        n_decoder = N_DECODER_TOKENS if with_decoder else None
        n_real = None if mask is None else int(mask.sum())
        self.lengths = Lengths(None if mask is None else int(mask.shape[1]), n_real, n_decoder)
        with torch.random.fork_rng(devices=cuda_devices(model)):
            before = _random_states(model)
            self.own = self._plain(None, keep_random_state=False)
            self.draws_random = any(not torch.equal(*pair) for pair in zip(before, _random_states(model), strict=True))
        self.uses_interface = False

    def interface(self, block_size: int | None) -> CaptureReport:
        calls: list[Call] = []
        matrices: list[torch.Tensor] = []

        def look(value: torch.Tensor, output: torch.Tensor, weights: torch.Tensor) -> None:
            self.uses_interface = True
            if len(calls) == len(matrices):
                calls.append(Call(int(weights.shape[1]), layer=running.layer))
            calls[-1].value_error = max(calls[-1].value_error, _value_error(value, output, weights))

        recorder = Recorder(matrices.append, block_size=block_size and _PROBE_BLOCK, look=look)
        with watched_layers(self.model) as running:
            outputs = run(self.model, self.inputs, self._draft("interface"), recorder)
        if not matrices:
            raise NotProvenError("none of its attentions goes through Transformers' attention interface")
        worst = max(each.value_error for each in calls)
        self._check_below(worst, _EXACT, _HALF, "the weights times the values are not the attention's output")
        eager = self._difference(outputs, self._plain("eager"))
        self._check_below(eager, _EXACT, _HALF, "the output is not that of plain eager attention")
        report = self._report("interface", calls, matrices, outputs)
        facts = (
            f"weights x values = attention output (difference {worst:.0e})",
            f"output = that of plain eager attention (difference {eager:.0e})",
        )
        return replace(report, block_size=block_size, verified=facts + report.verified)

    def hooks(self) -> CaptureReport:
        with found_weights(self.model) as found:
            outputs = self._plain("eager", output_attentions=True)
        reported = [(_as_call(part, layer, weights), weights) for part, layer, weights in reported_attentions(outputs)]
        for each, weights in reported:
            if id(weights) not in found:
                raise NotProvenError("the attentions that it reports are not what one of its modules returns")
            each.module, each.output_index = found[id(weights)]
        order = {tensor_id: number for number, tensor_id in enumerate(found)}
        reported.sort(key=lambda pair: order[id(pair[1])])
        calls = [each for each, _ in reported]
        means = [weights.mean(dim=1, dtype=torch.float32) for _, weights in reported]
        matrices: list[torch.Tensor] = []
        plan = replace(self._draft("hooks"), sites=tuple(each.as_site() for each in calls))
        outputs = run(self.model, self.inputs, plan, Recorder(matrices.append))
        if [matrix.shape for matrix in matrices] != [mean.shape for mean in means]:
            raise NotProvenError("hooks do not see the attentions that it reports")
        worst = max((float((m - mean).abs().max()) for m, mean in zip(matrices, means, strict=True)), default=0.0)
        self._check_below(worst, _EXACT, _HALF, "hooks and output_attentions=True give other head means")
        report = self._report("hooks", calls, matrices, outputs)
        fact = f"head means = those of output_attentions=True (difference {worst:.0e})"
        return replace(report, verified=(fact, *report.verified))

    def eager(self) -> CaptureReport:
        outputs = self._plain("eager", output_attentions=True)
        reported = reported_attentions(outputs)
        if any(weights is None for _, _, weights in reported):
            raise NotProvenError(f"it tells no attention weights{self._hint()}")
        calls = [_as_call(part, layer, weights) for part, layer, weights in reported]
        matrices = [weights.mean(dim=1, dtype=torch.float32) for _, _, weights in reported]
        return self._report("eager", calls, matrices, outputs)

    def _report(self, step: str, calls: list[Call], matrices: list[torch.Tensor], outputs: Any) -> CaptureReport:
        """Return a report of what was captured, if it can be right."""
        if not matrices:
            raise NotProvenError(
                f"{self.name} gave no attentions: it has no attention layers, or does not tell their weights"
            )
        config = self.model.config
        sites = find_sites(self.name, config, calls, [matrix.shape for matrix in matrices], self.lengths)
        facts = check_matrices(matrices, sites, self.lengths)
        tolerance = self._tolerance(1e-3, 2e-2)
        has_sinks = facts.least < 1 - tolerance
        if facts.most > 1 + tolerance or (has_sinks and step != "interface"):
            raise NotProvenError(
                f"rows of its attentions sum to {facts.least:.3g} .. {facts.most:.3g} and not to 1; scores, or "
                "attention that is approximate, do not make a layer graph"
            )
        is_text = self.lengths.n_real is not None
        if not self.with_decoder and is_text and declares_causal(self.model) and not facts.is_causal:
            raise NotProvenError("it attends to later tokens although its attention is causal")
        own = self._difference(outputs, self.own)
        self._check_below(own, _OWN, _HALF_OWN, "the output is not that of the model without capture", self._hint())
        n_layers, without = residual_layers(config, sites, has_decoder=self.with_decoder)
        verified = [f"output = that without capture (difference {own:.0e})", "all weights are probabilities"]
        verified += ["no weight on padding"] * is_text + ["no weight on later tokens"] * (is_text and facts.is_causal)
        return replace(
            self._draft(step),
            sites=tuple(sites),
            n_layers=n_layers,
            residual_layers=without,
            is_causal=is_text and facts.is_causal,
            has_sinks=has_sinks,
            verified=tuple(verified),
        )

    def _draft(self, step: str) -> CaptureReport:
        return CaptureReport(self.name, step, draws_random=self.draws_random)

    def mixes_elsewhere(self, report: CaptureReport) -> bool | None:
        """Return whether a token reaches another one although all attentions give nothing; `None` if not tried."""
        n_real = self.lengths.n_real
        if n_real is None or n_real < 2 or self.with_decoder:
            return None
        if report.step != "interface":
            return True if reads_padding(self.model) else None  # convolutions mix neighbors
        shape = _main_tensor(self.own).shape
        speaks_of_each = len(shape) == 3 and shape[1] == self.lengths.n_all
        model = self.model if speaks_of_each else cast(PreTrainedModel, self.model.base_model)
        ids = self.inputs["input_ids"]
        changed = ids.clone()
        middle = n_real // 2
        changed[0, middle] = next((each for each in ids[0, :n_real] if each != ids[0, middle]), ids[0, middle])
        try:
            first, second = (self._silent_states(model, each, report) for each in (ids, changed))
        except CaptureError:  # the model without its head takes other inputs
            return None
        if first.ndim != 3 or first.shape[1] != self.lengths.n_all:
            return None
        others = [position for position in range(n_real) if position != middle]
        return bool((first[0, others] != second[0, others]).any())

    def _silent_states(self, model: PreTrainedModel, ids: torch.Tensor, report: CaptureReport) -> torch.Tensor:
        silent = Recorder(lambda _: None, block_size=None, silent=True)
        return _main_tensor(run(model, self.inputs | {"input_ids": ids}, report, silent))

    def _plain(
        self, implementation: str | None, *, output_attentions: bool = False, keep_random_state: bool = True
    ) -> Any:
        """Return the output without capture: by the model's own implementation (`None`), or another."""
        borrowing = borrowed(
            self.model,
            implementation=implementation,
            exclusive=output_attentions,
            keep_random_state=keep_random_state,
        )
        with borrowing, recording(None):
            return call(self.model, self.inputs, output_attentions=output_attentions)

    def _hint(self) -> str:
        """Return what may help a model that was loaded with another implementation than eager."""
        implementation = own_implementation(self.model)
        if implementation in (None, "eager"):
            return ""
        return (
            f"; it has attn_implementation={implementation!r}, and loaded with attn_implementation='eager' it may be "
            "captured"
        )

    def _tolerance(self, single: float, half: float) -> float:
        return half if self.model.dtype.itemsize < 4 else single

    def _check_below(self, difference: float, single: float, half: float, message: str, hint: str = "") -> None:
        if not difference <= self._tolerance(single, half):
            raise NotProvenError(f"{message}: they differ by {difference:.2g} of its size{hint}")

    def _difference(self, outputs: Any, wanted: Any) -> float:
        """Return how far two outputs are apart on real tokens, as a share of the second."""
        first, second = (_main_tensor(each).cpu().double() for each in (outputs, wanted))
        if self.lengths.n_real is not None and first.ndim > 2 and first.shape[1] == self.lengths.n_all:
            first, second = first[:, : self.lengths.n_real], second[:, : self.lengths.n_real]
        return float((first - second).norm() / second.norm().clamp_min(1e-30))


def _as_call(part: str, layer: int, weights: Any) -> Call:
    if not isinstance(weights, torch.Tensor) or weights.ndim != 4:
        shape = list(weights.shape) if isinstance(weights, torch.Tensor) else type(weights).__name__
        raise NotProvenError(f"its attentions of layer {layer} are {shape}, not [batch, head, query, key]")
    return Call(int(weights.shape[1]), part, layer)


def _value_error(value: torch.Tensor, output: torch.Tensor, weights: torch.Tensor) -> float:
    """Return how far the weights times the values are from an attention's output `[batch, query, head, size]`."""
    shared = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)  # grouped queries share values
    wanted = torch.matmul(weights.cpu().double(), shared.cpu().double()).transpose(1, 2)
    if wanted.shape != output.shape:
        return float("inf")
    return float((wanted - output.cpu().double()).norm() / wanted.norm().clamp_min(1e-30))


def _random_states(model: PreTrainedModel) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda_devices(model))]


def _main_tensor(outputs: Any) -> torch.Tensor:
    """Return a model's first output: its logits, or its last states."""
    found = next((v for v in outputs.values() if isinstance(v, torch.Tensor) and v.is_floating_point()), None)
    if found is None:
        raise NotProvenError("its output holds no numbers to compare")
    return found

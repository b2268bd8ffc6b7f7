"""`Attributor`: text in, `Attribution` out; the only place where all steps meet."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from attnflow_hf.attentions import HeadReduction
from attnflow_hf.attributing import attribute_all, attribute_generated, graph_of
from attnflow_hf.attribution import Attribution
from attnflow_hf.backends import PAPER_METHODS
from attnflow_hf.capture import report_on
from attnflow_hf.capture_report import CaptureReport
from attnflow_hf.errors import OptionError, SaturationWarning
from attnflow_hf.explained_page import explained_page
from attnflow_hf.generation import generate
from attnflow_hf.given import given, is_single
from attnflow_hf.inputs import Text
from attnflow_hf.layer_graph import LayerGraph
from attnflow_hf.loading import load_model
from attnflow_hf.options import Options, OutputPosition, check_generation_options
from attnflow_hf.page import Page
from attnflow_hf.scoring import Wrapped
from attnflow_hf.signals import SIGNALS


class _CallOptions(TypedDict, total=False):
    """The options of `Attributor.__call__`, for type checkers."""

    method: str
    backend: str
    layer: int | Literal["all"]
    output_position: OutputPosition
    head_reduction: HeadReduction
    residual_weight: float | Literal["auto", "measured", "unlimited"]
    edge_weights: str
    target: int | str | Sequence[int | str | None] | None
    normalize_rows: bool | Literal["auto"]
    relu: str
    baseline: str | None
    normalize: str
    special_tokens: str
    first_token: str
    position_correction: str
    keep: str
    n_permutations: int
    seed: int
    text_target: str | list[str] | None
    truncation: bool


class Attributor:
    """Wraps a Transformers model and its tokenizer, and attributes its output to the input tokens.

    The model is borrowed: each call gives it back as it came, and stays where it is (CPU or GPU). Several threads may
    use the model meanwhile, by attributors or not: what they compute does not change (a model in train state is in
    eval state during a call).

    Args:
        model: Any Transformers encoder or decoder, of text, images or sound; or an encoder-decoder model, of which
            the encoder is explained, or with `text_target` or `generate` both halves.
        tokenizer: Its tokenizer; `None` if you give encodings of your own.
        batch_size: How many texts go through the model at once.

    Example:
        >>> attributor = Attributor.from_pretrained()
        >>> attribution = attributor("the key to the cabinets", method="flow")
        >>> attribution.prediction.label
        'singular'
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any = None, *, batch_size: int = 16) -> None:
        """Wrap a model that the user already has."""
        if not isinstance(model, PreTrainedModel):
            raise OptionError(
                f"model must be a Transformers model (PreTrainedModel), got {type(model).__name__}; of a wrapped or "
                "compiled model pass the inner one (.module, ._orig_mod, .get_base_model())"
            )
        if tokenizer is not None and not callable(tokenizer):
            raise OptionError(f"tokenizer must be a Transformers tokenizer or None, got {tokenizer!r}")
        if model.main_input_name not in ("input_ids", *SIGNALS):
            raise OptionError(
                f"{type(model).__name__} reads {model.main_input_name}; models of text (input_ids), images "
                "(pixel_values) and sound (input_values, input_features) can be explained"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise OptionError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._has_warned = False

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        revision: str = "main",
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 16,
    ) -> Attributor:
        """Return an attributor for a model of the hub, of a local folder, or for the embedded one.

        The model is loaded with the head it was saved with (classifier, language model, ...), or without one where
        its config names none.

        Args:
            name_or_path: A name on the hub or a folder; `None` for the embedded verb-number model, which needs no
                network.
            revision: Branch, tag or commit of a hub model.
            dtype: The type of the weights; by default that of the checkpoint.
            device: Where the model goes; by default it stays on the CPU.
            attn_implementation: The model's attention, `"sdpa"`, `"eager"`, ...; by default what Transformers chooses,
                or eager where attentions cannot be captured from that.
            trust_remote_code: Run code that comes with the model.
            batch_size: How many texts go through the model at once.

        Raises:
            OSError: Transformers does not find the model or its tokenizer.
        """
        model, tokenizer = load_model(
            name_or_path,
            revision=revision,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        return cls(model, tokenizer, batch_size=batch_size)

    @overload
    def __call__(self, inputs: Text | Mapping[str, Any], **options: Unpack[_CallOptions]) -> Attribution: ...
    @overload
    def __call__(self, inputs: list[Text], **options: Unpack[_CallOptions]) -> list[Attribution]: ...
    def __call__(
        self,
        inputs: Text | list[Text] | Mapping[str, Any],
        *,
        method: str = "flow",
        backend: str = "auto",
        layer: int | Literal["all"] = -1,
        output_position: OutputPosition = "auto",
        head_reduction: HeadReduction = "auto",
        residual_weight: float | Literal["auto", "measured", "unlimited"] = "auto",
        edge_weights: str = "attention",
        target: int | str | Sequence[int | str | None] | None = None,
        normalize_rows: bool | Literal["auto"] = "auto",
        relu: str = "after",
        baseline: str | None = None,
        normalize: str = "sum",
        special_tokens: str = "keep",
        first_token: str = "keep",
        position_correction: str = "none",
        keep: str = "layers",
        n_permutations: int = 16,
        seed: int = 0,
        text_target: str | list[str] | None = None,
        truncation: bool = False,
    ) -> Attribution | list[Attribution]:
        """Return what an output position of the model drew on, one score for each input token.

        Args:
            inputs: A text; a pair of texts (tuple); a list of texts or pairs; or what the tokenizer returned for
                them, or the image processor or feature extractor of a model of images or sound. With
                `decoder_input_ids` among it, both halves of an encoder-decoder model are explained.
            method: `"raw"`: the attention weights of the explained layer alone. `"rollout"`: the product of all
                layers below, residual included. `"flow"`: the maximum flow through them; where it says
                little of the position, a `SaturationWarning` is given once, and each result's `notes` say so.
                `"flow_shapley"`: the maximum flow into all tokens, shared among them by their Shapley values;
                `attnflow_hf.flow_shapley` says what that means, and what it costs.
            backend: Changes the speed and not the numbers; `"auto"` chooses by size.
            layer: The explained layer, 0 is the lowest, -1 the last; `"all"` gives every layer (for flow, as many
                times the work).
            output_position: The row that is explained, an index into the text's tokens (negative from the end).
                `"auto"`: the last token for causal models, `[CLS]` where the tokenizer has one, else the mean.
                `"mean"`: the mean over all positions; `"all"`: a matrix (both n times the work of one position for
                flow).
            head_reduction: `"mean"`, `"sum"`, `"max"` or `"min"` over heads, one head's index, or a list of heads whose
                mean is taken. `"auto"`: the mean of attention weights (the paper's), the sum of `grad_attention`;
                others make one of them themselves.
            residual_weight: The share of the residual connection in each edge, 0 (none) to 1. More of it keeps scores
                nearer to the position itself. `"unlimited"`, for flow: residual edges without limit; to its own token
                flows then what takes at least one edge of attention. `"measured"`: what `alti` and `norms` measure.
                `"auto"`: the paper's 0.5; for flow on `grad_attention` unlimited; with `alti` and `norms` measured. Raw
                weights have none.
            edge_weights: `"attention"`: the weights, the same whatever is explained (the paper's). `"grad_attention"`:
                the positive part of weights times the gradient of the target's logit with respect to them (Chefer et
                al. 2021), which costs a backward pass: what speaks for the target, far truer to the model. `"alti"`:
                how close what attention carries from a token is to the block's output (Ferrando et al. 2022), the best
                without gradients. `"norms"`: how long that is (Kobayashi et al. 2021). The name of registered ones
                (`register_edge_weights`), or `"module:function"`.
            target: What `grad_attention` explains: a class by index or label, a token or its id for language models (at
                the output position); a list with one for each text. By default what the model predicts.
            normalize_rows: Divide each row of edge weights by its sum. `"auto"`: of all but `grad_attention`, where the
                size of a row tells how much it matters.
            relu: Whether negative numbers of `grad_attention` become zero `"after"` the heads have become one, or
                `"before"` (as Chefer et al. have it, with the mean over heads).
            baseline: Take of `grad_attention` the mean of two gradients: that at the text, and that where all its words
                are `"mask"`, `"pad"` or `"unk"`. They are the two ends of the way that integrated gradients go. It
                costs one more forward and backward pass, and is truer still (the README has figures).
            normalize: `"sum"`: scores sum to 1, as in the paper's code. `"max"`: the largest is 1. `"none"`: the
                values as they are, as in the paper's text: flow values have a meaning of their own.
            special_tokens: `"keep"` them, set their scores to `"zero"`, or `"drop"` them from the result; before
                normalizing.
            first_token: The same for the first token, on which trained decoders put much attention whatever it is.
            position_correction: `"uniform"`: divide by what the method gives on the uniform causal graph of the same
                size, as early tokens of causal models are reached by more paths; causal models only.
            keep: What is kept of the layers while the model runs. `"layers"`: one matrix for each. `"rollout"`: their
                product alone, memory for three matrices however many layers; for `method="rollout"`, same numbers.
            n_permutations: How many random orders `"flow_shapley"` takes above 12 tokens, 2 or more: the time grows
                with it, `standard_errors` fall as one by its square root.
            seed: Of these random orders.
            text_target: For encoder-decoder models a target text (a list for a list): both halves are explained, as
                one graph; `output_position` counts the decoder's tokens, `layer` its layers.
            truncation: Cut texts that are longer than the model can read; otherwise they are an error.

        Returns:
            An `Attribution`; for a list, or an encoding of more than one row, a list of them in the same order.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        options = Options(
            backend=backend,
            layer=layer,
            output_position=output_position,
            head_reduction=head_reduction,
            residual_weight=residual_weight,
            edge_weights=edge_weights,
            target=target,
            normalize_rows=normalize_rows,
            relu=relu,
            baseline=baseline,
            normalize=normalize,
            special_tokens=special_tokens,
            first_token=first_token,
            position_correction=position_correction,
            keep=keep,
            n_permutations=n_permutations,
            seed=seed,
        )
        asked = given(self.model, self.tokenizer, inputs, truncation=truncation, text_target=text_target)
        results = [by_method[method] for by_method in attribute_all(self.wrapped, asked, [method], options)]
        self._warn_of_saturation(results)
        return results[0] if is_single(inputs, len(results)) else results

    def generate(
        self,
        text: Text,
        *,
        max_new_tokens: int = 20,
        generation_config: GenerationConfig | None = None,
        method: str = "flow",
        options: Options | None = None,
        truncation: bool = False,
    ) -> list[Attribution]:
        """Return one attribution for each token that the model generates, in their order.

        The text is generated as Transformers does it, then read once more as a whole; each generated token is
        explained from the position that predicted it, by the tokens up to there. Its `prediction` is the generated
        token with its probability. On `edge_weights="grad_attention"` each is the `target` there: the text up to each
        is read once more by itself, `batch_size` of them at once, forward and back.

        Args:
            text: The prompt; for an encoder-decoder model what the encoder reads.
            max_new_tokens: How many tokens at most.
            generation_config: How to generate; by default greedily. One sequence of one beam.
            method: As in `__call__`.
            options: The options of `__call__`; the output position and the target are those of each token.
            truncation: Cut a text that is longer than the model can read.

        Raises:
            AttnFlowError: As `__call__`; `OptionError` if the model cannot generate, or the text is not one text.
        """
        if isinstance(text, (list, Mapping)):
            raise OptionError(f"generate takes one text, got {type(text).__name__}; call it for each text")
        chosen = options or Options()
        check_generation_options(chosen)
        prompt = given(self.model, self.tokenizer, text, truncation=truncation).samples[0]
        sample, new_ids = generate(
            self.model, self.tokenizer, prompt, max_new_tokens=max_new_tokens, generation_config=generation_config
        )
        results = attribute_generated(self.wrapped, sample, new_ids, method, chosen)
        self._warn_of_saturation(results)
        return results

    def compare(
        self,
        inputs: Text | Mapping[str, Any],
        *,
        methods: Sequence[str] = PAPER_METHODS,
        options: Options | None = None,
        text_target: str | None = None,
        truncation: bool = False,
    ) -> dict[str, Attribution]:
        """Return one text's attributions by several methods, from one forward pass.

        Args:
            inputs: A text, a pair of texts, or what the tokenizer returned for one.
            methods: Which methods, in the order wanted; by default the three of the paper.
            options: The options of `__call__`; the backend is that of the methods which have it.
            text_target: As in `__call__`.
            truncation: Cut a text that is longer than the model can read.

        Raises:
            AttnFlowError: As `__call__`; `OptionError` if `inputs` holds more than one text.
        """
        _check_one_text("compare", inputs, methods)
        asked = given(self.model, self.tokenizer, inputs, truncation=truncation, text_target=text_target)
        results = attribute_all(self.wrapped, asked, methods, options or Options())
        if len(results) > 1:
            raise OptionError(f"compare takes one text, got an encoding of {len(results)}; call it for each")
        return results[0]

    def layer_graph(
        self,
        inputs: Text | Mapping[str, Any],
        *,
        method: str = "flow",
        options: Options | None = None,
        text_target: str | None = None,
        truncation: bool = False,
    ) -> LayerGraph:
        """Return the layer graph of one text that a method reads, for certificates, paths and cuts.

        Its edges are those of the options' edge weights, rows divided or not, with the method's residual weight; on the
        diagonal without limit where that is `"unlimited"`. Nodes are the text's tokens, in front of them an attention
        sink where the model has one, and behind the encoder's the decoder's (each of its layers is two of the graph).

        Args:
            inputs: As in `compare`; so are `text_target` and `truncation`.
            method: Whose residual weight the edges have.
            options: The options of `__call__`; those of the readout change no graph.
            text_target: What a decoder reads.
            truncation: Whether a text may be cut.

        Raises:
            AttnFlowError: As `__call__`; `OptionError` if `inputs` holds more than one text.

        Example:
            >>> from attnflow_hf import Attributor, Options, flow
            >>> attributor = Attributor.from_pretrained()
            >>> graph = attributor.layer_graph("the key to the cabinets", options=Options(edge_weights="alti"))
            >>> result = flow(graph, layer=1, output_positions=[0], certificate=True)
            >>> bool(graph.cut_capacity(result.cuts[0, 2]).round(6) == result.values[0, 2].round(6))
            True
        """
        _check_one_text("layer_graph", inputs, [method])
        asked = given(self.model, self.tokenizer, inputs, truncation=truncation, text_target=text_target)
        return graph_of(self.wrapped, asked, method, options or Options())

    def page(
        self,
        inputs: Text | Mapping[str, Any],
        *,
        options: Options | None = None,
        methods: Sequence[str] = PAPER_METHODS,
        truncation: bool = False,
        text_target: str | None = None,
    ) -> Page:
        """Return a page of one text to read in a browser or a notebook, from one forward pass.

        It holds all layers, up to 100,000 edges of the layer graph (90 tokens in 12 layers) all output positions, and
        the graph or flows in it (see `Page`). `flow_shapley` is made for one layer and position alone.

        Args:
            inputs: As in `compare`; so are `text_target` and `truncation`.
            options: The options of `__call__`; layer and output position are those that are shown first.
            methods: Which methods, in the order wanted.
            truncation: Whether a text may be cut.
            text_target: What a decoder reads.

        Raises:
            AttnFlowError: As `__call__`; `OptionError` if `inputs` holds more than one text.
        """
        _check_one_text("page", inputs, methods)
        asked = given(self.model, self.tokenizer, inputs, truncation=truncation, text_target=text_target)
        return explained_page(self.wrapped, asked, methods, options or Options())

    def capture_report(self, *, with_decoder: bool = False) -> CaptureReport:
        """Return how the model's attentions are captured: by which step and why, its layers, heads, what was verified.

        The first call, or the first attribution, runs a few short forward passes on random input.

        Args:
            with_decoder: Report on encoder and decoder of an encoder-decoder model together.

        Raises:
            CaptureError: The model cannot be captured; the message says why.

        Example:
            >>> print(Attributor.from_pretrained().capture_report())  # doctest: +ELLIPSIS
            BertForSequenceClassification: captured by Transformers' attention interface, streamed: ...
        """
        return report_on(self.model, with_decoder=with_decoder)

    def __repr__(self) -> str:
        """Return the model's class and name."""
        return f"Attributor({type(self.model).__name__}, {self.model_name!r})"

    @property
    def model_name(self) -> str:
        """The name the model was loaded by, or its class."""
        name = str(self.model.config.name_or_path or "")
        return (Path(name).name if Path(name).exists() else name) or type(self.model).__name__

    def _warn_of_saturation(self, results: Sequence[Attribution]) -> None:
        """Warn once, where the caller stands, that flow says little; each such attribution says so in its notes."""
        for result in results:
            if result.says_little and not self._has_warned:
                assert result.saturation is not None
                self._has_warned = True
                warnings.warn(
                    f"flow says little about output position {result.position_name} of layer {result.layer}: "
                    f"its {result.saturation.describe()}. A lower layer, or method='rollout', tells more; the README "
                    "explains why. This is said once; see `notes` and `saturation` of each attribution",
                    SaturationWarning,
                    stacklevel=3,
                )

    @property
    def wrapped(self) -> Wrapped:
        """The model and its tokenizer, as those see them who attribute without an attributor's defaults."""
        return Wrapped(self.model, self.tokenizer, self.model_name, int(self.batch_size))


def _check_one_text(name: str, inputs: object, methods: object) -> None:
    """Raise `OptionError` unless a method of the attributor was given one text and several methods."""
    if isinstance(methods, str) or isinstance(inputs, list):
        several = "" if name == "layer_graph" else " and a list of methods"
        raise OptionError(f"{name} takes one text{several}; call it for each text")

"""`CaptureReport`: by which step a model's attentions are captured, and what was verified."""

from __future__ import annotations

from dataclasses import dataclass

ENCODER, DECODER, CROSS = "encoder", "decoder", "cross"
STEPS = {
    "interface": "Transformers' attention interface, streamed: all heads of a block of queries at a time",
    "hooks": "forward hooks, which reduce the heads of one layer at a time",
    "eager": "output_attentions=True, reduced afterwards: all heads of all layers at a time",
}


@dataclass(frozen=True)
class Site:
    """One attention of a model, in the order of the calls.

    Attributes:
        part: `"encoder"` and `"decoder"` for self attention (a model of one stack, causal or not, has `"encoder"`
            alone), `"cross"` for the decoder's into the encoder.
        layer: The layer it belongs to, 0 is the lowest.
        n_heads: How many heads it has.
        module: The name of its module.
        output_index: Where in the module's output the weights stand, for hooks.
    """

    part: str
    layer: int
    n_heads: int
    module: str = ""
    output_index: int = -1


@dataclass(frozen=True)
class CaptureReport:
    """How a model is captured; made by trying it on a short random input.

    Attributes:
        model: The model's class.
        step: `"interface"`, `"hooks"` or `"eager"`; each where those before it are wrong or absent.
        sites: The attentions, in the order of the calls.
        n_layers: How many layers the model has; of an encoder-decoder model, those of both.
        residual_layers: The layers of a hybrid that have no attention; the layer graph has their residual alone.
        is_causal: Whether no token sees a later one.
        has_sinks: Whether rows sum to less than 1, as part of the attention goes to a learned sink.
        mixes_elsewhere: Whether tokens meet outside of these attentions too (convolutions, state spaces), which the
            layer graph does not see; `None` where that could not be tried.
        block_size: How many queries go through the attention at once; `None` for all.
        draws_random: Whether the forward pass draws random numbers, even in eval state.
        verified: What was compared, and how far it was apart.
        passed_over: Why the steps before were not taken.
    """

    model: str
    step: str
    sites: tuple[Site, ...] = ()
    n_layers: int = 0
    residual_layers: tuple[int, ...] = ()
    is_causal: bool = False
    has_sinks: bool = False
    mixes_elsewhere: bool | None = None
    block_size: int | None = None
    draws_random: bool = False
    verified: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def n_heads(self) -> tuple[int, ...]:
        """The heads of each attention, in the order of the calls."""
        return tuple(site.n_heads for site in self.sites)

    @property
    def has_decoder(self) -> bool:
        """Whether an encoder and its decoder are captured together."""
        return any(site.part == CROSS for site in self.sites)

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of an attribution must know of the model."""
        notes = []
        if self.residual_layers:
            listed = ", ".join(map(str, self.residual_layers))
            notes.append(f"layers without attention ({listed} of {self.n_layers}) stand in the graph as residual alone")
        if self.mixes_elsewhere:
            notes.append("tokens also meet outside of attention (state spaces, convolutions), which no score shows")
        return tuple(notes)

    def _direction(self) -> str:
        if self.has_decoder:
            return "the encoder sees all of its input, the decoder that and what is before"
        return "causal" if self.is_causal else "each token sees all"

    def __str__(self) -> str:
        """Return the report as text, a line for each fact."""
        heads = sorted(set(self.n_heads))
        lines = [
            f"{self.model}: captured by {STEPS[self.step]}",
            f"  layers     {self.n_layers}, with {len(self.sites)} attentions of {' or '.join(map(str, heads))} heads",
            f"  direction  {self._direction()}",
        ]
        if self.has_sinks:
            lines.append("  sinks      rows sum to less than 1; what is missing goes to an attention sink of its own")
        lines += [f"  note       {note}" for note in self.notes()]
        lines += [f"  verified   {fact}" for fact in self.verified]
        lines += [f"  not by     {reason}" for reason in self.passed_over]
        return "\n".join(lines)

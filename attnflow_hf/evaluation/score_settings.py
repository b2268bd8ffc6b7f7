"""`ScoreSettings`: how the attributions and importances of an evaluation are made; and importance by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from attnflow_hf.attributor import Attributor
from attnflow_hf.errors import OptionError, check_choice
from attnflow_hf.evaluation.captum_scores import GradientSettings
from attnflow_hf.evaluation.edits import REPLACEMENTS
from attnflow_hf.evaluation.gradients import gradient_x_input, input_gradient, integrated_gradients
from attnflow_hf.evaluation.importance import Importance, blank_out
from attnflow_hf.options import Options

IMPORTANCES: dict[str, tuple[Callable[..., list[Importance]], tuple[str, ...]]] = {
    "blank_out": (blank_out, ("replacement", "signs")),
    "gradient_x_input": (gradient_x_input, ("embeddings", "signs")),
    "input_gradient": (input_gradient, ("embeddings", "norm")),
    "integrated_gradients": (integrated_gradients, ("embeddings", "signs", "baseline", "n_steps")),
}
"""Each kind of importance, and which of the settings it takes."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How attributions and importances are made; `evaluate_agreement` explains each."""

    options: Options
    replacement: str
    signs: str
    norm: str
    embeddings: str
    baseline: str
    n_steps: int
    truncation: bool

    def __post_init__(self) -> None:
        """Check all that can be checked without a data set and a model."""
        check_choice("replacement", self.replacement, REPLACEMENTS)
        GradientSettings("", self.norm, self.signs, "logit", "keep", self.embeddings, self.baseline, self.n_steps)
        if self.options.output_position != "auto":
            raise OptionError("an evaluation is at the position that the model's head reads: leave output_position out")
        if (self.options.normalize, self.options.special_tokens, self.options.first_token) != ("sum", "keep", "keep"):
            raise OptionError(
                "normalize, special_tokens and first_token of the options change no order of tokens: leave them out; "
                "an evaluation says itself what becomes of special tokens"
            )

    def importance_of(
        self, kind: str, attributor: Attributor, texts: list[str], special_tokens: str
    ) -> list[Importance]:
        """Return the importance of the tokens of each text, by the kind's name."""
        function, names = IMPORTANCES[kind]
        options = {name: getattr(self, name) for name in names}
        return function(attributor, texts, special_tokens=special_tokens, truncation=self.truncation, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        values: dict[str, Any] = plain({**asdict(self), "options": asdict(self.options.with_own_defaults())})
        return values


def plain(values: Any) -> Any:
    """Return settings as JSON gives them back."""
    return json.loads(json.dumps(values, default=lambda value: value.tolist()))


def several(name: str, value: Any, choices: Iterable[str]) -> list[str]:
    """Return one of the choices, or several different ones, as a list.

    Raises:
        OptionError: It is none of these.
    """
    listed, known = [value] if isinstance(value, str) else value, list(choices)
    if not isinstance(listed, (list, tuple)) or not listed or len(set(listed)) < len(listed):
        raise OptionError(f"{name} must be one, or a list of different ones, got {value!r}")
    for each in listed:
        check_choice(name, each, known)
    return list(listed)

"""The settings of the training script, read from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attnflow_hf.errors import OptionError
from attnflow_hf.yaml_files import read_yaml

__all__ = ["Settings", "load_settings"]


@dataclass(frozen=True)
class Settings:
    """Every number the training depends on.

    Attributes:
        seed: Seed of the grammar, the sampling, the noise and the first weights.
        natural_rows: ``train.tsv`` starts with so many naturally distributed rows; rows with attractors follow.
        validation_share: The part of ``train.tsv``, chosen by a hash of the text, that is never trained on.
        min_count: A word becomes a whole token when the training rows hold it so often.
        n_pieces: How many word pieces are learned for all other words.
        max_length: The longest input of the model, in tokens.
        hidden_size: Width of the model.
        n_layers: Number of layers.
        n_heads: Number of heads.
        intermediate_size: Width of the feed-forward layers.
        dropout: Dropout of hidden states; attentions are never dropped.
        encoder: The installed package whose encoder gives the first word embeddings and becomes the teacher.
        epochs: Passes over the data; the sample is drawn anew in each.
        batch_size: Sentences in a batch.
        learning_rate: The highest learning rate, reached after the warm-up; it falls to zero along a cosine.
        warmup_share: The part of all steps in which the learning rate rises.
        weight_decay: Weight decay of the matrices.
        average_decay: Decay of the running mean of the weights, taken at every fourth step, which is what is saved.
        label_smoothing: Label smoothing of the classification loss.
        attractor_sample: Rows with attractors that are drawn in each epoch.
        grammar_pool: Number of different sentences taken from the grammar.
        grammar_sample: How many of them are drawn in each epoch.
        cut_pool: Number of shorter prefixes that the teacher labels.
        cut_sample: How many of them are drawn in each epoch.
        teacher_epochs: Passes over the data in the fine-tuning of the teacher.
        teacher_learning_rate: The highest learning rate there.
        teacher_grammar_sample: Sentences of the grammar that the teacher sees in each epoch.
        teacher_weight: Weight of the teacher's probability in the label of a row, from 0 to 1.
        mask_rate: The part of the tokens hidden in a batch, to be guessed by the masked-language-model loss.
        mask_weight: Weight of that loss.
        split_rate: The part of the whole-word tokens that are split into pieces.
        n_threads: Threads of PyTorch; the figures depend on it in their last digits.
    """

    seed: int
    natural_rows: int
    validation_share: float
    min_count: int
    n_pieces: int
    max_length: int
    hidden_size: int
    n_layers: int
    n_heads: int
    intermediate_size: int
    dropout: float
    encoder: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    average_decay: float
    label_smoothing: float
    attractor_sample: int
    grammar_pool: int
    grammar_sample: int
    cut_pool: int
    cut_sample: int
    teacher_epochs: int
    teacher_learning_rate: float
    teacher_grammar_sample: int
    teacher_weight: float
    mask_rate: float
    mask_weight: float
    split_rate: float
    n_threads: int


def load_settings(path: Path) -> Settings:
    """Return the settings in the YAML file at `path`.

    Raises:
        OptionError: The file cannot be read, or its keys or types are not those of `Settings`.
    """
    values = read_yaml(path)
    _check_keys(values)
    return Settings(
        **{field.name: _checked(field.name, str(field.type), values[field.name]) for field in fields(Settings)}
    )


def _check_keys(values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(Settings)]
    unknown = sorted(str(key) for key in values if key not in names)
    missing = [name for name in names if name not in values]
    if unknown:
        raise OptionError(f"unknown keys in the settings: {', '.join(unknown)}; the valid keys are {', '.join(names)}")
    if missing:
        raise OptionError(f"the settings lack the keys {', '.join(missing)}")


def _checked(name: str, kind: str, value: Any) -> Any:
    """Return `value`, checked to be of the type `kind`: a string, or a number that is not negative."""
    wanted: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise OptionError(f"the setting {name} is {value!r}; a value of type {kind} is needed")
    if isinstance(value, int | float) and value < 0:
        raise OptionError(f"the setting {name} is {value!r}; it must not be negative")
    return value

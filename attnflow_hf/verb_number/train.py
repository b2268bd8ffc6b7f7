"""Trains the verb-number model.

Run it as ``python -m attnflow_hf.verb_number.train configs/verb_number.yaml --data FOLDER --output FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from attnflow_hf.errors import AttnFlowError
from attnflow_hf.verb_number.batches import Encoded, draw_batches, encode, find_splits
from attnflow_hf.verb_number.corpus import Corpus, choose, load_corpus
from attnflow_hf.verb_number.embeddings import pretrained_embeddings, wave_embeddings
from attnflow_hf.verb_number.evaluate import evaluate, render_scores
from attnflow_hf.verb_number.examples import LABELS, Example
from attnflow_hf.verb_number.grammar_examples import grammar_words
from attnflow_hf.verb_number.model_card import render_card
from attnflow_hf.verb_number.settings import Settings, load_settings
from attnflow_hf.verb_number.teacher import Teacher, fine_tune
from attnflow_hf.verb_number.tokenizer import build_tokenizer, count_words
from attnflow_hf.verb_number.trainer import Trainer

__all__ = ["main", "train"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 after training, evaluating and saving a model, or 2 after printing an error in the input."""
    parser = argparse.ArgumentParser(description="Train the verb-number model and save it with its tokenizer and card.")
    parser.add_argument("settings", type=Path, help="the YAML file with all settings")
    parser.add_argument("--data", type=Path, required=True, help="the folder with train.tsv, natural.tsv, att1.tsv ...")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write the model to")
    options = parser.parse_args(arguments)
    try:
        _run(load_settings(options.settings), options.data, options.output)
    except AttnFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(settings: Settings, data: Path, output: Path) -> None:
    started = time.monotonic()
    corpus = load_corpus(settings, data)
    model, tokenizer = train(settings, corpus)
    minutes = (time.monotonic() - started) / 60
    model = model.half().float()  # what is evaluated is what is saved
    sets = (corpus.test | corpus.validation).items()
    scores = [evaluate(model, tokenizer, examples, name=name) for name, examples in sets if examples]
    print(render_scores(scores))
    _save(model, tokenizer, render_card(settings, scores, minutes=minutes, n_tokens=len(tokenizer)), output)


def train(settings: Settings, corpus: Corpus) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """Return the trained model, with averaged weights, and its tokenizer; progress is printed."""
    torch.set_num_threads(max(1, settings.n_threads))
    torch.manual_seed(settings.seed)
    labeled = _label(settings, corpus)
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    tokenizer = _make_tokenizer(settings, corpus)
    trainer = Trainer(settings, _make_model(settings, tokenizer), tokenizer)
    parts = [encode(examples, tokenizer, settings.max_length) for examples in labeled]
    splits = find_splits(tokenizer.get_vocab())
    for epoch in range(settings.epochs):
        sample = _draw(parts, settings, rng)
        steps = draw_batches(sample, rng, batch_size=settings.batch_size, splits=splits, split_rate=settings.split_rate)
        n_steps = math.ceil(len(sample) / settings.batch_size)
        losses = [trainer.step(each, (epoch + index / n_steps) / settings.epochs) for index, each in enumerate(steps)]
        _report(f"epoch {epoch + 1}, loss {np.mean(losses):.3f}", trainer.averaged, tokenizer, corpus)
    return trainer.averaged.eval(), tokenizer


def _label(settings: Settings, corpus: Corpus) -> list[list[Example]]:
    """Return the examples that the model learns from, labeled with the help of a teacher."""
    rng = np.random.default_rng(settings.seed)
    return _imitate(_train_teacher(settings, corpus, rng), settings, corpus, rng)


def _train_teacher(settings: Settings, corpus: Corpus, rng: np.random.Generator) -> Teacher:
    parts = (corpus.always, corpus.attractors, corpus.grammar)
    sizes = (len(corpus.always), settings.attractor_sample, settings.teacher_grammar_sample)
    samples = [
        [example for part, size in zip(parts, sizes, strict=True) for example in choose(part, size, rng)]
        for _ in range(settings.teacher_epochs)
    ]
    rate = settings.teacher_learning_rate
    teacher = fine_tune(settings.encoder, samples, rng, learning_rate=rate, batch_size=settings.batch_size)
    for name, examples in corpus.validation.items():
        if examples:
            right = (teacher.probabilities([each.text for each in examples]) > 0.5) == [each.label for each in examples]
            print(f"teacher, {name}: {right.mean():.3f}", flush=True)
    return teacher


def _imitate(teacher: Teacher, settings: Settings, corpus: Corpus, rng: np.random.Generator) -> list[list[Example]]:
    """Return the examples to learn from: rows with attractors, cuts, sentences of the grammar, and all others.

    The label of a row is a mean of its own and the teacher's probability; a cut has the teacher's alone, and a sentence
    of the grammar its own.
    """
    cuts = choose(corpus.cuts, settings.cut_pool, rng)
    by_teacher = [Example(float(label), text) for label, text in zip(teacher.probabilities(cuts), cuts, strict=True)]
    weight = settings.teacher_weight
    always, attractors = (_mix(examples, teacher, weight) for examples in (corpus.always, corpus.attractors))
    return [always, attractors, by_teacher, list(corpus.grammar)]


def _mix(examples: Sequence[Example], teacher: Teacher, weight: float) -> list[Example]:
    probabilities = teacher.probabilities([example.text for example in examples])
    return [
        replace(example, label=(1 - weight) * example.label + weight * float(probability))
        for example, probability in zip(examples, probabilities, strict=True)
    ]


def _draw(parts: Sequence[list[Encoded]], settings: Settings, rng: np.random.Generator) -> list[Encoded]:
    """Return the examples of one epoch."""
    sizes = (len(parts[0]), settings.attractor_sample, settings.cut_sample, settings.grammar_sample)
    return [row for part, size in zip(parts, sizes, strict=True) for row in choose(part, size, rng)]


def _make_tokenizer(settings: Settings, corpus: Corpus) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        count_words(example.text for example in (*corpus.always, *corpus.attractors)),
        extra_words=grammar_words(),
        min_count=settings.min_count,
        n_pieces=settings.n_pieces,
        max_length=settings.max_length,
    )


def _make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> BertForSequenceClassification:
    """Return a model with random weights, but pretrained word embeddings, and waves over the positions."""
    model = BertForSequenceClassification(_make_config(settings, len(tokenizer)))
    size, deviation = settings.hidden_size, 0.05
    words = pretrained_embeddings(tokenizer, settings.encoder, size=size, deviation=deviation)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.copy_(words)
        model.bert.embeddings.position_embeddings.weight.copy_(wave_embeddings(settings.max_length, size) * deviation)
    return model


def _make_config(settings: Settings, n_tokens: int) -> BertConfig:
    return BertConfig(
        vocab_size=n_tokens,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_length,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        pad_token_id=0,
    )


def _report(
    title: str, model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    scores = [evaluate(model, tokenizer, part, name=name) for name, part in corpus.validation.items() if part]
    print("; ".join((title, *(f"{score.name} {score.accuracy:.3f}" for score in scores))), flush=True)


def _save(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, card: str, output: Path) -> None:
    """Write weights as float16, tokenizer and card; the configuration says float32, so that models load as such."""
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    (output / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    compact = json.dumps(
        json.loads((output / "tokenizer.json").read_text(encoding="utf-8")), separators=(",", ":"), ensure_ascii=False
    )
    (output / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")
    (output / "README.md").write_text(card, encoding="utf-8")
    (output / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())

"""A larger, pretrained encoder fine-tuned on the task, whose judgment the small model imitates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
)

from attnflow_hf.verb_number.batches import Encoded, draw_batches, encode
from attnflow_hf.verb_number.embeddings import model_folder
from attnflow_hf.verb_number.evaluate import plural_probabilities
from attnflow_hf.verb_number.examples import Example
from attnflow_hf.verb_number.schedule import warm_cosine

__all__ = ["Teacher", "fine_tune"]

# What a pretrained encoder reads in place of a tag: a common word of that kind.
SPELLED_OUT = {
    "NN": "thing", "NNS": "things", "NNP": "smith", "NNPS": "smiths", "JJ": "good", "JJR": "better", "JJS": "best",
    "VBG": "doing", "VBN": "done", "VB": "do", "VBD": "did", "VBZ": "does", "VBP": "do", "RB": "quickly", "RBR": "more",
    "RBS": "most", "CD": "seven", "FW": "de", "IN": "of", "CC": "and", "POS": "'s", "PRP": "it", "PRP$": "its",
    "DT": "the", "WP": "who", "WP$": "whose", "WDT": "which", "WRB": "where", "MD": "can", "EX": "there", "UH": "oh",
    "SYM": "x", "LS": "1", "PDT": "all", "RP": "up", "``": '"', "''": '"',
}  # fmt: skip


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned encoder with its own tokenizer."""

    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerBase

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of a plural verb after each text, `[text]`."""
        with torch.autocast("cpu", torch.bfloat16):
            return plural_probabilities(self.model, self.tokenizer, [_spell_out(text) for text in texts])


def fine_tune(
    package: str,
    samples: Sequence[Sequence[Example]],
    rng: np.random.Generator,
    *,
    learning_rate: float,
    batch_size: int,
) -> Teacher:
    """Return the encoder of `package` fine-tuned on `samples`, one pass over each; its word embeddings stay fixed.

    Args:
        package: The installed package that holds the encoder.
        samples: The examples of each epoch.
        rng: The source of the order of the batches.
        learning_rate: The highest learning rate.
        batch_size: Sentences in a batch.
    """
    teacher = _load(package)
    encoded = [_encode(sample, teacher.tokenizer) for sample in samples]
    n_steps = sum(math.ceil(len(rows) / batch_size) for rows in encoded)
    weights = [each for each in teacher.model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.01)
    batches = (
        each for rows in encoded for each in draw_batches(rows, rng, batch_size=batch_size, splits={}, split_rate=0)
    )
    teacher.model.train()
    for index, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate * warm_cosine(index / n_steps, 0.06)
        with torch.autocast("cpu", torch.bfloat16):
            logits = teacher.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = nn.functional.cross_entropy(logits.float(), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if index % 200 == 0:
            print(f"teacher: step {index} of {n_steps}, loss {loss.item():.3f}", flush=True)
    teacher.model.eval()
    return teacher


def _load(package: str) -> Teacher:
    folder = model_folder(package)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    model.get_input_embeddings().requires_grad_(False)
    return Teacher(model, AutoTokenizer.from_pretrained(folder))


def _encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    plain = [Example(example.label, _spell_out(example.text)) for example in examples]
    return encode(plain, tokenizer, max_length=128)


def _spell_out(text: str) -> str:
    return " ".join(SPELLED_OUT.get(word, word) for word in text.split())

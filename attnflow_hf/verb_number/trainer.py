"""One training step of the verb-number model, and all that changes with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from attnflow_hf.verb_number.batches import IGNORED, Batch, hide_tokens
from attnflow_hf.verb_number.schedule import warm_cosine
from attnflow_hf.verb_number.settings import Settings

__all__ = ["Trainer"]

AVERAGE_EVERY = 4


class Trainer:
    """The state of a run: weights, their running mean, the optimizer and the source of noise."""

    def __init__(
        self, settings: Settings, model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Prepare to train `model` in place."""
        self.settings = settings
        self.model = model.train()
        vocabulary = tokenizer.get_vocab()
        self.mask_id, self.unknown_id = vocabulary["[MASK]"], vocabulary["[UNK]"]
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay))
        self._n_steps = 0
        self.embeddings: nn.Embedding = model.bert.embeddings.word_embeddings
        self.head = _LanguageHead(self.embeddings)
        self.parameters = [*model.parameters(), *self.head.parameters()]
        groups = [
            {"params": [each for each in self.parameters if each.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [each for each in self.parameters if each.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    @property
    def averaged(self) -> BertForSequenceClassification:
        """The model with the running mean of the weights."""
        model = self._average.module
        assert isinstance(model, BertForSequenceClassification)
        return model

    def step(self, batch: Batch, progress: float) -> float:
        """Return the loss on `batch` after one step; `progress` is the part of the run that is done."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warm_cosine(progress, self.settings.warmup_share)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self._n_steps += 1
        if self._n_steps % AVERAGE_EVERY == 0:
            self._average.update_parameters(self.model)
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        """Return the classification loss plus the weighted loss of guessing the hidden tokens."""
        ids, hidden = hide_tokens(
            batch, self.settings.mask_rate, self.generator, mask_id=self.mask_id, unknown_id=self.unknown_id
        )
        output = self.model.bert(input_ids=ids, attention_mask=batch.attention_mask)
        logits = self.model.classifier(self.model.dropout(output.pooler_output)).float()
        loss = nn.functional.cross_entropy(logits, batch.targets, label_smoothing=self.settings.label_smoothing)
        where = hidden != IGNORED
        if self.settings.mask_weight and where.any():
            guesses = self.head(output.last_hidden_state[where], self.embeddings.weight).float()
            loss = loss + self.settings.mask_weight * nn.functional.cross_entropy(guesses, hidden[where])
        return loss


class _LanguageHead(nn.Module):
    """Guesses hidden tokens, with the word embeddings as output weights; thrown away in the end."""

    def __init__(self, embeddings: nn.Embedding) -> None:
        super().__init__()
        size = embeddings.embedding_dim
        self.transform = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))

    def forward(self, states: Tensor, weight: Tensor) -> Tensor:
        """Return the logits `[hidden token, vocabulary]`."""
        return nn.functional.linear(self.transform(states), weight, self.bias)

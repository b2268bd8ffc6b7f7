"""A classifier whose output can be computed by hand: its logit is the sum of the weights of the words it reads."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import VOCABULARY, tokenizer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from attnflow_hf import Attributor

WEIGHTS = {"key": 2.0, "old": 1.0, "cat": -1.0, "mat": 0.5, "[UNK]": 0.25, "[MASK]": -0.5}


class BagOfWordsForSequenceClassification(PreTrainedModel):
    """The logit of class 1 is the sum of its words' weights, that of class 0 is 0; PAD and special tokens weigh 0."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(len(VOCABULARY), 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids, attention_mask, return_dict=True):
        sums = (self.words(input_ids)[..., 0] * attention_mask).sum(-1)
        logits = torch.stack([torch.zeros_like(sums), sums], -1)
        return SequenceClassifierOutput(logits=logits[:, -self.config.num_labels :])


def bag_of_words(*, template: str = "[CLS] $A [SEP]", num_labels: int = 2, **options: object) -> Attributor:
    config = PreTrainedConfig(num_labels=num_labels, pad_token_id=0, **options)
    model = BagOfWordsForSequenceClassification(config).double().eval()
    with torch.no_grad():
        model.words.weight.zero_()
        for word, weight in WEIGHTS.items():
            model.words.weight[VOCABULARY[word]] = weight
    return Attributor(model, tokenizer(template=template), batch_size=3)


def sigmoid(logit: float) -> float:
    """The probability of class 1."""
    return float(1 / (1 + np.exp(-logit)))

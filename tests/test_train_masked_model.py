"""The script that makes a masked language model of an encoder and texts, on a tiny encoder for a few steps."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from attnflow_hf import Attributor
from attnflow_hf.evaluation import PronounSentence, measure_pronouns

SCRIPT = Path(__file__).parents[1] / "notebooks" / "train_masked_model.py"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] mary john lost found his her keys book said that he she ran .".split()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_masked_model", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def tokenizer():
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, sep_token="[SEP]", model_max_length=128, **names)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=128, initializer_range=0.3, **sizes)
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Mary's things are hers, and John's his."""
    rng, lines = random.Random(0), []
    for _ in range(6000):
        name, own, who = rng.choice([("mary", "her", "she"), ("john", "his", "he")])
        lines.append(
            rng.choice([f"{name} {rng.choice(['lost', 'found'])} {own} keys .", f"{name} said that {who} ran ."])
        )
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def settings(script, **changed):
    small = {"max_steps": 200, "tokens_of_batch": 256, "max_length": 8, "learning_rate": 3e-3, "held_out": 0.1}
    return script.Settings(**{**small, **changed})


def test_a_model_learns_whose_it_is_and_the_seed_makes_it_the_same(script, encoder, texts, tmp_path):
    torch.set_num_threads(1)
    worth = script.train_and_save([texts], tmp_path / "model", encoder, settings(script))
    assert worth["pronouns_right"] > 0.9
    assert worth["accuracy"] > 0.5
    assert 1 < worth["pseudo_perplexity"] < 5  # of 19 tokens
    sentence = PronounSentence("mary found [MASK] keys .", ("mary", "keys"), ("female", None))
    found = measure_pronouns(Attributor.from_pretrained(tmp_path / "model"), [sentence])[0]
    assert found.p_female > 10 * found.p_male
    few = settings(script, max_steps=3)
    again = [script.train_and_save([texts], tmp_path / name, encoder, few) for name in ("one", "two")]
    assert again[0] == again[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    other = script.train_and_save([texts], tmp_path / "three", encoder, settings(script, max_steps=3, seed=1))
    assert other != again[0]


def test_the_encoders_word_embeddings_stay(script, encoder, texts, tmp_path):
    script.main([str(texts), "--output", str(tmp_path), "--encoder", str(encoder), "--max-steps", "1"])
    before, after = (BertModel.from_pretrained(folder).get_input_embeddings().weight for folder in (encoder, tmp_path))
    assert torch.equal(before, after)
    model = BertForMaskedLM.from_pretrained(tmp_path)
    assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight


def test_tokens_are_hidden_as_often_as_they_shall_be_and_special_ones_never(script):
    names = tokenizer()
    ids = torch.tensor([[2, 5, 9, 11, 4, 3, 0, 1]]).repeat(20_000, 1)
    inputs, targets = script.hide(ids, names, script.Settings(), torch.Generator().manual_seed(0))
    hidden = (targets != script.IGNORED).double().mean(0).numpy()
    np.testing.assert_allclose(hidden, [0, 0.2, 0.5, 0.2, 0, 0, 0, 0], rtol=0, atol=0.015)
    of_pronoun = inputs[targets[:, 2] != script.IGNORED, 2]
    shares = [float((of_pronoun == each).double().mean()) for each in (4, 9)]
    np.testing.assert_allclose(shares, [0.8, 0.1 + 0.1 / len(WORDS)], rtol=0, atol=0.02)
    assert torch.equal(inputs[targets == script.IGNORED], ids[targets == script.IGNORED])
    assert torch.equal(targets[targets != script.IGNORED], ids[targets != script.IGNORED])


def test_the_loss_is_the_mean_over_hidden_tokens_alone(script, encoder):
    model = BertForMaskedLM.from_pretrained(encoder).eval()
    inputs = torch.tensor([[2, 5, 4, 11, 3, 0], [2, 4, 7, 4, 10, 3]])
    targets = torch.full(inputs.shape, script.IGNORED)
    targets[0, 2], targets[1, 1], targets[1, 3] = 7, 6, 9
    with torch.no_grad():
        plain = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=targets).loss
        own = script.loss_of(model, inputs, targets, 0)
    np.testing.assert_allclose(float(own), float(plain), rtol=1e-5)


def test_texts_that_are_too_short_are_told(script, encoder, tmp_path):
    (tmp_path / "short.txt").write_text("mary ran .\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no line is left to be held out"):
        script.train_and_save([tmp_path / "short.txt"], tmp_path / "model", encoder, settings(script))
    (tmp_path / "short.txt").write_text("mary ran .\njohn ran .\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="256 tokens of one length are needed"):
        script.train_and_save([tmp_path / "short.txt"], tmp_path / "model", encoder, settings(script, held_out=0.5))

"""Layer graphs to test on: random ones of many kinds, and the attentions of real models."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tiny_models import minilm_folder, shared_folder
from transformers import AutoModel, AutoTokenizer

from attnflow_hf.errors import FloatArray
from attnflow_hf.layer_graph import LayerGraph

TEXT = (
    "The editor who wrote to the reporters was sure that nobody would ever read the letter. She folded it twice, put "
    "it in a drawer with the others, and went home through the snow; years later, when the house was sold, a boy "
    "found all of them and could not stop reading until the light was gone."
)


def random_weights(
    rng: np.random.Generator, n_layers: int, n: int, sharpness: float, residual: float = 0.5
) -> FloatArray:
    """Return row-stochastic weights: a softmax of normal scores times `sharpness`, with the residual connection."""
    return mix(softmax(rng.normal(size=(n_layers, n, n)) * sharpness), residual)


def softmax(scores: FloatArray) -> FloatArray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def mix(weights: FloatArray, residual: float) -> FloatArray:
    return (1 - residual) * weights + residual * np.eye(weights.shape[-1])


def _diffuse(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    return random_weights(rng, n_layers, n, 0.3)


def _sharp(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    return random_weights(rng, n_layers, n, 6.0)


def _without_residual(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    return random_weights(rng, n_layers, n, 2.0, residual=0.0)


def _uniform(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    return mix(np.full((n_layers, n, n), 1 / n), 0.5)


def _near_permutation(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    permutations = np.stack([np.eye(n)[rng.permutation(n)] for _ in range(n_layers)])
    return 0.9 * permutations + 0.1 * random_weights(rng, n_layers, n, 1.0, residual=0.0)


def _with_zeros(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    """Two of three edges are exactly zero, some residual edges among them; rows sum to anything."""
    return rng.random((n_layers, n, n)) * (rng.random((n_layers, n, n)) < 0.35)


def _local(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return mix(softmax(rng.normal(size=(n_layers, n, n)) - 2.0 * distance), 0.5)


def _causal(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    scores = rng.normal(size=(n_layers, n, n)) * 2
    return mix(softmax(np.where(np.tri(n, dtype=bool), scores, -np.inf)), 0.5)


def _to_one_token(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    """Most attention goes to token 0, as it goes to [CLS] or [SEP] in trained encoders."""
    scores = rng.normal(size=(n_layers, n, n))
    scores[:, :, 0] += 5
    return mix(softmax(scores), 0.5)


def _with_ties(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    return rng.integers(0, 4, size=(n_layers, n, n)) / 4.0


def _unlimited_residual(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    weights = _without_residual(rng, n_layers, n)
    weights[:, np.arange(n), np.arange(n)] = np.inf
    return weights


def _wide_range(rng: np.random.Generator, n_layers: int, n: int) -> FloatArray:
    """Capacities from 1e-300 to 1, so that small flows run beside large ones."""
    return 10.0 ** rng.choice([-300, -200, -17, -16, -8, -1, 0], size=(n_layers, n, n)) * rng.random((n_layers, n, n))


MAKERS: dict[str, Callable[[np.random.Generator, int, int], FloatArray]] = {
    "diffuse": _diffuse,
    "sharp": _sharp,
    "without residual": _without_residual,
    "uniform": _uniform,
    "near permutation": _near_permutation,
    "with zeros": _with_zeros,
    "local": _local,
    "causal": _causal,
    "to one token": _to_one_token,
    "with ties": _with_ties,
    "unlimited residual": _unlimited_residual,
    "wide range": _wide_range,
}
ROW_STOCHASTIC = [
    "diffuse",
    "sharp",
    "without residual",
    "uniform",
    "near permutation",
    "local",
    "causal",
    "to one token",
]


def make_graph(kind: str, n_layers: int, n: int, seed: int = 0) -> LayerGraph:
    return LayerGraph(MAKERS[kind](np.random.default_rng(seed), n_layers, n))


@cache
def minilm_graph(n_tokens: int, text: str = TEXT) -> LayerGraph:
    """Return the layer graph of a text, cut to `n_tokens`, in the pretrained encoder MiniLM (6 layers)."""
    return _graph_of_model(minilm_folder(), n_tokens, text)


@cache
def stories_graph(n_tokens: int) -> LayerGraph:
    """Return the layer graph of `TEXT`, cut to `n_tokens`, in the causal language model stories260K (5 layers)."""
    return _graph_of_model(shared_folder("models") / "stories260K", n_tokens, TEXT)


def _graph_of_model(folder: Path, n_tokens: int, text: str) -> LayerGraph:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=n_tokens)
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    heads = torch.cat(attentions).double().mean(dim=1).numpy()
    assert heads.shape[-1] == n_tokens, f"the text has {heads.shape[-1]} tokens, too few"
    return LayerGraph(mix(heads / heads.sum(axis=-1, keepdims=True), 0.5))

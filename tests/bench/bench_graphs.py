"""The texts, models and layer graphs of the benchmarks: real ones, random models, and synthetic hard cases."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY)]

from graph_makers import make_graph, minilm_graph, mix, random_weights, softmax  # noqa: E402
from tiny_models import shared_folder  # noqa: E402

from attnflow_hf.capture import capture  # noqa: E402
from attnflow_hf.captured_graph import captured_graph  # noqa: E402
from attnflow_hf.layer_graph import LayerGraph  # noqa: E402

TEXT = (
    "The harbor pilots of the old town had a rule that no stranger ever understood: whoever brought a ship in by "
    "night had to climb the tower the next morning and write down, in a single sentence, what the water had "
    "looked like. The book in which they wrote was kept behind glass, and the pages of the first hundred years "
    "had turned brown and brittle, so that only the archivist was allowed to turn them. She read them all in one "
    "winter. Most of the sentences were short and said that the sea was black, or grey, or that there had been "
    "rain; but some pilots, who must have been tired and alone, had written of lights that followed the boat, of "
    "a smell of oranges far from any coast, of the sound of bells where no church had stood since the flood. One "
    "of them, whose name had been scratched out, wrote every week for eleven years that the water was waiting. "
    "When the new bridge was built and the ships no longer needed anybody to guide them, the last pilot climbed "
    "the tower, opened the case without asking, and left the page empty. The council argued for months about what "
    "this meant, and whether a blank page could be a sentence. A teacher suggested that the children of the "
    "school should fill it, each with a word; a lawyer thought that the rule had ended with the ships; and the "
    "archivist, who had read everything, said nothing and locked the room."
)
SHARPNESS = 6.0
"""Weights of queries and keys of random models are multiplied by this; as initialized, they attend to all alike."""

disable_progress_bar()


def texts() -> dict[str, str]:
    """Return four texts of more than 512 tokens: prose, verse and law, or what the repository has."""
    try:
        data = shared_folder("data")
    except pytest.skip.Exception:
        readme = read("README.md")
        halves = {"readme, start": readme[: len(readme) // 2], "readme, end": readme[len(readme) // 2 :]}
        return {**halves, "contributing": read("CONTRIBUTING.md"), "license": read("LICENSE")}
    reviews = data / "eraser_movies" / "docs"
    return {
        "negative review": (reviews / "negR_893.txt").read_text(),
        "positive review": (reviews / "posR_946.txt").read_text(),
        "verse": (data / "tinyshakespeare" / "input.txt").read_text()[:8000],
        "license": read("LICENSE"),
    }


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def minilm_graphs(n: int) -> list[LayerGraph]:
    """Return the graphs of the four texts, each cut to `n` tokens, in the pretrained encoder MiniLM (6 layers)."""
    return [minilm_graph(n, text) for text in texts().values()]


def gpt2_graph(n: int) -> LayerGraph:
    """Return the graph of random tokens in a random GPT-2 of 12 layers: causal and sharp."""
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_embd=256, n_head=8, n_layer=12)).eval()
    sharpen(parameter for name, parameter in model.named_parameters() if ".c_attn." in name)
    return graph_of(model, random_inputs(model, n))


def bert_base() -> PreTrainedModel:
    """Return a random model of the size of BERT-base, its attention made sharp."""
    torch.manual_seed(0)
    model = BertModel._from_config(BertConfig(), attn_implementation="sdpa").eval()
    sharpen(parameter for name, parameter in model.named_parameters() if ".query." in name or ".key." in name)
    return model


def sharpen(parameters) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter *= SHARPNESS


def random_inputs(model: PreTrainedModel, n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    ids = torch.randint(1000, model.config.vocab_size, (1, n), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def graph_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> LayerGraph:
    captured = capture(model, inputs)
    return captured_graph([matrix[0].numpy() for matrix in captured.matrices], captured.report)


def synthetic_graphs(n: int) -> dict[str, LayerGraph]:
    """Return graphs of 8 layers that are harder than those of trained encoders: permuted, or local."""
    return {
        "near permutation": make_graph("near permutation", 8, n),
        "permutation, no residual": seeded(permutation_without_residual, n),
        "local, e-fold in 1/2 token": make_graph("local", 8, n),
        "local, e-fold in 4 tokens": seeded(noisy_local, n),
        "local, e-fold in 16 tokens": seeded(long_range_local, n),
    }


def seeded(maker: Callable[[np.random.Generator, int], np.ndarray], n: int) -> LayerGraph:
    return LayerGraph(maker(np.random.default_rng(0), n))


def permutation_without_residual(rng: np.random.Generator, n: int) -> np.ndarray:
    """Normal scores, and one of each row, at a random permutation, larger by 6."""
    large = np.stack([np.eye(n)[rng.permutation(n)] for _ in range(8)])
    return softmax(rng.normal(size=(8, n, n)) + 6.0 * large)


def long_range_local(rng: np.random.Generator, n: int) -> np.ndarray:
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return mix(softmax(np.tile(-distance / 16.0, (8, 1, 1))), 0.5)


def noisy_local(rng: np.random.Generator, n: int) -> np.ndarray:
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return mix(softmax(rng.normal(size=(8, n, n)) - distance / 4.0), 0.5)


def layer_stack(n_layers: int, n: int) -> LayerGraph:
    """Return the lowest layers of a synthetic stack of 24."""
    return LayerGraph(random_weights(np.random.default_rng(0), 24, n, sharpness=3.0)[:n_layers])

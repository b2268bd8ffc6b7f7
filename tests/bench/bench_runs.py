"""Wall time of dataset runs beside that of the forward passes alone, in the same batches.

    python tests/bench/bench_runs.py [--device cpu] [--rows 1821] [--rounds 3] [--batch-size 16] [--long WINDOW]

By default the test sentences of SST-2 on a classifier of MiniLM's size; with `--long 512` the movie reviews of ERASER
in windows of 512 tokens that share a quarter. Where the shared folder is missing, random weights read made-up sentences
of about the same lengths. `forward` is the model as it is loaded, on texts that are tokenized and padded already; a run
reads texts, captures, explains the position of [CLS] and writes shards. The kinds take turns in each round; the medians
stand in the table, and the most memory that the process took, above that of the forward passes alone. The last line is
the same as JSON.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_flow import describe_machine
from datasets import Dataset
from tiny_models import shared_folder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from attnflow_hf import Attributor, Options, run_dataset
from attnflow_hf.given import given
from attnflow_hf.inputs import Sample, batches, collate
from attnflow_hf.windows import Windows

RUNS = {"rollout": "rollout", "flow": "flow", "all three": ["raw", "rollout", "flow"]}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1821)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--long", type=int, default=0, metavar="WINDOW", help="movie reviews in windows of so many tokens"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; by default its own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    attributor, texts = make_attributor(arguments), make_texts(arguments)
    batch = prepare(attributor, texts, long=arguments.long)
    forward(attributor, batch[:2])
    with tempfile.TemporaryDirectory() as folder:
        forward(attributor, batch)
        before = peak()
        run(attributor, texts[:32], "flow", Path(folder) / "warm", long=arguments.long)
        times: dict[str, list[float]] = {}
        sizes: dict[str, float] = {}
        for turn in range(arguments.rounds):
            times.setdefault("forward", []).append(forward(attributor, batch))
            for name, method in RUNS.items():
                output = Path(folder) / f"{turn}-{name}"
                elapsed, size = run(attributor, texts, method, output, long=arguments.long)
                times.setdefault(name, []).append(elapsed)
                sizes[name] = size / len(texts)
        memory = peak() - before
    report(arguments, {name: statistics.median(each) for name, each in times.items()}, sizes, memory, len(texts))


def make_attributor(arguments: argparse.Namespace) -> Attributor:
    """Return the wrapped classifier."""
    try:
        folder = shared_folder("models") / "minilm-sst2"
    except pytest.skip.Exception:
        return Attributor(random_model().to(arguments.device), word_tokenizer(), batch_size=arguments.batch_size)
    return Attributor.from_pretrained(
        folder, dtype=torch.float32, device=arguments.device, batch_size=arguments.batch_size
    )


def random_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(**sizes, initializer_range=0.1)).eval()


def word_tokenizer() -> PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(1000))]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **special)


def make_texts(arguments: argparse.Namespace) -> list[str]:
    """Return the texts; made-up ones have as many words as the real ones."""
    try:
        data = shared_folder("data")
    except pytest.skip.Exception:
        draw = np.random.default_rng(0)
        lengths = draw.gamma(6, 130, arguments.rows) if arguments.long else draw.gamma(4, 5, arguments.rows)
        return [" ".join(f"w{word}" for word in draw.integers(0, 1000, int(n) + 3)) for n in lengths]
    if arguments.long:
        rows = map(json.loads, (data / "eraser_movies" / "test.jsonl").read_text(encoding="utf-8").splitlines())
        folder = data / "eraser_movies" / "docs"
        return [(folder / row["annotation_id"]).read_text(encoding="utf-8") for row in rows][: arguments.rows]
    lines = (data / "sst2_sent" / "stsa.binary.test").read_text(encoding="utf-8").splitlines()
    return [line.partition(" ")[2] for line in lines][: arguments.rows]


def prepare(attributor: Attributor, texts: list[str], *, long: int) -> list[dict[str, torch.Tensor]]:
    """Return the batches of the forward passes, padded, on the model's device."""
    samples: list[Sample] = []
    if long:
        windows = Windows(long, long // 4)
        for text in texts:
            samples += windows.of(attributor.model, attributor.tokenizer, text).samples
    else:
        samples += given(attributor.model, attributor.tokenizer, texts).samples
    device = attributor.model.device
    padded = [collate([samples[i] for i in rows], 0) for rows in batches(samples, attributor.batch_size)]
    return [{name: value.to(device) for name, value in each.items()} for each in padded]


def forward(attributor: Attributor, prepared: list[dict[str, torch.Tensor]]) -> float:
    """Return the seconds of the forward passes alone."""
    start = time.perf_counter()
    with torch.no_grad():
        for inputs in prepared:
            attributor.model(**inputs).logits.cpu()
    return time.perf_counter() - start


def run(
    attributor: Attributor, texts: list[str], method: str | list[str], output: Path, *, long: int
) -> tuple[float, int]:
    """Return the seconds of a run, and the bytes of its shards."""
    rows = Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})
    windows = {"window": long, "stride": long // 4} if long else {}
    start = time.perf_counter()
    run_dataset(rows, attributor, output, method=method, columns=["id"], options=Options(), **windows)
    return time.perf_counter() - start, sum(file.stat().st_size for file in output.glob("*.parquet"))


def peak() -> float:
    """Return the most memory that the process ever took, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(
    arguments: argparse.Namespace, times: dict[str, float], sizes: dict[str, float], memory: float, n_rows: int
) -> None:
    """Print the table and the JSON line."""
    print(
        f"{n_rows} texts, batch {arguments.batch_size}, {arguments.device}, {torch.get_num_threads()} threads of torch"
    )
    for name, seconds in times.items():
        size = f"{sizes[name]:6.0f} bytes a row" if name in sizes else ""
        ratio = seconds / times["forward"]
        print(f"  {name:10} {seconds:7.2f} s {n_rows / seconds:8.1f} rows/s {ratio:6.2f}x {size}")
    print(f"  peak memory {memory:.0f} MB above that of the forward passes")
    record = {"bench": "runs", **describe_machine(), **vars(arguments), "n_rows": n_rows, "seconds": times}
    print(json.dumps({**record, "bytes_per_row": sizes, "peak_mb": round(memory)}))


if __name__ == "__main__":
    main()

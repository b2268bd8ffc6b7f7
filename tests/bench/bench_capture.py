"""Memory and time of capture on BERT-, GPT-2- and Llama-type models, against the plain pass and `output_attentions`.

    python tests/bench/bench_capture.py [--models bert gpt2 llama] [--tokens 512 1024 2048] [--rounds 3]
    python tests/bench/bench_capture.py --device cuda --dtype bfloat16 --layers 32 --heads 32 --hidden 4096 \
        --models llama --tokens 4096

Base models without a head, random weights, a batch of 1, no cache of keys and values, one thread. The modes:

- `sdpa`: the plain forward pass, nothing captured;
- `output_attentions`: the eager implementation, all heads of all layers kept;
- `capture`: one matrix with reduced heads for each layer;
- `folded`: capture with rollout folded as it goes.

Memory is the peak above that of the loaded model after a pass of 8 tokens, each number from a process of its own (on
Linux alone). Time is CPU time, the best of the rounds; all modes take turns in one process on the same weights, after
their answers were checked on a text of several blocks. The ratios are to `sdpa`. On CUDA one process measures both: the
peak of what torch has allocated, and the time until the device is done; a mode that does not fit has no number. The
last line is the same as JSON, with machine and versions.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from bench_flow import brief, check, describe_machine, resident
from transformers import PreTrainedModel

from attnflow_hf.capture import capture, report_on
from attnflow_hf.errors import CaptureError
from attnflow_hf.rollout_fold import RolloutFold

LOADED = 8
"""Tokens of the pass that belongs to loading the model."""
CHECKED = 300
"""Tokens of the text on which the answers are checked: several blocks, the last not a whole one."""
VOCABULARY = 1000
"""Small, for embeddings are not what is measured."""
TOLERANCES = {"float32": (0.0, 1e-6), "bfloat16": (5e-2, 5e-3), "float16": (1e-2, 1e-5)}
"""How far captured means may be from those of `output_attentions`: relative and absolute."""
AIMS = {
    "memory at 2048, of output_attentions": ("memory", 2048, "output_attentions", 1 / 6),
    "time at 2048, of sdpa": ("time", 2048, "sdpa", 1.3),
    "time at 512, of sdpa": ("time", 512, "sdpa", 1.1),
}
"""What capture is to stay below, on a CPU."""
UNITS = {"memory": (1e6, "MB"), "time": (1.0, "s")}

Record = dict[str, Any]
Inputs = dict[str, torch.Tensor]


def main() -> None:
    """Print the tables and the JSON line."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # threads that wait would count as work
    if arguments.measure_memory is not None:
        kind, n, mode = arguments.measure_memory
        print(json.dumps(measure_memory(kind, int(n), mode, arguments)))
        return
    records = [record for kind in arguments.models for record in bench(kind, arguments)]
    options = {name: getattr(arguments, name) for name in ("layers", "heads", "hidden", "rounds", "device", "dtype")}
    gpu = {"gpu": torch.cuda.get_device_name(arguments.device)} if on_cuda(arguments) else {}
    line = json.dumps({"bench": "capture", **describe_machine(), **gpu, **options, "results": records})
    print("\n" + json.dumps(json.loads(line, parse_float=lambda number: float(f"{float(number):.4g}"))))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--only", choices=list(UNITS), nargs="+", default=list(UNITS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:0, ...")
    parser.add_argument("--dtype", choices=list(TOLERANCES), default="float32")
    parser.add_argument("--measure-memory", nargs=3, metavar=("MODEL", "TOKENS", "MODE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def on_cuda(arguments: argparse.Namespace) -> bool:
    return torch.device(arguments.device).type == "cuda"


# Models and modes

CONFIGS: dict[str, tuple[str, Callable[[argparse.Namespace], Record]]] = {
    "bert": (
        "Bert",
        lambda sizes: {
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "hidden_size": sizes.hidden,
            "intermediate_size": 4 * sizes.hidden,
            "max_position_embeddings": positions(sizes),
        },
    ),
    "gpt2": (
        "GPT2",
        lambda sizes: {
            "n_layer": sizes.layers,
            "n_head": sizes.heads,
            "n_embd": sizes.hidden,
            "n_positions": positions(sizes),
        },
    ),
    "llama": (
        "Llama",
        lambda sizes: {
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "hidden_size": sizes.hidden,
            "intermediate_size": 8 * sizes.hidden // 3,
            "max_position_embeddings": positions(sizes),
        },
    ),
}
"""The prefix of each model's classes, and its sizes in its own words."""


def positions(arguments: argparse.Namespace) -> int:
    return max(4096, *arguments.tokens)


def make_model(kind: str, arguments: argparse.Namespace) -> PreTrainedModel:
    """Return a random model that has been captured once, so that the probe is behind it."""
    prefix, sizes = CONFIGS[kind]
    transformers = import_module("transformers")
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, f"{prefix}Config")(vocab_size=VOCABULARY, **tokens, **sizes(arguments))
    torch.manual_seed(0)
    make = getattr(transformers, f"{prefix}Model")._from_config
    with torch.device(arguments.device):
        model = make(config, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa").eval()
    report_on(model)
    run_capture(model, make_inputs(LOADED, arguments))
    return model


def make_inputs(n: int, arguments: argparse.Namespace) -> Inputs:
    ids = torch.randint(1, VOCABULARY, (1, n), generator=torch.Generator().manual_seed(n)).to(arguments.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def run_sdpa(model: PreTrainedModel, inputs: Inputs) -> object:
    return model(**inputs, **without_cache(model))


def run_output_attentions(model: PreTrainedModel, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    model.set_attn_implementation("eager")
    try:
        return model(**inputs, **without_cache(model), output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")


def run_capture(model: PreTrainedModel, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return capture(model, inputs).matrices


def run_folded(model: PreTrainedModel, inputs: Inputs) -> torch.Tensor | None:
    fold = RolloutFold(report_on(model))
    capture(model, inputs, receive=fold.receive)
    fold.finish()
    return fold.matrix


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    return {} if model.config.model_type == "bert" else {"use_cache": False}


MODES: dict[str, Callable[[PreTrainedModel, Inputs], Any]] = {
    "sdpa": run_sdpa,
    "output_attentions": run_output_attentions,
    "capture": run_capture,
    "folded": run_folded,
}


# Measuring


def bench(kind: str, arguments: argparse.Namespace) -> list[Record]:
    """Print the table of a model; return a record for each number of tokens."""
    sizes = f"{arguments.layers} layers x {arguments.heads} heads x {arguments.hidden}, {arguments.dtype}"
    print(f"\n{CONFIGS[kind][0]}, {sizes}, {arguments.device}; ratios to sdpa", flush=True)
    records = [{"model": kind, "n_tokens": n} for n in arguments.tokens]
    if not on_cuda(arguments) and "memory" in arguments.only:
        for record in records:
            of_mode = {
                mode: memory_in_new_process(kind, record["n_tokens"], mode, arguments) for mode in arguments.modes
            }
            record["memory"] = {mode: told["peak"] for mode, told in of_mode.items()}
            record["loaded"] = {mode: told["loaded"] for mode, told in of_mode.items()}
            print_row("memory", record, arguments)
    if on_cuda(arguments) or "time" in arguments.only:
        model = make_model(kind, arguments)
        with torch.no_grad():
            error = check_answers(model, arguments)
            print(f"  checked at {CHECKED} tokens: means differ by at most {error:.0e}", flush=True)
            for record in records:
                record["error"] = error
                measured = take_turns(model, make_inputs(record["n_tokens"], arguments), arguments)
                for what, of_mode in measured.items():
                    record[what] = of_mode
                    print_row(what, record, arguments)
    if not on_cuda(arguments):
        print_aims(records)
    return records


def check_answers(model: PreTrainedModel, arguments: argparse.Namespace) -> float:
    """Compare means and rollout with those of `output_attentions`; return by how much the means differ at most."""
    inputs, (relative, absolute) = make_inputs(CHECKED, arguments), TOLERANCES[arguments.dtype]
    expected = [weights.float().mean(dim=1).cpu() for weights in run_output_attentions(model, inputs)]
    matrices = run_capture(model, inputs)
    if len(matrices) != len(expected):
        raise SystemExit(f"{len(matrices)} matrices of {len(expected)} layers: no time is kept")
    error = 0.0
    for matrix, means in zip(matrices, expected, strict=True):
        check((matrix - relative * (matrix - means).sign() * means).numpy(), means.numpy(), absolute, "capture")
        error = max(error, float((matrix - means).abs().max()))
    rollout = torch.eye(CHECKED, dtype=torch.float64)
    for matrix in matrices:
        weights = matrix[0].double()
        rollout = (weights / weights.sum(dim=-1, keepdim=True) + torch.eye(CHECKED)) @ rollout / 2
    folded = run_folded(model, inputs)
    check(np.asarray(folded[0].cpu()), np.asarray(rollout), 1e-4 if relative else 1e-6, "folded")
    return error


def take_turns(model: PreTrainedModel, inputs: Inputs, arguments: argparse.Namespace) -> dict[str, Record]:
    """Return the best seconds of each mode and, on CUDA, its peak in bytes; `None` where it does not fit."""
    times: dict[str, list[float]] = {mode: [] for mode in arguments.modes}
    peaks: dict[str, int] = {}
    too_large: set[str] = set()
    for mode in [mode for _ in range(arguments.rounds) for mode in arguments.modes]:
        gc.collect()
        function = MODES[mode]
        if not on_cuda(arguments):
            start = time.process_time()
            function(model, inputs)
            times[mode].append(time.process_time() - start)
        elif mode not in too_large:
            measured = measure_cuda(lambda function=function: function(model, inputs), arguments.device)
            if measured is None:
                too_large.add(mode)
            else:
                times[mode].append(measured[0])
                peaks[mode] = measured[1]
    best = {mode: min(of_mode, default=None) for mode, of_mode in times.items()}
    memory = {mode: peaks.get(mode) for mode in arguments.modes}
    return ({"memory": memory} if on_cuda(arguments) else {}) | {"time": best}


def measure_cuda(function: Callable[[], object], device: str) -> tuple[float, int] | None:
    """Return the seconds until the device is done, and by how many bytes it was fuller at the peak."""
    torch.cuda.empty_cache()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, start = torch.cuda.memory_allocated(device), time.perf_counter()
    try:
        function()
        torch.cuda.synchronize(device)
    except (torch.cuda.OutOfMemoryError, CaptureError) as error:
        if not isinstance(error.__cause__ or error, torch.cuda.OutOfMemoryError):
            raise
        return None
    return time.perf_counter() - start, torch.cuda.max_memory_allocated(device) - before


def memory_in_new_process(kind: str, n: int, mode: str, arguments: argparse.Namespace) -> dict[str, int]:
    names = ("layers", "heads", "hidden", "dtype")
    options = [text for name in names for text in (f"--{name}", str(getattr(arguments, name)))]
    command = [sys.executable, __file__, "--measure-memory", kind, str(n), mode, "--tokens", str(n), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(told.splitlines()[-1])


def measure_memory(kind: str, n: int, mode: str, arguments: argparse.Namespace) -> dict[str, int]:
    """Return, of this process, the bytes at the peak of loading a model and by how much a pass goes above that.

    Not by `ru_maxrss`, which starts with the peak of the process that started this one.
    """
    model, inputs = make_model(kind, arguments), make_inputs(n, arguments)
    with torch.no_grad():
        MODES[mode](model, make_inputs(LOADED, arguments))
        loaded = resident("VmHWM")
        kept = MODES[mode](model, inputs)
    peak = resident("VmHWM") - loaded
    del kept  # what a mode gives counts
    return {"loaded": loaded, "peak": peak}


# What is printed


def print_row(what: str, record: Record, arguments: argparse.Namespace) -> None:
    """Print a row, and above the first one of its kind the names of the modes."""
    if record["n_tokens"] == arguments.tokens[0] and not (what == "time" and on_cuda(arguments)):
        print(f"{'':18}" + "".join(f"{mode:>22}" for mode in arguments.modes))
    scale, unit = UNITS[what]
    cells, base = [], record[what].get("sdpa")
    for mode in arguments.modes:
        number = record[what][mode]
        ratio = f"{number / base:.2f}x" if number is not None and base else ""
        cells.append("out of memory" if number is None else f"{brief(number / scale)} {unit} {ratio:>7}")
    print(f"  n={record['n_tokens']:<6} {what:8}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def print_aims(records: list[Record]) -> None:
    for name, (what, n, other, aim) in AIMS.items():
        for record in records:
            measured = record.get(what, {})
            if record["n_tokens"] == n and {"capture", other} <= measured.keys():
                ratio = measured["capture"] / measured[other]
                verdict = "reached" if ratio <= aim else "missed"
                print(f"  capture's {name}: {ratio:.3f}, to be at most {aim:.3f}: {verdict}", flush=True)


if __name__ == "__main__":
    main()

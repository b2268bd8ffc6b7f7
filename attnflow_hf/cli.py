"""The `attnflow` command: arguments to calls; prints; exit codes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import attnflow_hf
from attnflow_hf.cli_arguments import parse_assignments, parse_choice, parse_heads, parse_position, parse_residual
from attnflow_hf.errors import AttnFlowError, OptionError, first_line

if TYPE_CHECKING:
    from attnflow_hf.attribution import Attribution

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(attnflow_hf.__version__)
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Token attributions by raw attention, attention rollout and attention flow, for Transformers models."""


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    model: Annotated[
        str | None, typer.Option(help="A hub name or a folder. Default: the embedded verb-number model.")
    ] = None,
    method: Annotated[
        Literal["raw", "rollout", "flow", "flow_shapley", "all"],
        typer.Option(help="One method; 'all': the paper's three (not flow_shapley, which is slow) side by side."),
    ] = "all",
    layer: Annotated[int, typer.Option(help="The explained layer: 0 is the lowest, -1 the last.")] = -1,
    output_position: Annotated[
        str, typer.Option(help="An index (negative from the end), 'mean', or 'auto': [CLS] or the last token.")
    ] = "auto",
    words: Annotated[bool, typer.Option("--words", help="Sum the tokens of each word (table and html).")] = False,
    format: Annotated[Literal["table", "json", "html"], typer.Option(help="How the result is given.")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    edge_weights: Annotated[
        str,
        typer.Option(
            help="'attention'; 'grad_attention': attention times its gradient, for one class, far truer to the model; "
            "'alti', 'norms'; or a function of your own, 'module:function'."
        ),
    ] = "attention",
    target: Annotated[
        str | None,
        typer.Option(help="What grad_attention explains: a label or index. Default: the prediction."),
    ] = None,
    head_reduction: Annotated[
        str, typer.Option(help="'auto', 'mean', 'sum', 'max', 'min', a head, or the mean of some: 0,3.")
    ] = "auto",
    residual_weight: Annotated[
        str,
        typer.Option(help="The share of the residual connection, 0 to 1; 'unlimited' for flow; 'measured'; 'auto'."),
    ] = "auto",
    normalize_rows: Annotated[
        Literal["auto", "yes", "no"], typer.Option(help="Divide rows of edge weights by their sums.")
    ] = "auto",
    relu: Annotated[
        Literal["after", "before"],
        typer.Option(help="Negative numbers of grad_attention become zero after the heads are one, or before."),
    ] = "after",
    baseline: Annotated[
        Literal["mask", "pad", "unk"] | None,
        typer.Option(help="Mean of grad_attention's gradient with that where all words are this token; truer still."),
    ] = None,
    normalize: Annotated[
        Literal["sum", "max", "none"], typer.Option(help="Divide scores by their sum, their maximum, or not.")
    ] = "sum",
    special_tokens: Annotated[
        Literal["keep", "zero", "drop"], typer.Option(help="Keep special tokens, zero their scores, or drop them.")
    ] = "keep",
    first_token: Annotated[
        Literal["keep", "zero", "drop"], typer.Option(help="The same for the first token, special or not.")
    ] = "keep",
    position_correction: Annotated[
        Literal["none", "uniform"], typer.Option(help="'uniform': divide by the uniform causal graph's scores.")
    ] = "none",
    keep: Annotated[
        Literal["layers", "rollout"], typer.Option(help="'rollout': fold it while the model runs, in less memory.")
    ] = "layers",
    text_target: Annotated[
        str | None, typer.Option(help="What the decoder of an encoder-decoder model reads; explains both.")
    ] = None,
    n_permutations: Annotated[int, typer.Option(help="Random orders of flow_shapley above 12 tokens, 2 or more.")] = 16,
    seed: Annotated[int, typer.Option(help="The seed of these random orders.")] = 0,
    backend: Annotated[str, typer.Option(help="'auto', or a backend of flow or rollout, for speed alone.")] = "auto",
    truncation: Annotated[bool, typer.Option("--truncation", help="Cut a text that is too long.")] = False,
) -> None:
    """Print which input tokens an output position of the model drew on.

    Example: attnflow explain "the key to the cabinets"
    """
    position, residual = parse_position(output_position), parse_residual(residual_weight)
    heads = parse_heads(head_reduction)
    from attnflow_hf.backends import PAPER_METHODS
    from attnflow_hf.cli_model import load_attributor
    from attnflow_hf.options import Options

    options = Options(
        backend=backend,
        layer=layer,
        output_position=position,
        head_reduction=heads,
        residual_weight=residual,
        edge_weights=edge_weights,
        target=int(target) if target is not None and target.isdecimal() else target,
        normalize_rows=parse_choice(normalize_rows),
        relu=relu,
        baseline=baseline,
        normalize=normalize,
        special_tokens=special_tokens,
        first_token=first_token,
        position_correction=position_correction,
        keep=keep,
        n_permutations=n_permutations,
        seed=seed,
    )
    attributor = load_attributor(model)
    content = sys.stdin.read().strip() if text == "-" else text
    methods = PAPER_METHODS if method == "all" else (method,)
    if format == "html":
        page = attributor.page(
            content, methods=methods, options=options, text_target=text_target, truncation=truncation
        )
        _write(replace(page, shows_words=words).to_html(), output, "xmlcharrefreplace")
        return
    found = attributor.compare(
        content, methods=methods, options=options, text_target=text_target, truncation=truncation
    )
    _write(_RENDERERS[format](list(found.values()), words, output is None), output, "replace")


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(help="A folder that attnflow run wrote.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows at most, from the first.")] = 200,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Print a page of a dataset run: its texts to search and leaf through, colored by each method.

    Example: attnflow view flows --output flows.html
    """
    from attnflow_hf.run_page import page_of_run

    _write(page_of_run(folder, n_rows=rows).to_html(), output, "xmlcharrefreplace")


@app.command()
def check(
    model: Annotated[
        str | None, typer.Argument(help="A hub name or a folder. Default: the embedded verb-number model.")
    ] = None,
) -> None:
    """Print how the attentions of a model are captured, what was verified, and why not another way.

    Example: attnflow check
    """
    from attnflow_hf.cli_model import load_attributor

    attributor = load_attributor(model)
    print(attributor.capture_report())
    if attributor.model.config.is_encoder_decoder:
        print(attributor.capture_report(with_decoder=True))


_Config = Annotated[Path, typer.Argument(help="A YAML file; the README has its keys.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a key's value: --set options.layer=2. Repeatable."),
]
_Output = Annotated[str | None, typer.Option(help="The folder of the shards; replaces the key output.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")]


@app.command()
def run(config: _Config, assignments: _Set = None, output: _Output = None, quiet: _Quiet = False) -> None:
    """Write the attributions of a data set to a folder of Parquet shards; the same command goes on where it stopped.

    Example: attnflow run configs/sst2_flow.yaml --set method=rollout
    """
    _run_config("run_config", config, assignments, output, quiet)


@app.command()
def evaluate(config: _Config, assignments: _Set = None, output: _Output = None, quiet: _Quiet = False) -> None:
    """Print how true attributions are, over a data set, and what they cost; a folder keeps what was found.

    The config says how: by agreement with importance, faithfulness, plausibility, or pronouns.

    Example: attnflow evaluate configs/faithfulness_sst2.yaml
    """
    _run_config("evaluate_config", config, assignments, output, quiet)


def _run_config(name: str, config: Path, assignments: list[str] | None, output: str | None, quiet: bool) -> None:
    from attnflow_hf.stopping import Stopped, stoppable
    from attnflow_hf.terminal import printable

    overrides = parse_assignments(assignments or [], output)
    try:
        with stoppable():
            from attnflow_hf import run_command

            report = getattr(run_command, name)(config, overrides, quiet=quiet)
        if os.environ.get("RANK", "0") == "0":  # of the processes of a launcher, one reports
            print(printable(str(report)))
    except Stopped as stop:
        print(f"attnflow: {printable(str(stop))}", file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None


def main() -> None:
    """Run the command and exit: 0 for success, 2 for a wrong command line, 1 for everything else."""
    from attnflow_hf.terminal import printable

    try:
        app()
    except Exception as error:
        print(f"attnflow: error: {printable(_message(error))}", file=sys.stderr)
        sys.exit(1)


def _message(error: Exception) -> str:
    """Return what an error says: of faults that are listed a line each, else one line."""
    if isinstance(error, OptionError):
        return str(error)
    expected = isinstance(error, (AttnFlowError, OSError, RuntimeError, ValueError, ImportError))
    kind = "" if expected else f"{type(error).__name__}: "
    return kind + first_line(error)


def _write(content: str, output: Path | None, errors: str) -> None:
    if output is None:
        from attnflow_hf.terminal import write

        write(content.encode("ascii", errors).decode("ascii") if errors == "xmlcharrefreplace" else content, errors)
        return
    from attnflow_hf.storage import write_text

    write_text(output, content)
    print(f"wrote {output}", file=sys.stderr)


def _render_table(attributions: list[Attribution], words: bool, to_screen: bool) -> str:
    from attnflow_hf.terminal import render_table

    labels = attributions[0].rows(words=words)[0]
    columns = {found.method: found.rows(words=words)[1] for found in attributions}
    notes = "\n".join(dict.fromkeys(note for attribution in attributions for note in attribution.notes))
    return render_table(labels, columns, title=_title(attributions[0]), notes=notes, color=to_screen)


def _render_json(attributions: list[Attribution], words: bool, to_screen: bool) -> str:
    values = [found.to_dict() for found in attributions]
    return json.dumps(values if len(values) > 1 else values[0], ensure_ascii=to_screen, allow_nan=False) + "\n"


def _title(attribution: Attribution) -> str:
    model = f"model {attribution.model_name}, layer {attribution.layer}, output position {attribution.position_name}"
    edges = None if attribution.edge_weights == "attention" else f"edge weights {attribution.edges_name}"
    if attribution.target:
        edges = f"{attribution.edges_name} of {attribution.target.describe('target')}"
    prediction = attribution.prediction and attribution.prediction.describe()
    return "\n".join(line for line in (model, prediction, edges) if line)


_RENDERERS = {"table": _render_table, "json": _render_json}

"""The command: what each option changes, exit codes, one-line errors, and nothing heavy for `--help`."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import datasets
import numpy as np
import pronoun_models
import pyarrow.parquet as pq
import pytest
import tiny_models
import torch
from datasets import Dataset
from tokenizer_makers import wordpiece

import attnflow_hf
from attnflow_hf import Attribution, Attributor, Options, cli
from attnflow_hf.backends import METHODS, PAPER_METHODS
from attnflow_hf.config import load_config, load_evaluation
from attnflow_hf.edge_weights import EDGE_WEIGHTS, RELU
from attnflow_hf.evaluation import ResultTable
from attnflow_hf.html import page_data
from attnflow_hf.manifest import Manifest
from attnflow_hf.options import KEEP, NORMALIZATIONS, SPECIAL_TOKENS
from attnflow_hf.page import Page

TEXT = "the old cabinet don't open"
FLOW = ("--backend", "networkx", "--method", "flow")


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@lru_cache
def small_attributor() -> Attributor:
    """Return a tiny classifier with a tokenizer that parts words."""
    names = {0: "plural", 1: "singular"}
    model = tiny_models.bert(vocab_size=len(wordpiece()), id2label=names, num_hidden_layers=2)
    return Attributor(model, wordpiece())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command in this process, with a tiny model in place of a hub model."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Attributor, "from_pretrained", lambda _: small_attributor())
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def run_command(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["attnflow", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit, match=r"^([012]|143)$") as caught:
            cli.main()
        return Result(int(caught.value.code or 0), *capsys.readouterr())

    return run_command


def values_of(run: Run, *arguments: str, text: str = TEXT) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    result = run("explain", text, "--format", "json", *arguments)
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def attnflow(*arguments: str, stdin: str = "", **environment: str) -> Result:
    """Run the command in a process of its own."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    code = "import sys; from attnflow_hf.cli import main; sys.argv = ['attnflow', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, input=stdin.encode(), capture_output=True, env=env, check=False, timeout=120)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a saved tiny model."""
    path = tmp_path_factory.mktemp("tiny")
    small_attributor().model.save_pretrained(path)
    wordpiece().save_pretrained(path)
    return str(path)


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['attnflow', 'explain', '--help']\n"
        "from attnflow_hf.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'numba', 'networkx', 'datasets'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stderr.decode().strip() == "set()"
    shown = done.stdout.decode()
    for option in (
        "--model",
        "--method",
        "--layer",
        "--output-position",
        "--words",
        "--format",
        "--output",
        "--backend",
    ):
        assert option in shown


def test_the_package_itself_is_light() -> None:
    code = "import sys, attnflow_hf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_process_reads_its_input_and_loads_a_folder(folder: str) -> None:
    result = attnflow("explain", "-", "--model", folder, *FLOW, "--words", stdin=f" {TEXT}\n", COLUMNS="60")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"model {Path(folder).name}, layer 1, output position 0 ([CLS])"
    assert re.fullmatch(r"prediction '(plural|singular)' \(probability 0\.\d{3}\)", lines[1])
    assert [line.split()[0] for line in lines[2:]] == ["token", "[CLS]", *TEXT.split(), "[SEP]"]
    assert "\x1b" not in result.out


def test_a_process_fails_with_one_line(tmp_path: Path) -> None:
    result = attnflow("explain", "x", "--model", str(tmp_path / "nowhere\x1b[31m"))
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"attnflow: error: cannot load the model '.*nowhere\\+x1b\[31m': .+\n", result.err)


@pytest.mark.skipif(sys.platform == "win32", reason="locales of another kind")
def test_no_encoding_of_the_output_makes_it_fail(folder: str) -> None:
    result = attnflow("explain", "caf\u00e9 \u65e5", "--model", folder, "--method", "raw", PYTHONIOENCODING="ascii")
    assert (result.code, result.err) == (0, "")
    assert "[SEP]" in result.out


def test_version_and_no_command(run: Run) -> None:
    assert run("--version") == Result(0, f"{attnflow_hf.__version__}\n", "")
    result = run()
    assert result.code == 2
    assert "explain" in result.out + result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument"),
        (("x", "y"), "unexpected extra argument"),
        (("x", "--nope"), "No such option"),
        (("x", "--method", "attention"), "attention"),
        (("x", "--format", "xml"), "xml"),
        (("x", "--layer", "last"), "Invalid value for '--layer'"),
        (("x", "--layer", "1.5"), "Invalid value for '--layer'"),
        (("x", "--residual-weight", "1.5"), "Invalid value for '--residual-weight'"),
        (("x", "--residual-weight", "nan"), "Invalid value for '--residual-weight'"),
        (("x", "--residual-weight", "half"), "Invalid value for '--residual-weight'"),
        (("x", "--normalize", "l2"), "l2"),
        (("x", "--special-tokens", "hide"), "hide"),
        (("x", "--head-reduction", "median"), "unknown head_reduction 'median'; choose one of 'auto', 'max', 'mean'"),
        (("x", "--head-reduction", "0,x"), "unknown head_reduction '0,x'"),
        (("x", "--head-reduction", "-1"), "unknown head_reduction '-1'"),
        (("x", "--normalize-rows", "perhaps"), "perhaps"),
        (("x", "--relu", "never"), "never"),
        (("x", "--keep", "nothing"), "nothing"),
        (("x", "--output-position", "all"), "'all' is neither an index nor 'auto' or 'mean'"),
        (("x", "--output-position", "1.0"), "'1.0' is neither an index"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...], message: str, run: Run) -> None:
    result = run("explain", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXT, "--layer", "9"), "layer 9 is out of range: there are 2, so use -2 to 1"),
        ((TEXT, "--output-position", "99"), "output_position 99 is out of range"),
        ((TEXT, "--method", "flow", "--backend", "gpu"), "unknown backend of flow 'gpu'; choose one of 'auto', "),
        ((TEXT, "--edge-weights", "grads"), "unknown edge_weights 'grads'; choose one of 'alti', 'attention', 'grad_"),
        ((TEXT, "--edge-weights", "no_such:module"), "names no function that can be imported"),
        ((TEXT, "--residual-weight", "measured"), "'attention' do not measure the residual's share"),
        (("",), "the text is empty: it has no token but special ones"),
        (("-",), "the text is empty"),
        (("a \udcff",), "the text is not valid Unicode: it has a lone surrogate '\\udcff'"),
        (("the " * 100,), "tokens, but the model reads 64 at most; pass truncation=True to cut it"),
    ],
)
def test_everything_else_exits_with_1_and_one_line(arguments: tuple[str, ...], message: str, run: Run) -> None:
    result = run("explain", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("attnflow: error: ")
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("error", [OSError("first\x1b[31m\nsecond"), RuntimeError("first\x1b[31m\nsecond")])
def test_errors_are_one_clean_line(error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Attributor, "compare", fail)
    assert run("explain", TEXT) == Result(1, "", "attnflow: error: first\\x1b[31m\n")


def test_an_error_without_words_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Attributor, "compare", fail)
    assert run("explain", TEXT).err == "attnflow: error: RuntimeError\n"


def test_a_model_that_cannot_be_loaded_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("no connection\nsecond line")

    monkeypatch.setattr(Attributor, "from_pretrained", fail)
    assert run("explain", TEXT, "--model", "me/mine").err == (
        "attnflow: error: cannot load the model 'me/mine': no connection\n"
    )


@pytest.mark.parametrize("error", [ValueError, RuntimeError, AssertionError])
def test_the_embedded_model_is_named_too(error: type[Exception], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise error("no CUDA")

    monkeypatch.setattr(Attributor, "from_pretrained", fail)
    assert run("explain", TEXT) == Result(1, "", "attnflow: error: cannot load the embedded model: no CUDA\n")


def test_the_model_is_the_one_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Attributor, "from_pretrained", lambda name: asked.append(name) or small_attributor())
    run("explain", TEXT, "--method", "raw")
    run("explain", TEXT, "--method", "raw", "--model", "me/mine")
    assert asked == [None, "me/mine"]


def test_a_table_compares_all_methods(run: Run) -> None:
    result = run("explain", TEXT)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[2].split() == ["token", *PAPER_METHODS]
    rows = [re.findall(r"\d\.\d{4}", line) for line in lines[3:]]
    assert [len(row) for row in rows] == [3] * len(rows)
    np.testing.assert_allclose(np.array(rows, dtype=float).sum(axis=0), 1, rtol=0, atol=1e-4 * len(rows))


@pytest.mark.parametrize("method", METHODS)
def test_one_method_is_what_python_gives(method: str, run: Run) -> None:
    values = values_of(run, "--method", method)
    expected = small_attributor()(TEXT, method=method)
    assert values == expected.to_dict()


def test_json_of_all_methods_is_a_list(run: Run) -> None:
    values = values_of(run)
    assert [value["method"] for value in values] == list(PAPER_METHODS)


OPTIONS = [
    (("--layer", "0"), "layer", 0),
    (("--layer", "-2"), "layer", 0),
    (("--output-position", "2"), "output_position", 2),
    (("--output-position", "-1"), "output_position", -1),
    (("--output-position", "mean"), "output_position", "mean"),
    (("--head-reduction", "max"), "head_reduction", "max"),
    (("--head-reduction", "min"), "head_reduction", "min"),
    (("--head-reduction", "2"), "head_reduction", 2),
    (("--head-reduction", "0,3"), "head_reduction", [0, 3]),
    (("--residual-weight", "0.25"), "residual_weight", 0.25),
    (("--normalize", "max"), "normalize", "max"),
    (("--normalize", "none"), "normalize", "none"),
    (("--special-tokens", "zero"), "special_tokens", "zero"),
    (("--special-tokens", "drop"), "special_tokens", "drop"),
]


@pytest.mark.parametrize(("arguments", "name", "value"), OPTIONS)
def test_each_option_reaches_the_result(arguments: tuple[str, ...], name: str, value: Any, run: Run) -> None:
    values = values_of(run, *FLOW, *arguments)
    assert values == small_attributor()(TEXT, method="flow", backend="networkx", **{name: value}).to_dict()
    assert values["scores"] != values_of(run, *FLOW)["scores"]


OF_GRADS = [
    (("--relu", "before"), "relu", "before"),
    (("--normalize-rows", "yes"), "normalize_rows", True),
    (("--head-reduction", "1"), "head_reduction", 1),
    (("--residual-weight", "0.25"), "residual_weight", 0.25),
]


@pytest.mark.parametrize(("arguments", "name", "value"), OF_GRADS)
def test_each_option_of_gradients_reaches_the_result(
    arguments: tuple[str, ...], name: str, value: Any, run: Run
) -> None:
    own = (*FLOW, "--edge-weights", "grad_attention")
    values = values_of(run, *own, *arguments)
    options = {"backend": "networkx", "edge_weights": "grad_attention", name: value}
    assert values == small_attributor()(TEXT, method="flow", **options).to_dict()
    assert values[name] == value
    assert values["scores"] != values_of(run, *own)["scores"]


@pytest.mark.parametrize("kind", ["alti", "norms"])
def test_other_edge_weights_reach_the_result(kind: str, run: Run) -> None:
    values = values_of(run, *FLOW, "--edge-weights", kind, "--residual-weight", "measured")
    wanted = small_attributor()(TEXT, method="flow", backend="networkx", edge_weights=kind)
    assert values == wanted.to_dict()
    assert (values["edge_weights"], values["residual_weight"]) == (kind, "measured")
    assert f"\nedge weights {kind}\n" in run("explain", TEXT, *FLOW, "--edge-weights", kind).out


def test_edge_weights_of_ones_own_reach_the_result(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "def value_norms(layer):\n    return (layer.attention * layer.values.norm(dim=-1)[:, None]).mean(dim=0)\n"
    (tmp_path / "weights_of_a_test.py").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("attnflow_hf.edge_weights.EDGE_WEIGHTS", dict(EDGE_WEIGHTS))
    place = "weights_of_a_test:value_norms"
    values = values_of(run, *FLOW, "--edge-weights", place)
    assert values == small_attributor()(TEXT, method="flow", backend="networkx", edge_weights=place).to_dict()
    assert values["edge_weights"] == place


def test_rows_of_attention_may_stay_as_they_come(run: Run) -> None:
    options = ("--method", "raw", "--head-reduction", "sum", "--normalize", "none")
    by_choice = {choice: values_of(run, *options, "--normalize-rows", choice) for choice in ("auto", "yes", "no")}
    assert by_choice["auto"] == by_choice["yes"]
    assert sum(by_choice["yes"]["scores"]) == pytest.approx(1, rel=1e-5)
    assert sum(by_choice["no"]["scores"]) == pytest.approx(4, rel=1e-5)  # four heads


def test_rollout_is_folded_where_it_is_asked_for(run: Run) -> None:
    values = values_of(run, "--method", "rollout", "--keep", "rollout")
    assert values["backend"] == "fold"
    np.testing.assert_allclose(values["scores"], values_of(run, "--method", "rollout")["scores"], rtol=1e-5)
    result = run("explain", TEXT, "--keep", "rollout")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "serves method='rollout' alone" in result.err


def test_a_target_is_explained_by_its_label_or_index(run: Run) -> None:
    arguments = (*FLOW, "--edge-weights", "grad_attention", "--target")
    found = {target: values_of(run, *arguments, target) for target in ("plural", "0", "1")}
    wanted = small_attributor()(TEXT, method="flow", backend="networkx", edge_weights="grad_attention", target="plural")
    assert found["plural"] == found["0"] == wanted.to_dict()
    assert found["1"]["scores"] != found["0"]["scores"]
    table = run("explain", TEXT, *arguments, "singular").out
    assert re.search(r"\ngrad_attention of target 'singular' \(probability 0\.\d+\)\n", table)
    result = run("explain", TEXT, *arguments, "plurla")
    assert result.code == 1
    assert "it has 0 ('plural'), 1 ('singular') (did you mean 'plural'?)" in result.err


def test_the_sampling_of_flow_shapley_reaches_the_result(run: Run) -> None:
    text = " ".join([TEXT, TEXT])
    values = values_of(run, "--method", "flow_shapley", "--n-permutations", "3", "--seed", "5", text=text)
    assert values == small_attributor()(text, method="flow_shapley", n_permutations=3, seed=5).to_dict()
    assert values["notes"][-1].startswith("estimated from 3 random orders (seed 5): standard errors are up to 0.")
    result = run("explain", text, "--method", "flow_shapley", "--n-permutations", "1")
    assert (result.code, result.err) == (
        1,
        "attnflow: error: n_permutations must be an integer, 2 or more, got 1\n",
    )


def test_backend_and_truncation_reach_the_result(run: Run) -> None:
    assert values_of(run, *FLOW)["backend"] == "networkx"
    values = values_of(run, "--method", "raw", "--truncation", text="the " * 100)
    assert (len(values["tokens"]), values["n_truncated"]) == (64, 38)
    table = run("explain", "the " * 100, "--method", "raw", "--truncation")
    assert "the text was cut: 38 tokens beyond the model's length are not explained" in table.out


def test_words_sum_tokens(run: Run) -> None:
    plain, summed = (run("explain", TEXT, *FLOW, *more) for more in ((), ("--words",)))
    assert "\n' " in plain.out
    assert [line.split()[0] for line in summed.out.splitlines()[3:]] == ["[CLS]", *TEXT.split(), "[SEP]"]
    for more in ((), ("--words",)):
        page = Page.from_values(page_data(run("explain", TEXT, *FLOW, *more, "--format", "html").out))
        assert page.shows_words == bool(more)


def test_html_is_a_page_in_ascii(run: Run) -> None:
    page = run("explain", "caf\u00e9 <b>", "--format", "html").out
    assert page.startswith("<!doctype html>")
    assert page.isascii()
    assert "caf&#233;" in page
    assert "&lt;" in page
    assert "<b>" not in page


def test_html_has_all_layers_and_positions_of_each_method(run: Run) -> None:
    source = run("explain", TEXT, "--format", "html", "--layer", "0", "--output-position", "1").out
    page, attributor = Page.from_values(page_data(source)), small_attributor()
    assert [each.method for each in page.attributions] == list(PAPER_METHODS)
    assert page.sheets[0].start == (1, 0)
    for each in page.attributions:
        expected = attributor(TEXT, method=each.method, layer="all", output_position="all")
        np.testing.assert_array_equal(each.scores, expected.scores)


def test_view_shows_a_run(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    rows = [{"text": text} for text in ("the old cabinet", "don't open", "caf\u00e9")]
    attnflow_hf.run_dataset(rows, small_attributor(), folder, method="raw", progress=False)
    source = run("view", str(folder), "--rows", "2").out
    page = Page.from_values(page_data(source))
    assert (page.lead, len(page.attributions)) == ("2 of 3 rows", 2)
    result = run("view", str(folder), "--output", str(tmp_path / "page.html"))
    assert result == Result(0, "", f"wrote {tmp_path / 'page.html'}\n")
    assert Page.load(tmp_path / "page.html").lead == "3 of 3 rows"
    assert run("view", str(folder), "--rows", "0").code == 2
    missing = run("view", str(tmp_path / "nowhere"))
    assert (missing.code, missing.out) == (1, "")
    assert "has no manifest.json: a folder that attnflow run wrote is needed" in missing.err


def test_json_on_the_screen_is_ascii(run: Run) -> None:
    result = run("explain", "caf\u00e9 \x9b31m \u202e", "--format", "json", *FLOW)
    assert result.out.isascii()
    assert json.loads(result.out)["texts"] == ["caf\u00e9 \x9b31m \u202e"]


def test_standard_input_is_the_text(run: Run) -> None:
    result = run("explain", "-", "--format", "json", *FLOW, stdin=f"\n {TEXT} \n")
    assert json.loads(result.out) == values_of(run, *FLOW)


@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_output_goes_whole_to_a_file(form: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("explain", "caf\u00e9 open", "--format", form, *FLOW)
    screen = run(*arguments).out
    path = tmp_path / "out"
    path.write_text("old" * 10_000)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(*arguments, "--output", str(path)) == Result(0, "", f"wrote {path}\n")
    content = path.read_text(encoding="utf-8")
    assert "\x1b" not in content
    assert "caf" in content
    assert content.replace("\u00e9", {"html": "&#233;", "json": "\\u00e9"}.get(form, "\u00e9")) == screen
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_saved_json_can_be_loaded(run: Run, tmp_path: Path) -> None:
    run("explain", "caf\u00e9 open", "--format", "json", *FLOW, "--output", str(tmp_path / "a.json"))
    loaded = Attribution.load(tmp_path / "a.json")
    assert loaded.to_dict() == small_attributor()("caf\u00e9 open", backend="networkx").to_dict()


def test_a_folder_that_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    result = run("explain", TEXT, *FLOW, "--output", str(tmp_path / "nowhere" / "out"))
    assert result.code == 1
    assert re.fullmatch(r"attnflow: error: .*no such folder: '.*nowhere'\n", result.err)


@pytest.mark.parametrize(
    ("option", "valid"),
    [
        ("method", (*METHODS, "all")),
        ("relu", RELU),
        ("keep", KEEP),
        ("normalize", NORMALIZATIONS),
        ("special_tokens", SPECIAL_TOKENS),
        ("format", (*cli._RENDERERS, "html")),
    ],
)
def test_choices_are_those_of_the_modules(option: str, valid: tuple[str, ...]) -> None:
    assert sorted(get_args(get_type_hints(cli.explain)[option])) == sorted(valid)


def test_defaults_are_those_of_python() -> None:
    own = {name: p.default for name, p in inspect.signature(cli.explain).parameters.items()}
    assert own.keys() >= inspect.signature(Options).parameters.keys()
    for name, parameter in inspect.signature(Attributor.__call__).parameters.items():
        if name in own and name != "method":
            assert own[name] == parameter.default, name


# attnflow run


CONFIGS = Path(__file__).parents[1] / "configs"
OF_PAPER = sorted(CONFIGS.glob("paper_table*.yaml"))
OF_PRONOUNS = CONFIGS / "paper_pronouns.yaml"
OF_EDGE_WEIGHTS = CONFIGS / "edge_weights_sst2.yaml"
OF_SCORERS = [CONFIGS / "faithfulness_sst2.yaml", CONFIGS / "plausibility_sst.yaml"]
SENTENCES = ["the keys to the cabinet", "", "the old cabinet", "a cat", "the authors of the book"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a config and its data set, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("\n".join(["id,text", *(f"{n},{text}" for n, text in enumerate(SENTENCES)), ""]))
    Path("run.yaml").write_text("dataset: rows.csv\noutput: out\nmethod: [raw, rollout]\non_error: skip\n")
    return tmp_path


def columns(folder: str) -> dict[str, list[Any]]:
    """Return the columns of a run's shards."""
    return pq.read_table(sorted(Path(folder).glob("*.parquet"))).to_pydict()


def test_a_config_is_run_and_reported(run: Run, there: Path) -> None:
    result = run("run", "run.yaml")
    report = [
        r"out: 5 rows in 1 shard, \S+ bytes a row",
        r"computed now: 5 in .* rows/s; finished before: 0; errors: 1",
    ]
    skipped = r"  row 1: OptionError: the text must be a string or a pair \(tuple\) of strings, got None"
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch("\n".join([*report, skipped, ""]), result.out)
    assert columns("out")["id"] == [0, 2, 3, 4]
    expected = small_attributor().compare(SENTENCES[2], methods=["raw", "rollout"])
    for method, attribution in expected.items():
        np.testing.assert_allclose(columns("out")[f"scores_{method}"][1], attribution.scores, rtol=0, atol=1e-6)
    assert run("run", "run.yaml").out.splitlines()[1] == "computed now: 0; finished before: 5; errors: 1"


def test_flags_replace_keys(run: Run, there: Path) -> None:
    sets = ["method=flow", "options.layer=0", "options.backend=networkx", "columns=[id]", "dataset.split=train[2:4]"]
    flags = [flag for assignment in sets for flag in ("--set", assignment)]
    assert run("run", "run.yaml", *flags, "--output", "there", "--quiet").code == 0
    found = columns("there")
    assert found["id"] == [2, 3]
    assert "text" not in found
    wanted = small_attributor()(SENTENCES[2], layer=0, backend="networkx")
    np.testing.assert_allclose(found["scores_flow"][0], wanted.scores, rtol=0, atol=1e-6)
    assert not (there / "out").exists()
    run("run", "run.yaml", "--set", "output=first", "--set", "output=second")
    assert not (there / "first").exists()
    assert (there / "second").exists()


def test_the_model_of_a_config_gets_its_options(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(name: object, **options: object) -> Attributor:
        asked.append((name, options))
        return small_attributor()

    monkeypatch.setattr(Attributor, "from_pretrained", load)
    run("run", "run.yaml")
    run("run", "run.yaml", "--set", "model={name: me/mine, dtype: float16, revision: v2}")
    assert asked == [(None, {}), ("me/mine", {"dtype": torch.float16, "revision": "v2"})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.yaml",), r"cannot read 'none\.yaml': No such file or directory"),
        (("run.yaml", "--set", "dataset=none.csv"), r"there is no file 'none\.csv' \(sought from .*\)"),
        (("run.yaml", "--set", "text_column=txt"), r"text_column 'txt' is no column of the data set; it has .*"),
        (("run.yaml", "--set", "on_error=raise"), r"row 1 of the data set: the text must be .* goes on\)"),
        (("run.yaml", "--set", "options.layer=9"), "layer 9 is out of range: there are 2, so use -2 to 1"),
        (
            ("run.yaml", "--set", "methd=raw", "--set", "words=1"),
            r"'run\.yaml' with methd, words set cannot be run:\n  methd: .* \(did you mean 'method'\?\)\n"
            r"  words: 1; needed: true or false\n  \(the keys are .*\)",
        ),
    ],
)
def test_faults_of_a_run_exit_with_1(run: Run, there: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("run", *arguments)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(rf"attnflow: error: {message}\n", result.err), result.err


def test_what_differs_from_the_run_in_the_folder_is_listed(run: Run, there: Path) -> None:
    run("run", "run.yaml")
    result = run("run", "run.yaml", "--set", "words=true", "--set", "truncation=true")
    assert (result.code, result.err.splitlines()[1:]) == (
        1,
        ["  settings.words: false there, true asked", "  settings.truncation: false there, true asked"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument"),
        (("run.yaml", "--set", "method"), "'method' sets nothing; needed: KEY=VALUE"),
        (("run.yaml", "--set", "method=[raw"), "expected ',' or ']'"),
        (("run.yaml", "--sets", "method=raw"), "No such option"),
    ],
)
def test_a_wrong_command_line_of_a_run_exits_with_2(
    run: Run, there: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("run", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_bars_are_for_terminals_and_not_for_quiet_ones(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("run", "run.yaml", "--output", "quiet", "--quiet").err == ""
    datasets.enable_progress_bars()
    assert "5/5" in run("run", "run.yaml", "--output", "shown").err


@pytest.mark.parametrize(
    "path",
    sorted(
        {*CONFIGS.glob("*.yaml")} - {*OF_PAPER, *OF_SCORERS, OF_EDGE_WEIGHTS, OF_PRONOUNS, CONFIGS / "verb_number.yaml"}
    ),
    ids=lambda path: path.stem,
)
def test_the_examples_run(path: Path, there: Path) -> None:
    config = load_config(path)
    names = {config.run["text_column"], *config.run["columns"]}
    Dataset.from_dict(dict.fromkeys(names, SENTENCES[2:4])).to_csv("own.csv")
    own = {"dataset": "own.csv", "model": "null"}
    own |= {"window": "48", "stride": "8"} if "window" in config.run else {}  # the embedded model reads 96 tokens
    own |= {"engine": "local"} if "engine" in config.run else {}
    assignments = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
    result = attnflow("run", str(path), *assignments, "--output", "out")
    assert (result.code, result.err) == (0, "")
    assert re.match(r"out: 2 rows in 1 shard, \S+ bytes a row\ncomputed now: 2 in .*; errors: 0\n", result.out)
    assert set(config.run["columns"]) < set(columns("out"))


@pytest.mark.parametrize("path", OF_PAPER, ids=lambda path: path.stem)
def test_the_examples_of_the_papers_tables_run(path: Path, there: Path) -> None:
    pytest.importorskip("captum")
    config = load_evaluation(path)
    names = {config.run.get("text_column", "text"), *config.run["columns"]}
    Dataset.from_dict(dict.fromkeys(names, SENTENCES)).to_csv("own.csv")
    own = {"dataset": "own.csv", "model": "null", "sample": "3"}
    assignments = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
    result = attnflow("evaluate", str(path), *assignments, "--output", "out")
    assert (result.code, result.err) == (0, "")
    assert re.match(
        r"out: 3 rows in 1 shard, \S+ bytes a row\ncomputed now: 3 in .*; errors: 0\n\n### spearman", result.out
    )
    importances = config.run["importance"]
    for importance in [importances] if isinstance(importances, str) else importances:
        assert f"### spearman with {importance}\n\n| method | layer 0 |" in result.out
    assert {"results.json", "results.md", "results.tex"} <= {file.name for file in Path("out").iterdir()}


@pytest.mark.parametrize("path", OF_SCORERS, ids=lambda path: path.stem)
def test_the_examples_of_other_evaluations_run(path: Path, there: Path) -> None:
    pytest.importorskip("captum")
    config = load_evaluation(path)
    marked = ['7,the keys are old,positive,positive,"[0, 1, 0, 1]",train', '8,a cat,negative,negative,"[0, 1]",']
    header = "text_id,sentence,original_label,label,rationale_binary,sst2_split"
    Path("own.csv").write_text("\n".join([header, *marked, ""]))
    columns = config.run["columns"] if config.evaluation == "plausibility" else ["sentence"]
    own = {"dataset.path": "own.csv", "model": "null", "columns": json.dumps(columns), "n_steps": "2"}
    own |= {"dataset.split": "null"} if config.evaluation == "faithfulness" else {}
    assignments = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
    result = attnflow("evaluate", str(path), *assignments, "--output", "out")
    assert (result.code, result.err) == (0, "")
    start = rf"out: 2 rows in 1 shard, \S+ bytes a row\ncomputed now: 2 in .*; errors: 0\n\n### {config.evaluation}\n"
    assert re.match(start, result.out)
    scorers = {(row["method"], row["layer"]) for row in ResultTable.load("out/results.json").rows}
    layers = {"raw", "rollout", "flow"}
    wanted = {(name, layer) for name in config.run["scorer"] for layer in ((2, 5) if name in layers else (None,))}
    assert scorers == wanted
    assert "| milliseconds | peak_memory_mb |" in result.out
    assert "### less random, text by text" in result.out


def test_the_example_of_edge_weights_runs(there: Path) -> None:
    pytest.importorskip("captum")
    Path("own.tsv").write_text('1\tthe keys " to\n0\tthe old cat\n0\tthe " author\n')  # quotes that are words
    own = {"model": "null", "columns": "[label]", "n_steps": "2", "label_column": "label", "cost_rows": "0"}
    own["dataset"] = "{path: own.tsv, reader: {column_names: [label, prefix], quoting: 3}}"
    own["text_column"] = "prefix"
    assignments = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
    result = attnflow("evaluate", str(OF_EDGE_WEIGHTS), *assignments, "--output", "out")
    assert (result.code, result.err) == (0, "")
    rows = ResultTable.load("out/results.json").where(prediction="all", metric="deletion_area").rows
    chefer = "(grad_attention, head_reduction mean, relu before)"
    grad = [f"{method} (grad_attention)" for method in ("raw", "rollout", "flow", "column_sum")]
    others = [f"{each.removesuffix(')')}, baseline mask)" for each in grad]
    free = [*(f"{method} (alti)" for method in ("raw", "rollout", "flow")), "rollout (norms)", "flow (norms)"]
    assert [row["method"] for row in rows] == [
        *("random", "raw", "rollout", "flow", "rollout (residual_weight 0.8)", *grad, *others),
        *(f"rollout {chefer}", f"flow {chefer}", *free, "gradient_x_input"),
        *("integrated gradients (PAD)", "integrated gradients (MASK)", "blank_out"),
    ]
    assert {row["compared_with"] for row in rows} == {None, "integrated gradients (PAD)"}
    assert "prediction all: n = 3; less integrated gradients (PAD), text by text\n" in result.out


def test_the_papers_pronouns_run(there: Path) -> None:
    folder = there / "masked"
    pronoun_models.model().save_pretrained(folder)
    pronoun_models.wordpiece().save_pretrained(folder)
    own = {"dataset.path": CONFIGS / "paper_pronouns.csv", "model.name": folder}
    assignments = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
    result = attnflow("evaluate", str(OF_PRONOUNS), *assignments, "--output", "out")
    assert (result.code, result.err) == (0, "")
    start = r"out: 2 rows in 1 shard, \S+ bytes a row\ncomputed now: 2 in .*; errors: 0\n\n### prediction: n = 2 "
    assert re.match(start, result.out)
    assert columns("out")["id"] == ["4a", "4b"]


def test_a_wrong_config_of_an_evaluation_is_told(run: Run, there: Path) -> None:
    Path("eval.yaml").write_text("dataset: rows.csv\noutput: out\nimportance: blankout\nsampel: 3\n")
    result = run("evaluate", "eval.yaml")
    assert (result.code, result.out) == (1, "")
    for line in (
        "  sampel: unknown key, got 3 (did you mean 'sample'?)",
        "  special_tokens: missing; every run needs it",
        "  importance: unknown importance 'blankout'; choose one of 'blank_out', 'gradient_x_input', 'input_gradient', "
        "'integrated_gradients' (did you mean 'blank_out'?)",
    ):
        assert line in result.err.splitlines(), result.err


def test_help_of_a_run_is_light() -> None:
    code = (
        "import sys; sys.argv = ['attnflow', 'run', '--help']\n"
        "from attnflow_hf.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'datasets'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.decode().strip()) == (0, "set()")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_finished_shards(there: Path, number: signal.Signals, code: int) -> None:
    lines = ["id,text", *(f"{n},{'' if n == 1 else SENTENCES[0]}" for n in range(600)), ""]
    Path("rows.csv").write_text("\n".join(lines))
    arguments = ["run", "run.yaml", "--set", "shard_size=10", "--set", "model.batch_size=2"]
    heeding = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # however the tests were started
    )
    program = [sys.executable, "-c", f"{heeding}; from attnflow_hf.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < end and not Path("out/shard-00002.parquet").exists():
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    first, skipped = err.splitlines()
    kept = re.fullmatch(
        r"attnflow: stopped; (\d+) rows in (\d+) finished shards are kept in 'out'; the same command goes on there",
        first,
    )
    assert kept is not None, err
    assert skipped == "  row 1: OptionError: the text must be a string or a pair (tuple) of strings, got None"
    n_rows, n_shards = map(int, kept.groups())
    manifest = Manifest.load(Path("out") / "manifest.json")
    assert (len(manifest.shards), manifest.is_complete) == (n_shards, False)
    assert 2 <= n_shards < 60
    assert n_rows == 10 * n_shards
    Path("run.yaml").write_text(Path("run.yaml").read_text() + "shard_size: 10\nmodel: {batch_size: 2}\n")
    again = attnflow("run", "run.yaml")
    done = rf"computed now: {600 - n_rows} in .* rows/s; finished before: {n_rows}; errors: 1"
    assert re.fullmatch(done, again.out.splitlines()[1])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_a_signal_before_the_first_shard(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(Attributor, "from_pretrained", stop)
    assert run("run", "run.yaml") == Result(143, "", "attnflow: stopped; no shard was finished\n")


def test_an_error_that_nobody_expected_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("weights")

    monkeypatch.setattr("attnflow_hf.attributor.Attributor.from_pretrained", fail)
    monkeypatch.setattr(sys, "argv", ["attnflow", "explain", "the key"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "attnflow: error: KeyError: 'weights'\n"

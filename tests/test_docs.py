"""README, notebooks and configs say what is so."""

import doctest
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_makers import minilm_graph
from scipy.stats import spearmanr
from tiny_models import shared_folder
from typer.main import get_command

import attnflow_hf
from attnflow_hf import Attributor, Options, attach, backends, evaluation, flow, plot, run_dataset
from attnflow_hf.cli import app
from attnflow_hf.config import EVALUATION_SECTIONS, SECTIONS
from attnflow_hf.saturation import measure_saturation
from attnflow_hf.text_attribution import OPTIONS, TextAttributionPipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+\.\d+")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def sessions():
    """Each `$ attnflow ...` of the README with what it prints."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, printed = part.partition("\n")
            if command.startswith("attnflow "):
                yield command, printed


def write_files(folder):
    """Write the files that the README's sessions speak of."""
    (folder / "agreement.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    texts = ["the keys to the cabinet", "the author of the books", "", "the zebras", "the cats"]
    (folder / "sentences.csv").write_text("\n".join(["id,text", *(f"{n},{text}" for n, text in enumerate(texts)), ""]))


@pytest.mark.parametrize(("command", "printed"), list(sessions()), ids=[command for command, _ in sessions()])
def test_commands_print_what_the_readme_shows(command, printed, tmp_path):
    program = [sys.executable, "-c", "from attnflow_hf.cli import main; main()", *shlex.split(command)[1:]]
    write_files(tmp_path)
    done = subprocess.run(program, capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    if not printed.strip():
        return
    found, shown = (re.sub(r"[\u2580-\u259f\s]+", " ", text).strip() for text in (done.stdout, printed))
    pattern = NUMBER.sub(r"(\\d+.\\d+)", re.escape(shown.replace("...", "\0")).replace("\\.", ".")).replace("\0", ".*?")
    match = re.fullmatch(pattern, found)
    assert match, (pattern, found)
    numbers = [list(map(float, each)) for each in (match.groups(), NUMBER.findall(shown))]
    np.testing.assert_allclose(*numbers, rtol=0, atol=2e-3)  # last digits differ between machines


def test_python_blocks_print_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attnflow_hf.backends._BACKENDS", dict(backends._BACKENDS))
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("python")), {}, "README", "README.md", 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    failed, tried = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert not failed, "".join(report)
    assert tried > 10


STORIES = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her friends.",
    "Tom and his dog went to the big lake. They saw a red boat and a small duck. Tom was very happy.",
    "One day, a little bird could not find its mom. It was sad and started to cry. Then a kind cat came to help.",
    "The sun was hot and the sky was blue. Ben wanted to eat ice cream, but he had no money.",
    "Lily had a big box of toys. She gave one to her brother because he was nice to her.",
)
ROWS_OF_POSITION_BIAS = re.findall(
    r"^\| `(flow|rollout)` \| `(auto|mean)`[^|]*\| (-?[\d.]+) \| (-?[\d.]+) \|$", README, flags=re.M
)


@pytest.mark.shared
@pytest.mark.parametrize(("method", "position", "plain", "corrected"), ROWS_OF_POSITION_BIAS)
def test_scores_follow_the_position_as_the_readme_says(method, position, plain, corrected):
    attributor = Attributor.from_pretrained(shared_folder("models") / "stories260K")
    for correction, shown in (("none", plain), ("uniform", corrected)):
        options = {"method": method, "output_position": position, "position_correction": correction}
        found = attributor(list(STORIES), **options, normalize="none")
        correlation = np.mean([spearmanr(each.scores, each.positions).statistic for each in found])
        np.testing.assert_allclose(correlation, float(shown), rtol=0, atol=0.01)


def test_the_table_of_position_bias_is_there():
    assert len(ROWS_OF_POSITION_BIAS) == 4


ROWS_OF_SATURATION = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|((?: \d+% \|){5})$", README, flags=re.M)


@pytest.mark.parametrize(("n", "layer", "position", "percents"), ROWS_OF_SATURATION)
def test_flow_saturates_as_the_readme_says(n, layer, position, percents):
    graph = minilm_graph(int(n), (ROOT / "LICENSE").read_text(encoding="utf-8"))
    values = flow(graph, output_positions=int(position), layer=int(layer))
    report = measure_saturation(graph, [int(layer)], [int(position)], values[None])
    expected = [float(percent) / 100 for percent in re.findall(r"\d+", percents)]
    np.testing.assert_allclose([*report.shares, report.variation], expected, rtol=0, atol=0.016)  # a token of 64


def test_the_table_of_saturation_is_there():
    assert len(ROWS_OF_SATURATION) == 8


ROWS_OF_PLAUSIBILITY = re.findall(
    r"^\| (raw|rollout|flow) \| (\d) \| (0\.\d+) \[[^|]*\| (0\.\d+) \[[^|]*\| 0\.[^|]*\| 0\.", README, flags=re.M
)


@pytest.mark.shared
@pytest.mark.parametrize(("method", "layer", "auprc", "token_f1"), ROWS_OF_PLAUSIBILITY)
def test_scores_find_the_words_that_humans_marked_as_the_readme_says(method, layer, auprc, token_f1):
    path = shared_folder("data") / "fair_rationales_sst" / "SST_rationales.csv"
    rationales = evaluation.read_fair_rationales(path)
    texts = {each.id: each.text for each in rationales}
    attributor = Attributor.from_pretrained(shared_folder("models") / "minilm-sst2", dtype=torch.float32)
    scored = dict(zip(texts, attributor(list(texts.values()), method=method, layer=int(layer)), strict=True))
    options = evaluation.PlausibilityOptions(metrics=("auprc", "token_f1"))
    found = evaluation.measure_plausibility(scored, rationales, options).summaries
    means = [found[name].mean for name in options.metrics]
    np.testing.assert_allclose(means, [float(auprc), float(token_f1)], rtol=0, atol=2e-3)


def test_the_table_of_plausibility_is_there():
    assert len(ROWS_OF_PLAUSIBILITY) == 6


def test_there_are_blocks_to_run():
    assert len(blocks("python")) >= 3
    assert len(list(sessions())) >= 2


SUBJECTS = {"attributor", "inputs", "results", "scores", "scored", "measured", "firsts", "seconds", "importances"}
SUBJECTS |= {"function", "path", "rationales", "result", "graph", "attributions", "sentences", "found", "config"}


def test_public_names_and_options_are_in_the_readme():
    for name in (*attnflow_hf.__all__, *evaluation.__all__, *plot.__all__):
        assert f"`{name}" in README, f"{name} is not in the README"
    for name in inspect.signature(Attributor.__call__).parameters.keys() - {"self", "inputs"}:
        assert f"`{name}`" in README, f"option {name} is not in the README"
    for function, subject in ((run_dataset, {"dataset", "attributor", "output"}), (attach, {"pipe"})):
        for name in inspect.signature(function).parameters.keys() - subject:
            assert f"`{name}`" in README, f"option {name} of {function.__name__} is not in the README"
    for name in inspect.signature(Attributor.generate).parameters.keys() - {"self", "text"}:
        assert f"`{name}`" in README, f"option {name} of generate is not in the README"
    for name in (*evaluation.__all__, *plot.__all__):
        function = getattr(evaluation if name in evaluation.__all__ else plot, name)
        options = inspect.signature(function).parameters if inspect.isfunction(function) else ()
        for option in set(options) - SUBJECTS:
            assert f"`{option}`" in README, f"option {option} of {name} is not in the README"
    for name in OPTIONS:
        for where, text in (("README", README), ("docstring", TextAttributionPipeline.__doc__)):
            assert f"`{name}`" in text, f"option {name} of the text-attribution pipeline is not in its {where}"


def test_commands_and_their_options_are_in_the_readme():
    for name, command in get_command(app).commands.items():
        assert f"attnflow {name}" in README
        for parameter in command.params:
            for flag in getattr(parameter, "opts", []):
                assert not flag.startswith("--") or f"`{flag}`" in README, f"{name} {flag} is not in the README"


def test_each_key_of_a_config_is_in_the_readme():
    table = README.partition("### From a config")[2].partition("\n## ")[0]
    for section, keys in SECTIONS.items():
        for key in keys:
            rows = re.findall(rf"^\| `{section}` \| .*$", table, flags=re.M) if section == "options" else [table]
            name = f"{section}.{key}" if section in ("model", "dataset") else key
            assert f"`{name}`" in rows[0], f"key {section}.{key} is not in the README"


def test_each_key_of_an_evaluation_is_in_the_readme():
    table = README.partition("## How true is an attribution?")[2].partition("\n## ")[0]
    of_runs = README.partition("### From a config")[2].partition("\n## ")[0]
    for name, sections in EVALUATION_SECTIONS.items():
        for key in sections[""]:
            assert f"`{key}`" in table or f"`{key}`" in of_runs, f"key {key} of {name} is not in the README"
        for key in sections["dataset"]:
            shown = f"`dataset.{key}`"
            assert shown in table or shown in of_runs, f"key dataset.{key} of {name} is not in the README"


def test_call_options_are_those_of_options():
    call = inspect.signature(Attributor.__call__).parameters
    for name, parameter in inspect.signature(Options).parameters.items():
        assert call[name].default == parameter.default
        assert call[name].annotation == parameter.annotation


def test_the_two_commands_stand_at_the_top_and_in_ci():
    first, second = (line.removeprefix("$ ") for line in blocks("console")[0].strip().splitlines())
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert first.partition(" && ")[2] in ci
    assert all(part in ci for part in second.split(" && ")[1:])
    assert README.index("```console") < 1500


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()


def test_links_into_the_repository_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), f"README links to {target}"


def test_links_inside_the_page_lead_to_a_heading():
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S), flags=re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert targets
    assert targets <= anchors


def test_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {attnflow_hf.__version__}\n" in citation
    done = subprocess.run(
        [sys.executable, "-c", "from attnflow_hf.cli import main; main()", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == attnflow_hf.__version__

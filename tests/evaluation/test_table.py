"""Tables of results: tidy, printed as Markdown and LaTeX, saved and loaded."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from attnflow_hf.errors import FileFormatError, OptionError
from attnflow_hf.evaluation import Measured, ResultTable, summarize
from attnflow_hf.evaluation.grid import escape, n_decimals, print_number
from attnflow_hf.evaluation.table import current_versions


def row(method, layer, value, **more):
    return {"method": method, "layer": layer, "metric": "spearman", "value": value, **more}


ROWS = [
    row("raw", 1, 0.1, std=0.43, low=0.05, high=0.152, n=20, n_missing=1, missing="constant scores: 1"),
    row("raw", 0, 0.69, std=0.27, low=0.6, high=0.75, n=20),
    row("rollout", 0, 0.32, std=0.26, low=0.3, high=0.35, n=20),
    row("rollout", 1, 0.38, std=None, n=1, seconds=2, exact=True),
    row("random", None, -0.0001),
]


@pytest.fixture
def table():
    return ResultTable.from_rows(ROWS, config={"model": "tiny", "layers": [0, 1]})


def test_columns_and_types(table):
    types = dict(zip(table.data.column_names, map(str, table.data.schema.types), strict=True))
    assert list(types)[:9] == ["method", "layer", "metric", "value", "std", "low", "high", "n", "n_missing"]
    assert (types["layer"], types["value"], types["seconds"], types["exact"]) == ("int64", "double", "int64", "bool")
    assert len(table) == 5
    assert table.rows[0]["missing"] == "constant scores: 1"
    assert table.rows[1]["missing"] is None
    assert Dataset(table.data)[2]["value"] == 0.32


def test_rows_of_summaries_and_numpy_numbers():
    summary = summarize([Measured(0.5), Measured(0.7), Measured(None, "constant scores")])
    found = ResultTable.from_rows([{"method": "flow", "layer": np.int64(2), "k": np.float32(0.5), **summary.to_row()}])
    assert found.rows[0]["n_missing"] == 1
    assert (found.rows[0]["layer"], found.rows[0]["k"]) == (2, 0.5)
    nothing = ResultTable.from_rows([{"value": None, "layer": None}])
    assert [str(kind) for kind in nothing.data.schema.types] == ["int64", "double"]


def test_whole_numbers_in_a_column_of_floats():
    found = ResultTable.from_rows([{"value": 1, "x": 1}, {"value": 0.5, "x": 0.5}])
    assert found.rows == [{"value": 1.0, "x": 1.0}, {"value": 0.5, "x": 0.5}]


def test_pivot_in_markdown(table):
    assert table.where(method=["raw", "rollout"]).to_markdown(columns="layer", spread="std", best="max") == (
        "| method | layer 0 | layer 1 |\n"
        "| --- | --: | --: |\n"
        "| raw | **0.690 ± 0.270** | 0.100 ± 0.430 |\n"
        "| rollout | 0.320 ± 0.260 | **0.380** |\n"
    )


def test_pivot_with_intervals_the_lowest_marked_and_what_is_missing(table):
    printed = table.to_markdown(columns="layer", spread="interval", best="min", decimals=2)
    assert printed == (
        "| method | layer 1 | layer 0 | - |\n"
        "| --- | --: | --: | --: |\n"
        "| raw | **0.10 [0.05, 0.15]** | 0.69 [0.60, 0.75] | - |\n"
        "| rollout | 0.38 | **0.32 [0.30, 0.35]** | - |\n"
        "| random | - | - | **0.00** |\n"
    )


def test_all_that_print_the_same_as_the_best_are_marked():
    found = ResultTable.from_rows([row("a", 0, 0.50001), row("b", 0, 0.49999), row("c", 0, 0.4)])
    assert found.to_markdown(columns="layer", best="max").count("**0.500**") == 2


def test_rows_named_by_two_columns(table):
    printed = table.to_markdown(rows=["metric", "method"], columns="layer")
    assert printed.splitlines()[2] == "| spearman | raw | 0.100 | 0.690 | - |"


def test_latex(table):
    found = ResultTable.from_rows([*ROWS[:2], row("50% & more_", 0, 0.7, std=0.1)])
    assert found.to_latex(columns="layer", spread="std", best="max") == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "method & layer 0 & layer 1 \\\\\n"
        "\\midrule\n"
        "raw & 0.690 $\\pm$ 0.270 & \\textbf{0.100 $\\pm$ 0.430} \\\\\n"
        "50\\% \\& more\\_ & \\textbf{0.700 $\\pm$ 0.100} & - \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_everything_that_latex_takes_for_a_command_is_escaped():
    assert escape("a\\b{c}~^#$<>\nd") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#\$\textless{}\textgreater{} d"
    )


def test_flat_tables_print_all_rows_and_columns():
    found = ResultTable.from_rows([{"method": "a|b", "value": 1234.56, "n": 2000}, {"value": None, "x": True}])
    assert found.to_markdown() == (
        "| method | value | n | x |\n| --- | --: | --: | --- |\n| a\\|b | 1,235 | 2000 | - |\n| - | - | - | True |\n"
    )


@pytest.mark.parametrize(
    ("numbers", "decimals", "printed"),
    [
        ([0.1234, -9.9], 3, "0.123"),
        ([12.346], 2, "12.35"),
        ([-123.44, 0.1], 1, "-123.4"),
        ([1234.6], 0, "1,235"),
        ([-0.0001], 3, "0.000"),
    ],
)
def test_three_digits_of_the_largest_number(numbers, decimals, printed):
    assert n_decimals(numbers) == decimals
    assert print_number(numbers[0], decimals) == printed


def test_digits_of_nothing():
    assert n_decimals([]) == 3


def test_json_keeps_rows_types_config_and_versions(table, tmp_path):
    path = tmp_path / "results.json"
    table.save(path)
    back = ResultTable.load(path)
    assert back.data.equals(table.data)
    assert (back.config, back.versions) == ({"model": "tiny", "layers": [0, 1]}, current_versions())
    assert json.loads(path.read_text())["config"]["model"] == "tiny"
    assert re.fullmatch(r"\d+\.\d+.*", back.versions["torch"])
    assert back.to_json() == table.to_json()


def test_joined_tables(table):
    both = table.joined(ResultTable.from_rows([{"method": "flow", "value": 0.5}]))
    assert (len(both), both.rows[-1]["method"], both.rows[-1]["layer"]) == (6, "flow", None)
    assert both.config == table.config


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": [1]}], "a cell of 'x' must be a string, a number, true or false, or None; got .1."),
        ([{"value": float("nan")}], "a cell of 'value' is nan; give None for what is missing"),
        ([{"x": 1}, {"x": "a"}], "the cells of column 'x' are of several kinds: int64, string"),
        ([{"layer": "all"}], "a cell does not have the type of its column"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(OptionError, match=message):
        ResultTable.from_rows(rows)


def test_two_rows_for_one_cell(table):
    twice = table.joined(ResultTable.from_rows([row("raw", 0, 0.5, n=20) | {"metric": "kendall"}]))
    with pytest.raises(OptionError, match=r"several rows fall into the cell \('raw',\), layer 0: .* metric, value"):
        twice.to_markdown(columns="layer")
    assert twice.where(metric="kendall").to_markdown(columns="layer").count("\n") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "layers"}, "unknown column 'layers'.*did you mean 'layer'"),
        ({"columns": "layer", "rows": "model"}, "unknown column 'model'"),
        ({"columns": "layer", "spread": "sd"}, "unknown spread 'sd'"),
        ({"columns": "layer", "best": "high"}, "unknown best 'high'"),
        ({"best": "max"}, "spread, best and beside go with columns="),
    ],
)
def test_bad_print_options(table, options, message):
    with pytest.raises(OptionError, match=message):
        table.to_markdown(**options)


def test_bad_filters_and_configs(table):
    with pytest.raises(OptionError, match="unknown column 'methods'"):
        table.where(methods="raw")
    with pytest.raises(OptionError, match="config must be what JSON can hold"):
        ResultTable(table.data, {"model": pa}).to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "results.json': this is no JSON"),
        ("{}", "this is no saved table: 'attnflow_hf.ResultTable', version 1, is needed"),
        ('{"format": "attnflow_hf.ResultTable", "version": 1}', "this saved table is damaged: KeyError"),
        (
            '{"format": "attnflow_hf.ResultTable", "version": 1, "columns": {"n": "int64"}, "rows": [{"n": "x"}]}',
            "this saved table is damaged: OptionError",
        ),
        (b"\xff", "results.json'"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileFormatError, match=message):
        ResultTable.load(path)


def test_columns_beside_a_pivot_are_printed_once(table):
    costs = {"raw": 1.5, "rollout": 12.25}
    rows = [{**each, "milliseconds": costs.get(each["method"]), "memory": "a_b"} for each in ROWS]
    found = ResultTable.from_rows(rows[:4])
    beside = ("milliseconds", "memory")
    assert found.to_markdown(columns="layer", beside=beside) == (
        "| method | layer 0 | layer 1 | milliseconds | memory |\n"
        "| --- | --: | --: | --: | --- |\n"
        "| raw | 0.690 | 0.100 | 1.50 | a_b |\n"
        "| rollout | 0.320 | 0.380 | 12.25 | a_b |\n"
    )
    assert r"raw & 0.690 & 0.100 & 1.50 & a\_b \\" in found.to_latex(columns="layer", beside=beside)
    with pytest.raises(OptionError, match=r"value differs within the row \('raw',\)"):
        found.to_markdown(columns="layer", beside=["value"])
    with pytest.raises(OptionError, match="unknown column 'price'"):
        found.to_markdown(columns="layer", beside=["price"])
    with pytest.raises(OptionError, match="spread, best and beside go with columns"):
        found.to_markdown(beside=beside)


def test_a_difference_has_its_own_interval():
    rows = [
        {"method": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6}
        | {"difference": 0.125, "difference_low": 0.0, "difference_high": 0.25}
    ]
    table = ResultTable.from_rows(rows)
    for value, printed in (("difference", "0.125 [0.000, 0.250]"), ("value", "0.500 [0.400, 0.600]")):
        markdown = table.to_markdown(columns="metric", rows=["method"], value=value, spread="interval")
        assert f"| a | {printed} |" in markdown

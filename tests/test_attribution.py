"""`Attribution`: checked and frozen, words keep its mass, save and load keep every bit."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_makers import FAST, byt5, byte_bpe, wordpiece

from attnflow_hf.attribution import Attribution
from attnflow_hf.errors import ArrayError, FileFormatError, OptionError, TokenizerError
from attnflow_hf.inputs import samples_from_texts
from attnflow_hf.options import NORMALIZATIONS
from attnflow_hf.page import Page
from attnflow_hf.prediction import Prediction
from attnflow_hf.readout import normalize_scores
from attnflow_hf.storage import write_text
from attnflow_hf.tokens import Tokens

ODD = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 0.0, 2**-1074 * 3, np.nextafter(1, 2)]


def make(tokens: Tokens | None = None, **fields: Any) -> Attribution:
    """Return an attribution of random scores, of the shape that its fields ask for."""
    tokens = tokens or tokens_of("don't stop the keys")
    n, layer, position = len(tokens), fields.get("layer", 2), fields.get("output_position", 0)
    shape = (3,) * bool(layer == "all") + (n,) * (position == "all") + (n,)
    scores = np.random.default_rng(0).random(shape)
    scores.flat[: len(ODD)] = ODD[: scores.size]
    defaults = {"scores": scores, "method": "flow", "backend": "numba", "output_position": position, "layer": layer}
    return Attribution(tokens, **{**defaults, **fields})


def tokens_of(*texts: str, tokenizer: Any = None) -> Tokens:
    text = texts[0] if len(texts) == 1 else (texts[0], texts[1])
    return samples_from_texts([text], tokenizer or wordpiece(), max_length=None, truncation=False)[0].tokens


def check_equal(left: Attribution, right: Attribution) -> None:
    """Check that two attributions are equal, scores and offsets to the bit and the type."""
    for one, two in ((left, right), (left.alignment, right.alignment)):
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(two, field.name)
            if isinstance(a, np.ndarray):
                assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
            elif field.name != "alignment":
                assert (type(a), a) == (type(b), b), field.name


KINDS = {
    "vector": {},
    "matrix": {"output_position": "all"},
    "layers": {"layer": "all"},
    "layers of matrices": {"output_position": "all", "layer": "all"},
    "mean": {"output_position": "mean"},
    "pair": {"tokens": tokens_of("the keys", "caf\u00e9 \u65e5\u672c")},
    "no offsets": {"tokens": tokens_of("a \U0001f600", tokenizer=byt5())},
    "no tokenizer": {"tokens": Tokens.from_ids([5, 6, 7])},
    "byte bpe": {"tokens": tokens_of('a\tcaf\u00e9\n"quoted" \\ \u2028 \x1b[31m', tokenizer=byte_bpe())},
    "some dropped": {"tokens": tokens_of("don't stop").select(~tokens_of("don't stop").special_tokens_mask)},
    "truncated": {"tokens": dataclasses.replace(tokens_of("don't"), n_truncated=7), "notes": ("the text was cut",)},
    "class": {"prediction": Prediction("singular", 1, 1 / 3, -0.1)},
    "regression": {"prediction": Prediction("LABEL_0", 0, None, 1e-300)},
    "heads": {"head_reduction": (0, 2), "residual_weight": 1 / 3, "normalize": "none", "special_tokens": "zero"},
    "target": {
        "edge_weights": "grad_attention",
        "residual_weight": "unlimited",
        "normalize_rows": False,
        "relu": "before",
        "target": Prediction("plural", 0, 1e-7, -3.5),
    },
    "one head": {"head_reduction": 3, "model_name": "a/model"},
    "estimated": {"tokens": tokens_of("the keys"), "standard_errors": np.array([0.1, 1 / 3, 0.0, 1e-300])},
}


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_keep_every_bit(kind: str, tmp_path: Path) -> None:
    saved = make(**KINDS[kind])
    saved.save(tmp_path / "a.json")
    check_equal(saved, Attribution.load(tmp_path / "a.json"))
    check_equal(saved, Attribution.load(str(tmp_path / "a.json")))
    check_equal(saved, Attribution.from_dict(saved.to_dict()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@settings(max_examples=50, deadline=None)
@given(scores=st.lists(st.floats(0, allow_infinity=False), min_size=3, max_size=3))
def test_any_score_survives_json(scores: list[float]) -> None:
    saved = make(Tokens.from_ids([1, 2, 3]), scores=np.abs(scores))
    check_equal(saved, Attribution.from_dict(json.loads(json.dumps(saved.to_dict(), allow_nan=False))))


def test_numpy_options_can_be_saved(tmp_path: Path) -> None:
    saved = make(residual_weight=np.float32(0.5), layer=np.int64(2))
    saved.save(tmp_path / "a.json")
    loaded = Attribution.load(tmp_path / "a.json")
    assert (loaded.residual_weight, loaded.layer) == (0.5, 2)


def test_the_file_is_readable_json_in_utf8(tmp_path: Path) -> None:
    make(tokens_of("caf\u00e9")).save(tmp_path / "a.json")
    raw = (tmp_path / "a.json").read_bytes()
    assert "caf\u00e9".encode() in raw
    values = json.loads(raw)
    assert (values["format"], values["version"]) == ("attnflow_hf.Attribution", 1)
    assert values["tokens"][0] == "[CLS]"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_save_names_the_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*nowhere'$"):
        make().save(tmp_path / "nowhere" / "a.json")


def test_save_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old" * 100_000)
    make().save(path)
    check_equal(make(), Attribution.load(path))


def test_a_file_is_replaced_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    os.link(tmp_path / "a.txt", tmp_path / "opened before")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "opened before").read_text() == "old"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(tmp_path / "pipe", "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"not json", b"\x00"])
def test_a_file_that_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a\.json' is not a JSON file: "):
        Attribution.load(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}", '{"format": "other"}'])
def test_a_foreign_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"this is no saved attribution: its format is not 'attnflow_hf\.Attr"):
        Attribution.load(tmp_path / "a.json")


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(FileFormatError, match=rf"this attribution has version {version!r}; only 1 is known"):
        Attribution.from_dict({**make().to_dict(), "version": version})


LATER = {"edge_weights": "attention", "normalize_rows": True, "relu": None, "target": None, "baseline": None}
FIELDS = [f.name for f in dataclasses.fields(Attribution) if f.name != "alignment"]


def test_files_from_before_edge_weights_are_those_of_attention() -> None:
    values = {name: value for name, value in make().to_dict().items() if name not in LATER}
    loaded = Attribution.from_dict(values)
    check_equal(loaded, make())
    assert {name: getattr(loaded, name) for name in LATER} == LATER


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in LATER])
def test_a_missing_field_is_damage(name: str) -> None:
    values = make().to_dict()
    del values[name]
    with pytest.raises(FileFormatError, match=f"this saved attribution is damaged: KeyError.*{name}"):
        Attribution.from_dict(values)


DAMAGE = [
    ("scores", [1.0]),
    ("scores", None),
    ("scores", [["a"]]),
    ("scores", [[1.0], [1.0, 2.0]]),
    ("scores", "many"),
    ("tokens", ["a"]),
    ("tokens", "abcdefgh"),
    ("tokens", None),
    ("input_ids", [1.5, "a"]),
    ("input_ids", [float("inf")] * 8),
    ("input_ids", [2**70] * 8),
    ("input_ids", None),
    ("offsets", [1, 2, 3]),
    ("offsets", [[0]] * 8),
    ("word_ids", 3),
    ("texts", None),
    ("notes", None),
    ("prediction", [1]),
    ("prediction", {"label": "x"}),
    ("prediction", {"label": "x", "index": 0, "probability": None, "output": float("nan")}),
    ("special_tokens_mask", [True]),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", 5),
        ("normalize", []),
        ("layer", "x"),
        ("output_position", 1.5),
        ("input_ids", [1.7] * 9),
        ("special_tokens_mask", ["no"] * 9),
    ],
)
def test_a_field_of_another_type_is_damage(name: str, value: object) -> None:
    with pytest.raises(FileFormatError, match=f"this saved attribution is damaged: .*{name} must be"):
        Attribution.from_dict(make().to_dict() | {name: value})


@pytest.mark.parametrize("errors", [[0.1], [[0.1] * 4], [0.1, 0.1, 0.1, -0.1], [np.nan] * 4, [np.inf] * 4])
def test_standard_errors_that_do_not_fit(errors: list[Any]) -> None:
    with pytest.raises(ArrayError, match=r"standard_errors \[.*\] do not fit scores of shape \(4,\)"):
        make(tokens_of("the keys"), standard_errors=np.array(errors))


def test_standard_errors_are_copied_and_frozen() -> None:
    errors = np.full(4, 0.1)
    attribution = make(tokens_of("the keys"), standard_errors=errors)
    errors[0] = 1.0
    assert attribution.standard_errors is not None
    assert attribution.standard_errors.tolist() == [0.1] * 4
    with pytest.raises(ValueError, match="read-only"):
        attribution.standard_errors[0] = 1.0


def test_threads_may_save_to_one_path(tmp_path: Path) -> None:
    attributions = [make(layer=layer) for layer in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: each.save(tmp_path / "a.json"), attributions * 25))
    assert Attribution.load(tmp_path / "a.json").layer in range(4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_a_damaged_field_is_told(name: str, value: object) -> None:
    with pytest.raises(FileFormatError, match="this saved attribution is damaged: "):
        Attribution.from_dict({**make().to_dict(), name: value})


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", ["vector", "matrix", "layers", "layers of matrices"])
def test_words_keep_the_mass(name: str, kind: str) -> None:
    tokens = tokens_of("don't  stop \U0001f600 caf\u00e9\n", tokenizer=FAST[name]())
    attribution = make(tokens, **{key: value for key, value in KINDS[kind].items() if key != "tokens"})
    scores = np.random.default_rng(1).random(attribution.scores.shape)
    attribution = dataclasses.replace(attribution, scores=scores)
    for split in ("auto", "whitespace", "tokenizer"):
        words = attribution.to_words(split)
        assert words.scores.shape == (*scores.shape[:-1], len(words.words))
        np.testing.assert_allclose(words.scores.sum(axis=-1), scores.sum(axis=-1), rtol=1e-12, atol=0)


def test_words_worked_example() -> None:
    tokens = tokens_of("don't open")
    assert tokens.tokens == ("[CLS]", "don", "'", "t", "open", "[SEP]")
    words = make(tokens, scores=np.array([0.5, 0.125, 0.0, 0.25, 0.0625, 0.0625])).to_words()
    assert words.words == ("[CLS]", "don't", "open", "[SEP]")
    assert words.scores.tolist() == [0.5, 0.375, 0.0625, 0.0625]
    assert [part.offsets for part in words.parts] == [None, (0, 5), (6, 10), None]


def test_words_of_a_matrix_sum_input_tokens_alone() -> None:
    tokens = tokens_of("don't open")
    matrix = np.arange(36.0).reshape(6, 6)
    words = make(tokens, scores=matrix, output_position="all").to_words()
    np.testing.assert_array_equal(words.scores[:, 1], matrix[:, 1:4].sum(axis=1))
    assert words.scores.shape == (6, 4)


def test_words_need_a_tokenizer_that_knows_them() -> None:
    for kind in ("no offsets", "no tokenizer"):
        with pytest.raises(TokenizerError, match="tells neither character offsets nor word ids"):
            make(**KINDS[kind]).to_words()


def test_everything_is_frozen() -> None:
    attribution = make()
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'scores'"):
        attribution.scores = np.zeros(1)  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        attribution.scores[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        attribution.input_ids[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        Attribution.from_dict(attribution.to_dict()).scores[0] = 1.0


def test_scores_are_a_copy_that_nothing_can_change() -> None:
    mine = np.ones((2, 3))
    attribution = make(Tokens.from_ids([1, 2, 3]), scores=mine[0])
    mine[0, 0] = 5.0
    assert attribution.scores.tolist() == [1.0, 1.0, 1.0]
    assert attribution.scores.base is None, "it must not drag a larger array along"


def test_scores_of_other_types_become_float64() -> None:
    tokens = Tokens.from_ids([1, 2, 3])
    for scores in ([1, 2, 3], np.array([1, 2, 3], dtype=np.float32), np.array([1, 2, 3])):
        assert make(tokens, scores=scores).scores.dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "fields", "axes"),
    [
        ((4,), {}, 1),
        ((3, 3), {}, 1),
        ((3,), {"output_position": "all"}, 2),
        ((2, 3), {"output_position": "all"}, 2),
        ((3,), {"layer": "all"}, 2),
        ((2, 4, 3), {"output_position": "all", "layer": "all"}, 3),
        ((), {}, 1),
    ],
)
def test_scores_must_fit(shape: tuple[int, ...], fields: dict[str, Any], axes: int) -> None:
    with pytest.raises(ArrayError, match=rf"do not fit 3 tokens with {axes} axes"):
        make(Tokens.from_ids([1, 2, 3]), scores=np.ones(shape), **fields)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, r"scores must be finite, got nan at index \(1,\)"),
        (np.inf, "must be finite, got inf"),
        (-1e-9, "-1e-09"),
    ],
)
def test_scores_must_be_finite_and_not_negative(bad: float, message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        make(Tokens.from_ids([1, 2, 3]), scores=np.array([0.0, bad, 1.0]))


ROWS = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 4.0]])


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("sum", [[0.25, 0.75, 0], [0, 0, 0], [0.25, 0.25, 0.5]]),
        ("max", [[1 / 3, 1, 0], [0, 0, 0], [0.5, 0.5, 1]]),
        ("none", ROWS.tolist()),
    ],
)
def test_normalize_scores_by_row(normalize: str, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(normalize_scores(ROWS, normalize), expected, rtol=1e-15, atol=0)
    np.testing.assert_allclose(normalize_scores(np.stack([ROWS] * 2), normalize), [expected] * 2, rtol=1e-15, atol=0)
    assert ROWS[0, 1] == 3.0


def test_normalize_takes_the_smallest_scores_seriously() -> None:
    np.testing.assert_allclose(normalize_scores(np.array([1e-300, 3e-300]), "sum"), [0.25, 0.75], rtol=1e-15, atol=0)


def test_normalize_names_its_choices() -> None:
    with pytest.raises(OptionError, match="unknown normalize 'l2'; choose one of 'max', 'none', 'sum'"):
        normalize_scores(ROWS, "l2")
    assert sorted(NORMALIZATIONS) == list(NORMALIZATIONS)


@pytest.mark.parametrize("kind", ["matrix", "layers", "layers of matrices"])
def test_tables_show_one_row(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    attribution = make(**KINDS[kind])
    for show in (attribution.show, attribution.rows):
        with pytest.raises(OptionError, match="a table shows one output position and one layer"):
            show()
    assert capsys.readouterr().out == ""
    shape = str(list(attribution.scores.shape)).replace(" ", "")
    assert f"scores{shape}" in repr(attribution).replace(" ", "")


def test_show_prints_every_token_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    note = "the text was cut: 3 tokens beyond"
    scores = np.array([0.5, 0.125, 0.0, 0.25, 0.0625, 0.0625])
    attribution = make(tokens_of("don't open"), scores=scores, notes=(note,), prediction=KINDS["class"]["prediction"])
    attribution.show()
    out = capsys.readouterr().out
    assert out.startswith("flow, layer 2, output position 0 ([CLS]); prediction 'singular' (probability 0.333)\n")
    lines = [line.split()[:2] for line in out.splitlines()]
    assert [line for line in lines if line[0] in attribution.tokens] == [
        [token, f"{score:.4f}"] for token, score in zip(attribution.tokens, scores, strict=True)
    ]
    assert out.endswith(note + "\n")
    attribution.show(words=True)
    assert "don't" in capsys.readouterr().out


def test_repr_is_one_line_with_the_scores() -> None:
    attribution = make(tokens_of("don't"), scores=np.array([0.5, 0.125, 0.0, 0.25, 0.125]))
    assert repr(attribution) == "Attribution(flow, [CLS]:0.500 don:0.125 ':0.000 t:0.250 [SEP]:0.125)"


@pytest.mark.parametrize(
    ("tokens", "position", "name"),
    [
        (tokens_of("don't"), 1, "1 (don)"),
        (tokens_of("don't"), "mean", "mean"),
        (tokens_of("don't").select(np.array([False, True, True, True, False])), 0, "0"),
        (tokens_of("don't").select(np.array([False, True, True, True, False])), 2, "2 (')"),
    ],
)
def test_position_name_follows_the_tokenizers_positions(tokens: Tokens, position: Any, name: str) -> None:
    assert make(tokens, output_position=position).position_name == name


@pytest.mark.parametrize("kind", KINDS)
def test_html_has_the_attribution_to_the_last_bit(kind: str) -> None:
    attribution = make(**KINDS[kind])
    for source in (attribution.to_html(), attribution._repr_html_()):
        data = source.partition("application/json")[2].partition(">")[2].partition("</script>")[0]
        check_equal(Page.from_values(json.loads(data)).attributions[0], attribution)


def test_html_without_scripts_shows_characters() -> None:
    attribution = make(tokens_of("caf\u00e9", tokenizer=byte_bpe()))
    static = attribution.to_html().partition("application/json")[0]
    assert "\u00c3" not in static, "bytes must not show as mojibake"
    assert static.count("data-score") == len(attribution.tokens)


def test_show_works_on_any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    make().show()  # its scores are as large and as small as scores can be
    tokens = tokens_of("don't stop the keys")
    make(tokens, scores=np.linspace(0, 1, len(tokens))).show()
    assert b"keys" in written.getvalue()

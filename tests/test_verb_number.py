"""The embedded verb-number model, the grammar and the script that trained it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import yaml
from tiny_models import minilm_folder, shared_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import attnflow_hf.verb_number
from attnflow_hf.errors import OptionError
from attnflow_hf.verb_number import lexicon, train
from attnflow_hf.verb_number.batches import IGNORED, Batch, Encoded, draw_batches, find_splits, hide_tokens, pad
from attnflow_hf.verb_number.corpus import TEST_FILES, load_corpus
from attnflow_hf.verb_number.evaluate import evaluate, plural_probabilities, render_scores
from attnflow_hf.verb_number.examples import Example, cut_prefixes, held_out, inner_examples, read_examples
from attnflow_hf.verb_number.grammar import PLURAL, SINGULAR, Grammar
from attnflow_hf.verb_number.grammar_examples import grammar_examples, grammar_words, unknown_noun_examples
from attnflow_hf.verb_number.settings import Settings, load_settings
from attnflow_hf.verb_number.tokenizer import TAGS, build_tokenizer, count_words

FOLDER = Path(attnflow_hf.verb_number.__file__).parent
ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "verb_number.yaml"

# Sentences as a user types them. They are fixed here, and were not chosen by what the model says.
KNOWN = [
    ("the key to the cabinets", "singular"),
    ("the keys to the cabinet", "plural"),
    ("The key to the old wooden cabinets", "singular"),
    ("The authors that the critic likes", "plural"),
    ("The author that the critics like", "singular"),
    ("my friends and my brother", "plural"),
    ("The cat and the dog", "plural"),
    ("the zebras near the lion", "plural"),
    ("the zebra near the lions", "singular"),
    ("the boy's friends", "plural"),
    ("the boys' mother", "singular"),
    ("each of the boys", "singular"),
    ("many of the girls", "plural"),
    ("The children in the garden", "plural"),
    ("the man with the children", "singular"),
    ("She", "singular"),
    ("They", "plural"),
    ("the number of students", "singular"),
    ("a number of students", "plural"),
    ("The teacher says that the students", "plural"),
    ("When the boys sleep, the dog", "singular"),
    ("the women who love the man", "plural"),
    ("The mice near the big cat", "plural"),
    ("the NNS of the NN", "plural"),
    ("the NN of the NNS", "singular"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is slower on several threads; the script sets their number too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()


def accuracy_on(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    return evaluate(
        model, tokenizer, read_examples(shared_folder("data/linzen_agreement") / f"{name}.tsv"), name=name
    ).accuracy


def test_shipped_files_are_small_and_named_in_the_card() -> None:
    shipped = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) < 6_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        path.name for path in shipped
    }
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert all(f"| {name}.tsv | " in card for name in TEST_FILES)


def test_model_has_the_size_of_the_paper_and_loads_as_float32(model: PreTrainedModel) -> None:
    config = model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (6, 8, 128)
    assert config.id2label == {0: "singular", 1: "plural"}
    assert model.dtype == torch.float32
    assert json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"


def test_no_shipped_file_names_a_machine_path() -> None:
    for name in ("config.json", "tokenizer_config.json", "README.md"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert "/root" not in text
        assert "/tmp" not in text
        assert "name_or_path" not in text


@pytest.mark.parametrize(("text", "label"), KNOWN)
def test_known_sentences(text: str, label: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    probability = plural_probabilities(model, tokenizer, [text])[0]
    assert (probability if label == "plural" else 1 - probability) > 0.5


def test_padding_and_batches_do_not_change_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [text for text, _ in KNOWN[::3]]
    alone = [plural_probabilities(model, tokenizer, [text])[0] for text in texts]
    np.testing.assert_allclose(plural_probabilities(model, tokenizer, texts, batch_size=4), alone, atol=1e-5)


def test_held_out_grammar_sentences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    # The first held-out sentences are the same for every size of the pool.
    _, examples = grammar_examples(load_settings(CONFIG).seed, 15_000)
    assert len(examples) > 500
    assert evaluate(model, tokenizer, examples, name="grammar").accuracy >= 0.95


@pytest.mark.shared
def test_natural_sentences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert accuracy_on("natural", model, tokenizer) >= 0.92


# Tokenizer


def test_tokenizer_is_fast_and_writes_cls_but_no_sep(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == load_settings(CONFIG).max_length
    assert tokenizer.tokenize("the key", add_special_tokens=True) == ["[CLS]", "the", "key"]
    pair = tokenizer("the key", "the cabinet")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "the", "key", "[SEP]", "the", "cabinet"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "The Keys, to the  old cabinets",
        "the zebras' phosphorescences",
        "The boy's NNS don't",
        "“Élan” — naïve, 12,345 €",
    ],
)
def test_offsets_give_back_the_text(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    pieces = [text[start:end] for start, end in offsets[1:]]
    assert offsets[0] == (0, 0)
    assert "".join(pieces) == "".join(text.split())


def test_tags_keep_their_case_and_user_words_do_not(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("The NNS of PRP$ DOG") == ["the", "NNS", "of", "PRP$", "dog"]
    assert "NNS" not in tokenizer.tokenize("the nns in NNSX")
    vocabulary = tokenizer.get_vocab()
    assert all(tag in vocabulary for tag in TAGS)
    assert tokenizer("NN of a nn", add_special_tokens=False)["input_ids"][0] == vocabulary["NN"]


@pytest.mark.parametrize(("noun", "plural"), [("zebra", "zebras"), ("cupcake", "cupcakes"), ("blicket", "blickets")])
def test_unknown_words_keep_a_plural_ending(noun: str, plural: str, tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.unk_token not in tokenizer.tokenize(noun)
    assert tokenizer.tokenize(plural)[-1] == "##s"
    assert len(tokenizer.tokenize(noun)) > 1


def test_clitics_and_quotes_are_split_as_in_the_data(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("the boys' mother") == ["the", "boys", "'", "mother"]
    assert tokenizer.tokenize('the boy\u2019s "cat" doesn\'t') == ["the", "boy", "'s", "``", "cat", "''", "does", "n't"]


def test_words_of_the_grammar_are_whole_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [word for word in grammar_words() if tokenizer.tokenize(word) != [word]] == []


def test_splits_are_the_pieces_of_an_unknown_word() -> None:
    counts = count_words(["the cat cats catalog the NN"])
    assert counts == {"the": 2, "cat": 1, "cats": 1, "catalog": 1}
    small = build_tokenizer(counts, extra_words=["cats"], min_count=2, n_pieces=40, max_length=8)
    pieces = small.convert_ids_to_tokens(find_splits(small.get_vocab())[small.get_vocab()["cats"]])
    assert "".join(piece.removeprefix("##") for piece in pieces) == "cats"
    assert len(pieces) > 1


# Grammar


def test_grammar_is_deterministic_and_halves_share_no_sentence() -> None:
    first, second = grammar_examples(3, 500), grammar_examples(3, 500)
    assert first == second
    assert first != grammar_examples(4, 500)
    training, kept = first
    assert kept
    assert not {example.text for example in training} & {example.text for example in kept}
    assert 0.4 < np.mean([example.label for example in training]) < 0.6


def test_unknown_nouns_are_outside_the_grammar_and_the_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    forms = {form for noun in lexicon.UNKNOWN_NOUNS for form in (noun, lexicon.plural_of(noun))}
    assert not forms & set(grammar_words())
    assert not forms & set(tokenizer.get_vocab())
    assert unknown_noun_examples(1, 50)


@pytest.mark.parametrize(
    ("maker", "starts", "number"),
    [
        (Grammar.quantified, ("each of", "one of", "every one of", "neither of", "either of", "another of"), SINGULAR),
        (Grammar.quantified, ("many of", "both of", "several of", "a number of"), PLURAL),
        (Grammar.measured, ("the number of",), SINGULAR),
        (Grammar.measured, ("a number of", "lots of"), PLURAL),
        (Grammar.simple, ("this ", "that ", "each ", "every ", "a ", "an "), SINGULAR),
        (Grammar.simple, ("these ", "those ", "many ", "several "), PLURAL),
        (Grammar.pronoun, ("he", "she", "it"), SINGULAR),
    ],
)
def test_labels_of_constructs(maker, starts: tuple[str, ...], number: int) -> None:
    grammar = Grammar(Random(1))
    phrases = [maker(grammar) for _ in range(200)]
    chosen = [phrase for phrase in phrases if phrase.text.startswith(starts)]
    assert chosen
    assert {phrase.number for phrase in chosen} == {number}


def test_labels_that_follow_from_the_construct_alone() -> None:
    grammar = Grammar(Random(2))
    for _ in range(50):
        assert grammar.coordinated().number == PLURAL
        assert grammar.activity().number == SINGULAR
        assert grammar.mass().number == SINGULAR
        subject = grammar.simple()
        assert grammar.embedded(subject).number == grammar.opened(subject).number == subject.number


def test_number_of_a_head_is_kept_under_its_attractors() -> None:
    heads = {lexicon.plural_of(noun): PLURAL for noun in lexicon.NOUNS} | dict.fromkeys(lexicon.NOUNS, SINGULAR)
    ambiguous = {"sheep", "deer"}
    grammar = Grammar(Random(5))
    for _ in range(200):
        phrase = grammar.with_subject_clause()
        head = next(word for word in phrase.text.replace(",", "").split() if word in heads)
        if head not in ambiguous:
            assert phrase.number == heads[head], phrase


# Examples and batches


def test_inner_examples_are_cut_at_verbs_that_show_their_number() -> None:
    rows = [
        Example(0, "the man who was here says that the boys have a book"),
        Example(1, "they want to have a dog and what is"),
    ]
    found = inner_examples(rows, exclude=["the man"])
    assert Example(1, "the man who was here says that the boys") in found
    assert "they want to" not in {example.text for example in found}
    assert inner_examples(rows, exclude=[example.text for example in found]) == []


def test_cut_prefixes_end_where_a_verb_may_follow_and_avoid_what_is_excluded() -> None:
    rows = [Example(0, "the dog near the cat"), Example(1, "the dog"), Example(0, "a bird and the dog near a tree")]
    assert cut_prefixes(rows, exclude=[]) == ["a bird and the dog"]
    assert cut_prefixes(rows, exclude=["a bird and the dog"]) == []


def test_held_out_is_stable_and_of_the_asked_size() -> None:
    texts = [f"sentence {index}" for index in range(5000)]
    chosen = [held_out(text, 0.1) for text in texts]
    assert 0.08 < np.mean(chosen) < 0.12
    assert not any(held_out(text, 0.0) for text in texts)


def test_batches_hold_each_example_once() -> None:
    rows = [Encoded((2, *range(10, 10 + length)), length % 2) for length in range(1, 12)]
    batches = list(draw_batches(rows, np.random.default_rng(0), batch_size=4, splits={10: [7, 8]}, split_rate=1.0))
    pairs = [pair for each in batches for pair in zip(each.input_ids, each.attention_mask, strict=True)]
    seen = [tuple(ids[mask == 1].tolist()) for ids, mask in pairs]
    assert sorted(seen) == sorted((2, 7, 8, *row.ids[2:]) for row in rows)
    assert sum(each.targets[:, 1].sum() for each in batches) == 6


def test_hidden_tokens_are_never_cls_or_padding() -> None:
    batch: Batch = pad([Encoded((2, 10, 11), 1), Encoded((2, 10), 0.25)])
    ids, hidden = hide_tokens(batch, 1.0, torch.Generator().manual_seed(0), mask_id=4, unknown_id=1)
    assert hidden.tolist() == [[IGNORED, 10, 11], [IGNORED, 10, IGNORED]]
    assert ids[:, 0].tolist() == [2, 2]
    assert ids[1, 2] == 0
    assert {*ids[0, 1:].tolist(), int(ids[1, 1])} <= {1, 4}
    torch.testing.assert_close(batch.targets, torch.tensor([[0.0, 1.0], [0.75, 0.25]]))


def test_balanced_accuracy_is_the_mean_over_both_labels(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    # Three plural sentences that are right and a singular one that is labeled wrong on purpose: 3/4, but (1 + 0) / 2.
    examples = [Example(1, "the keys"), Example(1, "the dogs"), Example(1, "they"), Example(0, "the cats")]
    score = evaluate(model, tokenizer, examples, name="four")
    assert (score.accuracy, score.balanced_accuracy, score.plural_share) == (0.75, 0.5, 0.75)
    assert "| four | 4 | 75.0% | 75.0% | 50.0% |" in render_scores([score])


def test_evaluate_needs_examples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(OptionError, match="no examples to evaluate on in 'none'"):
        evaluate(model, tokenizer, [], name="none")


# The script


TINY = {
    "natural_rows": 20, "validation_share": 0.2, "attractor_sample": 8, "grammar_pool": 60, "grammar_sample": 8,
    "cut_pool": 12, "cut_sample": 8, "n_pieces": 60, "max_length": 48, "hidden_size": 16, "n_layers": 1, "n_heads": 2,
    "intermediate_size": 16, "teacher_epochs": 1, "teacher_grammar_sample": 4, "epochs": 1, "batch_size": 16,
}  # fmt: skip


def write_settings(folder: Path, changes: Mapping[str, object]) -> Path:
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | TINY | changes
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def write_data(folder: Path) -> Path:
    nouns = [f"{noun}{ending}" for noun in ("key", "dog", "boy", "bird", "song") for ending in ("", "s")]
    rows = [
        f"{int(noun.endswith('s'))}\tthe {noun} near a {other} that is" for noun in nouns for other in ("car", "hat")
    ]
    rows += [f"{int(noun.endswith('s'))}\tthe NN of the {noun} says that the {noun}" for noun in nouns]
    (folder / "train.tsv").write_text("\n".join(rows))
    for name in TEST_FILES:
        (folder / f"{name}.tsv").write_text("0\tthe old key\n1\tthe old keys\n")
    return folder


def test_script_trains_evaluates_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minilm_folder()
    output = tmp_path / "model"
    arguments = [str(write_settings(tmp_path, {})), "--data", str(write_data(tmp_path)), "--output", str(output)]
    assert train.main(arguments) == 0
    assert "| natural.tsv | 2 |" in capsys.readouterr().out
    assert "| natural.tsv | 2 |" in (output / "README.md").read_text(encoding="utf-8")
    saved = AutoModelForSequenceClassification.from_pretrained(output)
    assert saved.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(output).tokenize("the Key", add_special_tokens=True)[0] == "[CLS]"


def test_corpus_keeps_held_out_and_test_rows_from_training(tmp_path: Path) -> None:
    corpus = load_corpus(load_settings(write_settings(tmp_path, {})), write_data(tmp_path))
    used = {example.text for example in (*corpus.always, *corpus.attractors)} | set(corpus.cuts)
    kept = {
        example.text
        for name, examples in (corpus.validation | corpus.test).items()
        if not name.startswith("grammar")
        for example in examples
    }
    assert used
    assert kept
    assert not used & kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 3}, "unknown keys in the settings: speed; the valid keys are seed"),
        ({"epochs": None}, "the settings lack the keys epochs"),
        ({"epochs": 1.5}, "the setting epochs is 1.5; a value of type int is needed"),
        ({"dropout": True}, "the setting dropout is True; a value of type float is needed"),
        ({"dropout": -0.1}, "the setting dropout is -0.1; it must not be negative"),
        ({"encoder": 7}, "the setting encoder is 7; a value of type str is needed"),
    ],
)
def test_bad_settings(changes: Mapping[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        load_settings(write_settings(tmp_path, changes))


def test_settings_file_must_be_a_readable_mapping(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1")
    with pytest.raises(OptionError, match="holds a list; a mapping of keys to values is needed"):
        load_settings(path)
    with pytest.raises(OptionError, match=r"cannot read '.*missing\.yaml': No such file"):
        load_settings(tmp_path / "missing.yaml")


def test_each_setting_is_documented() -> None:
    documented = Settings.__doc__ or ""
    assert [field.name for field in fields(Settings) if f"        {field.name}: " not in documented] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the examples .* are empty"),
        ("1\tthe dogs\n2\tthe cat", "line 2 of .* is '2\\\\tthe cat'; 0 or 1, a tab and a prefix are needed"),
        ("1 the dogs", "line 1 of .* 0 or 1, a tab and a prefix are needed"),
        ("1\t ", "line 1 of .* 0 or 1, a tab and a prefix are needed"),
    ],
)
def test_bad_example_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(content)
    with pytest.raises(OptionError, match=message):
        read_examples(path)


def test_script_reports_bad_input_and_returns_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = write_settings(tmp_path, {})
    assert train.main([str(settings), "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "error: cannot read the examples" in capsys.readouterr().err
    data, many = write_data(tmp_path), write_settings(tmp_path, {"natural_rows": 31})
    assert train.main([str(many), "--data", str(data), "--output", str(tmp_path / "out")]) == 2
    assert "error: natural_rows is 31, but train.tsv has only 30 rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_encoder_is_named_with_its_install_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = write_settings(tmp_path, {"encoder": "no_such_encoder"})
    assert train.main([str(settings), "--data", str(write_data(tmp_path)), "--output", str(tmp_path / "out")]) == 2
    assert "'no_such_encoder' is not installed; run: pip install no-such-encoder" in capsys.readouterr().err

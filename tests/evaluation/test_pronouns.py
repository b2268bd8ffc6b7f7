import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pronoun_models import AUTHOR, MARY, id_of, known_model, model, wordpiece
from tiny_models import bert, gpt2, make, minilm_folder, shared_folder, tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import DatasetError, FileFormatError, OptionError, TextError, TokenizerError
from attnflow_hf.evaluation import (
    PronounScores,
    PronounSentence,
    measure_pronouns,
    read_pronouns,
    read_winogender,
    summarize_pronouns,
)

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("genders", "p_male", "p_female", "named"),
    [
        (("male", "female"), 0.3, 0.1, (0, "")),
        (("male", "female"), 0.1, 0.3, (1, "")),
        (("female", "male"), 0.3, 0.1, (1, "")),
        ((None, "female"), 0.1, 0.3, (1, "")),
        ((None, "female"), 0.3, 0.1, (0, "")),  # "his" cannot be Sara's
        (("male", None), 0.1, 0.3, (1, "")),
        ((None, None), 0.1, 0.3, (None, "neither candidate has a gender")),
        (("male", "male"), 0.1, 0.3, (None, "both candidates have the same gender")),
        (("male", "female"), 0.2, 0.2, (None, "both pronouns are as probable")),
    ],
)
def test_whom_the_model_names(genders, p_male, p_female, named):
    assert replace(AUTHOR, genders=genders).named(p_male=p_male, p_female=p_female) == named


def test_a_known_model_by_hand():
    """Two layers, n = 12 tokens, each row of the attention 1/n, candidates of one piece (author) and two (Sara).

    With the residual A = a + I/2, a = 1/(2 n). Raw: 1/n a piece. Rollout: of layer 0 a; of layer 1, A A has
    n a^2 + 2 a/2 = 1/(4 n) + 1/(2 n) = 3/(4 n). Flow from the mask to another token: of layer 0 a; of layer 1 a by way
    of each of the n nodes between (the narrower edge of each way is a), so 1/2.
    """
    n = 12
    found = measure_pronouns(Attributor(known_model(0.07, 0.10), wordpiece()), [AUTHOR])[0]
    np.testing.assert_allclose([found.p_male, found.p_female], [0.07, 0.10], rtol=1e-5)
    np.testing.assert_allclose(found.share_male, 7 / 17, rtol=1e-5)
    assert (found.mask_position, found.named, found.reason) == (8, 1, "")
    pieces = np.array([1, 2])
    for method, by_layer in {"raw": [1, 1], "rollout": [1 / 2, 3 / 4], "flow": [1 / 2, n / 2]}.items():
        np.testing.assert_allclose(found.scores[method], np.outer(by_layer, pieces) / n, rtol=1e-6, atol=0)
        assert [each.value for each in found.agreement(method)] == [1, 1]  # Sara's two pieces outweigh the author's one


def test_scores_that_are_tied_agree_by_half_and_no_name_is_missing():
    attributor = Attributor(known_model(0.2, 0.1), wordpiece(), batch_size=1)
    ungendered = replace(MARY, genders=(None, None))
    mary, other = measure_pronouns(attributor, [MARY, ungendered], method=["raw", "rollout"])
    assert mary.named == 1  # his: John
    assert [each.value for each in mary.agreement("rollout")] == [0.5, 0.5]
    assert [each.value for each in mary.agreement("rollout", "referent")] == [0.5, 0.5]
    assert [(each.value, each.reason) for each in other.agreement("raw")] == [(None, other.reason)] * 2
    with pytest.raises(OptionError, match="unknown method 'flow'"):
        mary.agreement("flow")


@pytest.mark.parametrize("method", ["raw", "rollout"])
def test_scores_are_those_of_the_models_own_attentions(method):
    wrapped, names = model(n_layers=3), wordpiece()
    found = measure_pronouns(Attributor(wrapped, names), [AUTHOR, MARY], method=method)
    eager = model(n_layers=3, attn_implementation="eager")
    for each, candidates in zip(found, ([[2], [5, 6]], [[1], [4]]), strict=True):
        inputs = names(each.sentence.text, return_tensors="pt")
        with torch.no_grad():
            output = eager(**inputs, output_attentions=True)
        heads = [layer[0].mean(0).double().numpy() for layer in output.attentions]
        matrices, product = [], np.eye(len(heads[0]))
        for weights in heads:
            product = (weights / 2 + np.eye(len(weights)) / 2) @ product
            matrices.append(weights if method == "raw" else product)
        rows = [matrix[each.mask_position] for matrix in matrices]
        wanted = [[row[tokens].sum() for tokens in candidates] for row in rows]
        np.testing.assert_allclose(each.scores[method], wanted, rtol=0, atol=1e-6)
        shares = output.logits[0, each.mask_position].softmax(-1)
        wanted = [float(shares[id_of("his")]), float(shares[id_of("her")])]
        np.testing.assert_allclose([each.p_male, each.p_female], wanted, rtol=1e-4, atol=0)


def test_options_and_order_of_the_sentences():
    attributor = Attributor(model(), wordpiece(), batch_size=2)
    sentences = [AUTHOR, MARY, AUTHOR, MARY]
    found = measure_pronouns(attributor, sentences, method="rollout", options=Options(residual_weight=0.9))
    assert [each.sentence for each in found] == sentences
    plain = attributor(
        MARY.text, method="rollout", layer="all", output_position=6, residual_weight=0.9, normalize="none"
    )
    np.testing.assert_allclose(found[1].scores["rollout"], plain.scores[:, [1, 4]], rtol=0, atol=1e-7)
    assert measure_pronouns(attributor, []) == []


def test_a_tokenizer_with_spaces_in_its_pieces():
    """RoBERTa's kind: the mask takes the space before it, and "his" in a sentence is the token " his"."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<unk>", "<pad>"],
        show_progress=False,
    )
    texts = [each.with_word(word) for each in (AUTHOR, MARY) for word in ("his", "her")]
    backend.train_from_iterator([*texts, "his", "her"] * 5, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    mask = AddedToken("<mask>", lstrip=True, special=True)
    spaced = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", mask_token=mask, **names)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    roberta = make("RobertaConfig", "RobertaForMaskedLM", vocab_size=len(spaced), pad_token_id=3, **sizes)
    found = measure_pronouns(Attributor(roberta, spaced), [MARY], method="raw")[0]
    inputs = spaced(MARY.with_word("<mask>"), return_tensors="pt")
    with torch.no_grad():
        shares = roberta(**inputs).logits[0, found.mask_position].softmax(-1)
    ids = [spaced.convert_tokens_to_ids(f"Ġ{word}") for word in ("his", "her")]
    np.testing.assert_allclose([found.p_male, found.p_female], shares[ids].numpy(), rtol=1e-5)


def scores(named, values, referent=None, reason=""):
    sentence = replace(MARY, referent=referent)
    return PronounScores(sentence, 0.2, 0.1, 5, {"raw": np.array(values)}, named, reason)


def test_the_table_counts_by_hand():
    found = [
        scores(0, [[0.3, 0.1], [0.1, 0.2]], "first"),
        scores(1, [[0.3, 0.1], [0.1, 0.2]], "first"),
        scores(1, [[0.2, 0.2], [0.1, 0.2]]),
        scores(0, [[0.1, 0.2 + 1e-12], [0.2, 0.2 + 1e-12]], "second"),
        scores(None, [[0.1, 0.2], [0.1, 0.2]], reason="neither candidate has a gender"),
    ]
    table = summarize_pronouns(found)
    rows = {(row["metric"], row["layer"]): row for row in table.rows}
    assert [rows["prediction", layer]["value"] for layer in (0, 1)] == [(1 + 0 + 0.5 + 0) / 4, (0 + 1 + 1 + 0.5) / 4]
    assert [rows["referent", layer]["value"] for layer in (0, 1)] == [1.0, 1 / 6]
    for (metric, _), row in rows.items():
        n, n_missing, first = (4, 1, 0.5) if metric == "prediction" else (3, 2, 2 / 3)
        assert (row["n"], row["n_missing"], row["chance"]) == (n, n_missing, 0.5)
        assert row["always_first"] == pytest.approx(first, abs=5.1e-5)
        assert row["low"] <= row["value"] <= row["high"]
    assert rows["prediction", 0]["missing"] == "neither candidate has a gender: 1"
    assert rows["referent", 0]["missing"] == "it is not known who the pronoun stands for: 2"
    assert [rows["prediction", layer]["n_tied"] for layer in (0, 1)] == [1, 1]
    exact = summarize_pronouns(found, decimals=None).where(metric="prediction", layer=1).rows[0]
    assert (exact["value"], exact["n_tied"]) == (0.5, 0)
    assert summarize_pronouns([]).rows == []


@pytest.mark.parametrize("sentence", [AUTHOR, MARY], ids=["author", "Mary"])
def test_a_sentence_is_a_row_and_back(sentence):
    assert PronounSentence.from_row(sentence.to_row()) == sentence


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": "no mask"}, TextError, r"a text with one \[MASK\] is needed"),
        ({"text": "[MASK] [MASK] author Sara"}, TextError, "a text with one"),
        ({"candidates": ("author", "Sar")}, TextError, "'Sar' must stand in the text once, but stands 0 times"),
        ({"text": "the author, an author, [MASK], Sara"}, TextError, "'author' must stand .* stands 2 times"),
        ({"genders": ("neuter", None)}, OptionError, "unknown gender 'neuter'"),
        ({"referent": "third"}, OptionError, "unknown referent 'third'"),
        ({"pronouns": ("his", "her", "their")}, OptionError, "pronouns must be a pair"),
    ],
)
def test_what_is_no_sentence(change, error, message):
    with pytest.raises(error, match=message):
        replace(AUTHOR, **change)


def test_what_is_no_row():
    with pytest.raises(OptionError, match=r"the row has no second, pronouns; it has id, text, first"):
        PronounSentence.from_row({"id": "1", "text": "[MASK] a", "first": "a"})
    with pytest.raises(OptionError, match="pronouns must be a pair"):
        PronounSentence.from_row({**AUTHOR.to_row(), "pronouns": "his"})


@pytest.mark.parametrize(
    ("wrapped", "names", "message"),
    [
        (bert, tokenizer, "pronouns are asked of a masked language model, got BertForSequenceClassification"),
        (gpt2, tokenizer, "got GPT2LMHeadModel"),
    ],
)
def test_other_models_are_refused(wrapped, names, message):
    with pytest.raises(OptionError, match=message):
        measure_pronouns(Attributor(wrapped(), names()), [AUTHOR])


def test_what_cannot_be_asked():
    attributor = Attributor(model(), wordpiece())
    with pytest.raises(OptionError, match="'theirs' is not one token"):
        measure_pronouns(attributor, [replace(AUTHOR, pronouns=("his", "theirs"))])
    with pytest.raises(OptionError, match="leave layer out"):
        measure_pronouns(attributor, [AUTHOR], options=Options(layer=1))
    with pytest.raises(OptionError, match="unknown method"):
        measure_pronouns(attributor, [AUTHOR], method="guess")
    with pytest.raises(TokenizerError, match="a tokenizer with a mask token is needed"):
        measure_pronouns(Attributor(model()), [AUTHOR])


def write_winogender(folder, template, statistics="nurse\t88.3\t89.6\t2015"):
    head = "occupation(0)\tother-participant(1)\tanswer\tsentence"
    (folder / "templates.tsv").write_text(f"{head}\n{template}\n", encoding="utf-8")
    head = "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year"
    (folder / "occupations-stats.tsv").write_text(f"{head}\n{statistics}\n", encoding="utf-8")
    return folder / "templates.tsv"


def test_winogender_is_read(tmp_path):
    path = write_winogender(tmp_path, "nurse\tpatient\t1\tThe $PARTICIPANT told a $OCCUPATION of $POSS_PRONOUN shift.")
    patient, someone = read_winogender(path)
    assert (patient.text, patient.candidates) == ("The patient told a nurse of [MASK] shift.", ("nurse", "patient"))
    assert (someone.text, someone.candidates) == ("Someone told a nurse of [MASK] shift.", ("nurse", "Someone"))
    for each in (patient, someone):
        assert (each.genders, each.pronouns, each.referent) == (("female", None), ("his", "her"), "second")
    assert [each.id for each in (patient, someone)] == ["nurse.patient.1", "nurse.someone.1"]
    assert read_winogender(path, share="bergsma", definite=0.885)[0].genders == (None, None)
    male = write_winogender(tmp_path, "nurse\tpatient\t0\tThe $OCCUPATION saw a $PARTICIPANT, and $NOM_PRONOUN ran.",
                            "nurse\t10\t30\t2015")  # fmt: skip
    assert [each.genders for each in read_winogender(male)] == [("male", None)] * 2
    assert read_winogender(male)[1].text == "The nurse saw someone, and [MASK] ran."


def test_what_is_not_winogender(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no file .*occupations-stats\.tsv"):
        read_winogender(tmp_path / "templates.tsv")
    for template in (
        "nurse\tpatient\t1\tno pronoun",
        "nurse\tpatient\t2\t$NOM_PRONOUN",
        "cook\tpatient\t0\t$NOM_PRONOUN",
    ):
        with pytest.raises(FileFormatError, match="a template needs one of"):
            read_winogender(write_winogender(tmp_path, template))
    with pytest.raises(FileFormatError, match="a percentage is needed, got 'many'"):
        read_winogender(write_winogender(tmp_path, "", "nurse\tmany\tmany\t2015"))
    path = write_winogender(tmp_path, "nurse\tpatient\t1\tThe $PARTICIPANT told a $OCCUPATION of $POSS_PRONOUN shift.")
    with pytest.raises(OptionError, match=r"definite must lie above 0\.5"):
        read_winogender(path, definite=0.5)
    with pytest.raises(FileFormatError, match=r"must be tab-separated, with occupation, bls_pct_female"):
        read_winogender(path, path)


def test_a_file_of_sentences(tmp_path):
    assert [each.id for each in read_pronouns(CONFIGS / "paper_pronouns.csv")] == ["4a", "4b"]
    path = tmp_path / "a.csv"
    header = "id,text,first,second,first_gender,second_gender,pronouns,referent"
    rows = [[*each.to_row().values()] for each in (AUTHOR, MARY)]
    path.write_text("\n".join([header, *(",".join(cell or "" for cell in row) for row in rows)]), encoding="utf-8")
    assert read_pronouns(path) == [AUTHOR, MARY]
    path.write_text(f"{header}\n,no mask,a,b,,,his/her,\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"a\.csv', line 2: a text with one \[MASK\]"):
        read_pronouns(path)
    path.write_text(f"{header}\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="holds no sentence"):
        read_pronouns(path)
    path.write_bytes(b"\xff")
    with pytest.raises(FileFormatError, match="is not a CSV file in UTF-8"):
        read_pronouns(path)
    with pytest.raises(DatasetError, match="there is no file"):
        read_pronouns(tmp_path / "b.csv")
    with pytest.raises(OptionError, match="unknown format 'tsv'"):
        read_pronouns(path, format="tsv")
    template = "nurse\tpatient\t1\tThe $PARTICIPANT told a $OCCUPATION of $POSS_PRONOUN shift."
    found = read_pronouns(write_winogender(tmp_path, template), format="winogender", definite=0.99)
    assert [each.genders for each in found] == [(None, None)] * 2


@pytest.mark.shared
def test_all_sentences_of_winogender_are_those_that_are_published():
    folder = shared_folder("data") / "winogender"
    with (folder / "all_sentences.tsv").open(encoding="utf-8") as file:
        published = {row["sentid"]: row["sentence"] for row in csv.DictReader(file, delimiter="\t")}
    sentences = read_winogender(folder / "templates.tsv")
    assert len(sentences) == 240
    for each in sentences:
        for gender, word in zip(("male", "female"), each.pronouns, strict=True):
            assert each.with_word(word) == published[f"{each.id}.{gender}.txt"]
    assert sum(each.genders[0] is not None for each in sentences) == 4 * 29


@pytest.mark.filterwarnings("ignore::attnflow_hf.errors.SaturationWarning")
def test_a_real_encoder_with_a_head_that_has_learned_nothing():
    folder = minilm_folder()
    torch.manual_seed(0)
    encoder = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = measure_pronouns(Attributor(encoder, AutoTokenizer.from_pretrained(folder)), [AUTHOR, MARY])
    assert [each.mask_position for each in found] == [7, 5]  # where the paper's own code has them
    for each in found:
        raw, rollout, flow = (each.scores[method] for method in ("raw", "rollout", "flow"))
        assert raw.shape == rollout.shape == flow.shape == (6, 2)
        np.testing.assert_allclose(flow[0], rollout[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(rollout[0], raw[0] / 2, rtol=0, atol=1e-6)
        assert (flow >= rollout - 1e-9).all()


@pytest.mark.network
def test_the_papers_first_example_has_the_probabilities_that_its_code_printed():
    attributor = Attributor.from_pretrained("bert-base-uncased")
    found = measure_pronouns(attributor, [replace(AUTHOR, text=AUTHOR.text.rstrip("."))])[0]
    np.testing.assert_allclose([found.p_male, found.p_female], [0.0700, 0.1019], rtol=0, atol=5.1e-5)
    assert (found.mask_position, found.named) == (7, 1)

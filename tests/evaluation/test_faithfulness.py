"""Each metric against a value worked by hand on a bag of words, and against BERT called on edited ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bag_of_words import bag_of_words, sigmoid
from tiny_models import bert, gpt2, tokenizer

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError, TextError, TokenizerError
from attnflow_hf.evaluation import blank_out, measure_faithfulness, summarize_faithfulness
from attnflow_hf.evaluation.erased_texts import BINS
from attnflow_hf.evaluation.faithfulness_result import METRICS

TEXT = "the key old cat"  # weights 0, 2, 1, -1: the logit is 2
SCORES = [9, 0.1, 0.4, 0.3, 0.2, 9]  # the highest are the, key, old, cat; special tokens do not count


def test_metrics_worked_by_hand() -> None:
    found = measure_faithfulness(bag_of_words(), TEXT, [9, 0.1, 0.4, 0.3, 0.2, 9], bins=(0.25, 0.3, 0.75))[0]
    # The order is key, old, cat, the. Bins have 1, 2 (rounded up) and 3 of the 4 tokens.
    # Without them: 2 - 2 = 0; 0 - 1 = -1; -1 + 1 = 0. They alone: 2; 2 + 1 = 3; 3 - 1 = 2.
    whole, without, alone = sigmoid(2), np.array([0, -1, 0]), np.array([2, 3, 2])
    np.testing.assert_allclose(found.output_value, whole, rtol=1e-12)
    np.testing.assert_allclose(
        found.comprehensiveness_of_bins, whole - np.vectorize(sigmoid)(without), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found.sufficiency_of_bins, whole - np.vectorize(sigmoid)(alone), rtol=0, atol=1e-12)
    log_odds = np.log(np.vectorize(sigmoid)(without)) - np.log(whole)
    np.testing.assert_allclose(found.log_odds_of_bins, log_odds, rtol=0, atol=1e-12)
    comprehensiveness = whole - (0.5 + sigmoid(-1) + 0.5) / 3
    np.testing.assert_allclose(found.comprehensiveness, comprehensiveness, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sufficiency, whole - (2 * sigmoid(2) + sigmoid(3)) / 3, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.log_odds, log_odds.mean(), rtol=0, atol=1e-12)
    assert (found.n_tokens, found.n_tied, found.missing, found.target.index) == (4, 0, None, 1)


def test_curves_worked_by_hand() -> None:
    found = measure_faithfulness(bag_of_words(), TEXT, [9, 0.1, 0.4, 0.3, 0.2, 9])[0]
    deletion, insertion = [2, 0, -1, 0, 0], [0, 2, 3, 2, 2]  # key, old, cat, the go; the same come
    np.testing.assert_allclose(found.fractions, [0, 0.25, 0.5, 0.75, 1], rtol=0, atol=0)
    np.testing.assert_allclose(found.deletion, [sigmoid(each) for each in deletion], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.insertion, [sigmoid(each) for each in insertion], rtol=0, atol=1e-12)
    area = (sigmoid(2) / 2 + 0.5 + sigmoid(-1) + 0.5 + 0.25) / 4
    np.testing.assert_allclose(found.deletion_area, area, rtol=0, atol=1e-12)
    area = (0.25 + sigmoid(2) + sigmoid(3) + sigmoid(2) + sigmoid(2) / 2) / 4
    np.testing.assert_allclose(found.insertion_area, area, rtol=0, atol=1e-12)


def test_as_plain_values_for_json() -> None:
    found = measure_faithfulness(bag_of_words(), TEXT, SCORES, n_points=2)[0]
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["deletion"] == found.deletion.tolist()
    assert values["sufficiency"] == found.sufficiency
    assert (values["target"]["label"], values["bins"], values["missing"]) == (found.target.label, list(BINS), None)
    nothing = measure_faithfulness(bag_of_words(), "key", "random")[0].to_dict()
    assert (nothing["sufficiency"], nothing["log_odds_of_bins"], nothing["missing"]) == (None, [None] * 5, "one token")
    json.dumps(nothing, allow_nan=False)


def test_replacements_weigh_what_they_weigh() -> None:
    found = measure_faithfulness(
        bag_of_words(), TEXT, SCORES, replacement="unk", output="logit", target=1, bins=[0.5], n_points=2
    )[0]
    # UNK weighs .25: without key and old 2 - 3 + .5 = -.5; those alone 3 + .5.
    np.testing.assert_allclose(found.comprehensiveness, 2.5, rtol=1e-12)
    np.testing.assert_allclose(found.sufficiency, -1.5, rtol=1e-12)
    np.testing.assert_allclose(found.deletion, [2, -0.5, 1], rtol=1e-12)
    np.testing.assert_allclose(found.insertion, [1, 3.5, 2], rtol=1e-12)
    assert np.isnan(found.log_odds)  # a logit has none


def test_regression_has_no_odds() -> None:
    found = measure_faithfulness(bag_of_words(num_labels=1), TEXT, SCORES, bins=[0.25])[0]
    np.testing.assert_allclose(found.comprehensiveness, 2.0, rtol=1e-12)
    assert np.isnan(found.log_odds)


def test_log_odds_where_a_probability_is_nothing() -> None:
    attributor = bag_of_words()
    with torch.no_grad():
        attributor.model.words.weight *= 1000
    found = measure_faithfulness(attributor, TEXT, SCORES, bins=[0.5], target=1)[0]
    np.testing.assert_allclose(found.log_odds, -1000, rtol=1e-12)  # log sigmoid(-1000) - log sigmoid(2000)
    np.testing.assert_allclose(found.comprehensiveness, 1, rtol=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(10, [1, 1, 1, 2, 5]), (30, [1, 2, 3, 6, 15]), (2, [1, 1, 1, 1, 1])])
def test_bins_are_rounded_up(n, expected) -> None:
    # All words weigh .5, and the logit falls by .5 for each that goes.
    scores = np.arange(n + 2, dtype=float)
    found = measure_faithfulness(bag_of_words(), " ".join(["mat"] * n), scores, output="logit", target=1)[0]
    np.testing.assert_allclose(found.comprehensiveness_of_bins, np.array(expected) / 2, rtol=1e-12)


def test_long_texts_have_a_point_for_each_step() -> None:
    text, scores = " ".join(["mat"] * 25), np.arange(27.0)
    found = measure_faithfulness(bag_of_words(), text, scores, output="logit", target=1, n_points=5)[0]
    np.testing.assert_allclose(found.fractions, [0, 0.2, 0.4, 0.6, 0.8, 1], rtol=1e-12)
    np.testing.assert_allclose(found.deletion, [12.5, 10, 7.5, 5, 2.5, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.deletion_area + found.insertion_area, 12.5, rtol=1e-12)


def test_bert_is_called_on_edited_ids() -> None:
    attributor = Attributor(bert(), tokenizer(), batch_size=3)
    texts = ["the key to old cabinets", "a mat is near"]
    rollout = attributor(texts, method="rollout")
    for text, scores, found in zip(texts, rollout, measure_faithfulness(attributor, texts, rollout), strict=True):
        ids = np.array(attributor.tokenizer(text)["input_ids"])
        inner = np.arange(1, len(ids) - 1)
        ranked = inner[np.argsort(-scores.scores[inner])]

        def probability(kept, ids=ids, index=found.target.index):
            with torch.no_grad():
                logits = attributor.model(input_ids=torch.tensor(ids[np.sort(kept)][None])).logits[0].double()
            return float(torch.softmax(logits, 0)[index])

        ends = [0, len(ids) - 1]
        counts = np.ceil(np.array([0.01, 0.05, 0.1, 0.2, 0.5]) * len(inner) - 1e-9).astype(int)
        whole = probability(np.arange(len(ids)))
        without = [probability(np.concatenate([ends, ranked[k:]])) for k in counts]
        alone = [probability(np.concatenate([ends, ranked[:k]])) for k in counts]
        np.testing.assert_allclose(found.comprehensiveness_of_bins, whole - np.array(without), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.sufficiency_of_bins, whole - np.array(alone), rtol=0, atol=1e-6)
        curve = [probability(np.concatenate([ends, ranked[k:]])) for k in range(len(inner) + 1)]
        np.testing.assert_allclose(found.deletion, curve, rtol=0, atol=1e-6)


def test_leave_one_out_is_blank_out_and_the_ceiling_of_a_bag_of_words() -> None:
    texts = ["the key old cat mat", "old mat cat on", "key key cat"]
    attributor = bag_of_words()
    ceiling = measure_faithfulness(attributor, texts, "leave_one_out", target=1)
    given = blank_out(attributor, texts, replacement="drop", target=1)
    for one, other in zip(ceiling, measure_faithfulness(attributor, texts, given, target=1), strict=True):
        np.testing.assert_allclose(one.deletion, other.deletion, rtol=0, atol=0)
    best = summarize_faithfulness(ceiling).means
    for seed in range(20):  # the logit is a sum, so no order takes more of it away
        floor = summarize_faithfulness(measure_faithfulness(attributor, texts, "random", target=1, seed=seed)).means
        assert floor["comprehensiveness"] <= best["comprehensiveness"] + 1e-12
        assert floor["deletion_area"] >= best["deletion_area"] - 1e-12
        assert floor["insertion_area"] <= best["insertion_area"] + 1e-12


def test_random_scores_are_drawn_by_the_seed() -> None:
    texts = ["the key old cat mat on a", "the key old cat mat on a"]
    first, again, other = (measure_faithfulness(bag_of_words(), texts, "random", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_allclose(first[0].deletion, again[0].deletion, rtol=0, atol=0)
    assert abs(first[0].deletion - other[0].deletion).max() > 1e-3
    assert abs(first[0].deletion - first[1].deletion).max() > 1e-3  # each text has its own


def test_texts_that_tell_nothing_are_counted_and_in_no_mean() -> None:
    texts, attributor = ["key", TEXT, "key old"], bag_of_words()
    found = measure_faithfulness(attributor, texts, [[0, 1, 0], SCORES, [0, 0.5, 0.5, 0]])
    assert [each.missing for each in found] == ["one token", None, "constant scores"]
    for each in (found[0], found[2]):
        assert all(np.isnan(getattr(each, name)) for name in METRICS)
        assert np.isfinite(each.output_value)
    summary = summarize_faithfulness(found)
    assert (summary.n_texts, summary.missing) == (3, {"one token": 1, "constant scores": 1})
    alone = measure_faithfulness(attributor, TEXT, SCORES)[0]
    for name in METRICS:
        np.testing.assert_allclose(summary.means[name], getattr(alone, name), rtol=1e-12)
        np.testing.assert_allclose(summary.deviations[name], 0, rtol=0, atol=1e-12)


def test_no_token_is_no_area() -> None:
    found = measure_faithfulness(Attributor(bert("BertForMaskedLM"), tokenizer()), "[MASK]", "leave_one_out")[0]
    assert found.missing == "no token"
    assert all(np.isnan(getattr(found, name)) for name in METRICS)
    assert np.isnan(summarize_faithfulness([found]).means["deletion_area"])
    assert summarize_faithfulness([]).n_texts == 0


def test_ties_are_counted() -> None:
    found = measure_faithfulness(bag_of_words(), [TEXT] * 3, [SCORES, [0, 1, 1, 2, 3, 0], [1] * 6])
    assert [each.n_tied for each in found] == [0, 2, 4]
    assert summarize_faithfulness(found).n_with_ties == 1  # constant scores are missing


def test_ties_of_each_text_are_drawn_anew() -> None:
    found = measure_faithfulness(bag_of_words(), [TEXT] * 12, [[0, 1, 1, 1, 2, 0]] * 12)
    assert len({tuple(each.deletion.round(9)) for each in found}) > 1


def test_a_share_that_is_a_whole_number_is_not_rounded_up() -> None:
    text, scores = " ".join(["mat"] * 25), np.arange(27.0)
    found = measure_faithfulness(bag_of_words(), text, scores, output="logit", target=1, bins=[0.28])[0]
    np.testing.assert_allclose(found.comprehensiveness, 3.5, rtol=1e-12)  # 0.28 * 25 is 7.000000000000001


def test_tokens_without_a_score_stay() -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    scores = attributor("the key to old", method="rollout", first_token="drop")
    found = measure_faithfulness(attributor, "the key to old", scores, replacement="drop")[0]
    assert found.n_tokens == 3  # and so dropping all of them leaves one


def test_dropping_everything_is_an_error_that_says_what_to_do() -> None:
    attributor = Attributor(gpt2(), tokenizer(template=""))
    with pytest.raises(TextError, match=r"leaves nothing .* replace them by 'unk', 'mask' or 'pad'"):
        measure_faithfulness(attributor, "the key to old", "random")
    found = measure_faithfulness(attributor, ["the key to old", "key"], "leave_one_out", replacement="unk")
    assert [each.missing for each in found] == [None, "one token"]
    one = measure_faithfulness(attributor, ["key"], "leave_one_out", replacement="drop")  # nothing is dropped
    assert one[0].missing == "one token"


def test_special_tokens_are_ranked_where_asked() -> None:
    found = measure_faithfulness(bag_of_words(), TEXT, SCORES, special_tokens="keep", replacement="unk")[0]
    assert (found.n_tokens, found.n_tied) == (6, 2)


def test_masked_language_models_keep_their_mask() -> None:
    attributor = Attributor(bert("BertForMaskedLM"), tokenizer())
    found = measure_faithfulness(attributor, "the [MASK] to old", "leave_one_out")[0]
    assert (found.n_tokens, found.target.position) == (3, 2)
    assert found.notes == ("the explained position 2 ([MASK]) stays as it is",)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ("best", {}, OptionError, "unknown scores 'best'"),
        ([SCORES], {}, OptionError, "scores must be one for each of 2 texts"),
        (None, {}, OptionError, "got NoneType"),
        ([SCORES, [1, 2]], {}, ArrayError, r"shape \(2,\) do not fit the text's 4 tokens"),
        ("random", {"bins": []}, OptionError, "bins must be shares"),
        ("random", {"bins": [0.0]}, OptionError, "bins must be shares"),
        ("random", {"n_points": 0}, OptionError, "n_points must be a positive integer"),
        ("random", {"output": "odds"}, OptionError, "unknown output 'odds'"),
        ("random", {"replacement": "gap"}, OptionError, "unknown replacement 'gap'"),
    ],
)
def test_what_cannot_be_measured(scores, options, error, message) -> None:
    with pytest.raises(error, match=message):
        measure_faithfulness(bag_of_words(), [TEXT, "key old"], scores, **options)


def test_a_tokenizer_that_has_no_mask() -> None:
    attributor = Attributor(bert())
    with pytest.raises(TokenizerError, match="here use 'drop'"):
        measure_faithfulness(attributor, {"input_ids": [2, 5, 6, 3]}, "random", replacement="mask")

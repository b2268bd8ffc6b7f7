"""Plausibility by hand, by scikit-learn and by enumeration; words aligned by characters; empty rationales counted."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score
from tiny_models import shared_folder

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError, TextError, TokenizerError
from attnflow_hf.evaluation import (
    PlausibilityOptions,
    Rationale,
    chance_plausibility,
    measure_plausibility,
    read_eraser_movies,
    read_fair_rationales,
)
from attnflow_hf.evaluation import plausibility_metrics as metrics
from attnflow_hf.evaluation.scored import ScoredTokens
from attnflow_hf.evaluation.word_scores import word_scores
from attnflow_hf.tokens import Tokens

TEXT = "The keys to the cabinet"


def mask_of(*marks):
    return np.array(marks, dtype=bool)


def rationale(mask, text=TEXT, id="1", annotator="0"):
    return Rationale(id, text, tuple(text.split()), mask_of(*mask), "plural", annotator)


def drawn(data, n_max=12):
    """A mask with a marked word, and scores with ties."""
    n = data.draw(st.integers(1, n_max))
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    return mask_of(*mask), np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)


def tie_breaks(scores, k):
    """Each set of k words that random order could choose, as a mask."""
    kth = sorted(scores)[-k]
    sure, tied = np.flatnonzero(scores > kth), np.flatnonzero(scores == kth)
    for more in combinations(tied, k - len(sure)):
        chosen = np.zeros(len(scores), dtype=bool)
        chosen[[*sure, *more]] = True
        yield chosen


@pytest.fixture(scope="module")
def attributor():
    return Attributor.from_pretrained()


def test_average_precision_by_hand():
    # marked at ranks 1 and 3: (1/1 + 2/3) / 2; tied at ranks 1 and 2: both recalls at precision 1/2, then 2/3
    assert metrics.average_precision(mask_of(1, 0, 1, 0), np.array([4.0, 3, 2, 1])) == pytest.approx(5 / 6, abs=1e-12)
    assert metrics.average_precision(mask_of(1, 0, 1), np.array([2.0, 2, 1])) == pytest.approx(7 / 12, abs=1e-12)


@given(data=st.data())
def test_average_precision_is_that_of_scikit_learn(data):
    mask, scores = drawn(data)
    theirs = average_precision_score(mask, scores)
    np.testing.assert_allclose(metrics.average_precision(mask, scores), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [(1,), (1, 0), (0, 1, 1), (1, 0, 0, 1, 0), (1, 1, 1)])
def test_average_precision_expected_by_chance(mask):
    orders = [np.array(order, dtype=float) for order in permutations(range(len(mask)))]
    mean = np.mean([average_precision_score(mask, order) for order in orders])
    np.testing.assert_allclose(metrics.expected_average_precision(mask_of(*mask)), mean, rtol=0, atol=1e-12)


@given(data=st.data())
def test_token_f1_and_iou_are_the_means_over_all_orders_of_ties(data):
    mask, scores = drawn(data, n_max=8)
    k = data.draw(st.integers(1, len(mask)))
    chosen = list(tie_breaks(scores, k))
    f1 = np.mean([f1_score(mask, each) for each in chosen])
    overlap = np.mean([jaccard_score(mask, each) for each in chosen])
    np.testing.assert_allclose(metrics.token_f1(mask, scores, k), f1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(metrics.iou(mask, scores, k), overlap, rtol=0, atol=1e-12)


def test_iou_f1_by_hand():
    marked = mask_of(1, 1, 0, 0, 1, 1, 1, 0)
    # chosen spans 0-1, 3, 5-7: the first is marked whole, the last shares 2 of 4 words: precision 2/3, recall 2/2
    assert metrics.span_f1(marked, mask_of(1, 1, 0, 1, 0, 1, 1, 1)) == pytest.approx(0.8, abs=1e-12)
    # one span over all: of its 8 words no marked span has more than 3
    assert metrics.span_f1(marked, mask_of(*[1] * 8)) == 0
    # half of a marked span is enough; precision 1/2, recall 1
    assert metrics.span_f1(mask_of(1, 1, 1, 1, 0), mask_of(1, 1, 0, 0, 1)) == pytest.approx(2 / 3, abs=1e-12)
    assert metrics.span_f1(mask_of(0, 1), mask_of(1, 0)) == 0


def test_iou_f1_of_ties_is_near_the_mean_over_all_orders():
    mask, scores = mask_of(1, 1, 0, 0, 1, 0), np.array([2.0, 1, 1, 1, 1, 0])
    exact = np.mean([metrics.span_f1(mask, each) for each in tie_breaks(scores, 3)])
    found = metrics.iou_f1(mask, scores, 3, seed=0)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.2)  # of 32 orders, with a spread of 0.35
    assert found == metrics.iou_f1(mask, scores, 3, seed=0)
    assert found != metrics.iou_f1(mask, scores, 3, seed=1)
    assert metrics.iou_f1(mask, np.array([2.0, 2, 1, 1, 1, 0]), 5) == metrics.span_f1(mask, mask_of(1, 1, 1, 1, 1, 0))


def test_scores_in_the_order_of_marks_are_perfect():
    found = measure_plausibility({"1": [0, 5, 1, 0, 4]}, [rationale([0, 1, 0, 0, 1])])
    assert {name: each.mean for name, each in found.summaries.items()} == dict.fromkeys(metrics.METRICS, 1.0)


def test_share_chooses_how_many_words():
    scores, marks = {"1": [5, 4, 3, 2, 1]}, [rationale([1, 0, 0, 0, 0])]
    for share, f1 in ((None, 1.0), (0.4, 2 / 3), (0.01, 1.0), (1.0, 1 / 3)):
        found = measure_plausibility(scores, marks, PlausibilityOptions(share=share, metrics=("token_f1",)))
        np.testing.assert_allclose(found.summaries["token_f1"].mean, f1, rtol=0, atol=1e-12)


def test_annotators_each_and_majority():
    masks = [(1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (0, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 1, 0, 0, 0)]
    marks = [rationale(mask, annotator=str(i)) for i, mask in enumerate(masks)]
    scores = {"1": [1, 2, 0, 0, 0]}
    each = measure_plausibility(scores, marks, PlausibilityOptions(metrics=("auprc",)))
    # against word 0 alone, at rank 2, 1/2; against words 0 and 1 all of 1; the empty one has no value
    assert (each.summaries["auprc"].mean, each.summaries["auprc"].n) == (3.5 / 4, 1)
    assert (each.n_rationales, each.n_empty) == (5, 1)
    np.testing.assert_allclose(each.share_marked, (0.2 + 3 * 0.4) / 4, rtol=1e-12)
    most = measure_plausibility(scores, marks, PlausibilityOptions("majority", ("auprc",)))
    assert (most.summaries["auprc"].mean, most.n_rationales, most.n_empty) == (1.0, 1, 0)
    assert "annotators: majority; rationales: 1, of them empty: 0" in str(most)


def test_empty_rationales_are_missing_and_counted():
    marks = [rationale([0] * 5), rationale([1, 0, 0, 0, 0], id="2")]
    found = measure_plausibility({"1": [1, 2, 3, 4, 5], "2": [5, 1, 1, 1, 1]}, marks)
    for summary in found.summaries.values():
        assert (summary.n, summary.mean, summary.missing) == (1, 1.0, (("empty rationale", 1),))
    rows = found.to_rows(method="rollout", layer=5)
    assert [row["metric"] for row in rows] == list(metrics.METRICS)
    assert (rows[0]["method"], rows[0]["n_empty"], rows[0]["n_missing"]) == ("rollout", 1, 1)
    alone = measure_plausibility({"1": [1, 2, 3, 4, 5]}, marks[:1])
    assert (alone.share_marked, alone.summaries["auprc"].mean) == (None, None)


def test_chance_is_the_mean_over_random_orders():
    marks = [rationale([1, 0, 0, 1, 0]), rationale([0, 1, 0, 0, 0], id="2", text="a b c d e f".rpartition(" ")[0])]
    options = PlausibilityOptions()
    orders = [np.array(order, dtype=float) for order in permutations(range(5))]
    found = chance_plausibility(marks, options)
    many = [measure_plausibility({"1": order, "2": order}, marks, options) for order in orders]
    for name in metrics.METRICS:
        mean = np.mean([each.summaries[name].mean for each in many])
        tolerance = 0.15 if name == "iou_f1" else 1e-12  # the mean over 32 orders, of a spread of 0.4, of two texts
        np.testing.assert_allclose(found.summaries[name].mean, mean, rtol=0, atol=tolerance)


def test_word_scores_are_those_of_to_words_without_special_tokens(attributor):
    text = "The zebras  near\tthe author's (old) cabinets ."
    a = attributor(text, method="rollout")
    found = word_scores(a, rationale([0] * 8, text))
    summed = a.to_words()
    expected = [score for part, score in zip(summed.parts, summed.scores, strict=True) if not part.is_special]
    np.testing.assert_array_equal(found, expected)
    assert len(a.tokens) > len(found) == 8


def test_words_that_differ_are_aligned_by_their_characters():
    # the tokenizer's side has "do n't", the annotated text "don't"; white space differs too
    tokens = Tokens(
        np.arange(4), ("do", "n't", "go", "[SEP]"), mask_of(0, 0, 0, 1), np.arange(4),
        offsets=np.array([[0, 2], [3, 6], [8, 10], [0, 0]]), texts=("do n't  go",),
    )  # fmt: skip
    scored = ScoredTokens(tokens, np.array([1.0, 2.0, 4.0, 8.0]))
    marks = rationale([1, 0], "don't go")
    for reduction, expected in (("sum", [3, 4]), ("max", [2, 4]), ("mean", [1.5, 4])):
        np.testing.assert_array_equal(word_scores(scored, marks, word_reduction=reduction), expected)
    with pytest.raises(TokenizerError, match="the tokenizer's 'go' spans several words of rationale '1': 'g o'"):
        word_scores(scored, rationale([1, 0, 0], "don't g o"))
    with pytest.raises(TextError, match="another text than rationale '1': word 1 is \"n't\", in the rationale 'not'"):
        word_scores(scored, rationale([1, 0, 0], "do not go"))
    with pytest.raises(TextError, match="it has 3 words, the rationale 4"):
        word_scores(scored, rationale([1, 0, 0, 0], "do n't go ."))


def cut_attribution(attributor, n_words=40):
    """The first tokens of a text, as a model that is too short for it would see them."""
    text = " ".join(["the old key"] * n_words)
    full = attributor(text, method="rollout")
    keep = full.special_tokens_mask | (full.positions < 20)
    tokens = full.alignment.select(keep)
    return text, ScoredTokens(replace(tokens, n_truncated=int((~keep).sum())), full.scores[keep])


def test_words_behind_the_cut_of_a_long_text(attributor):
    text, scored = cut_attribution(attributor, 10)
    marks = rationale([1] * 2 + [0] * 27 + [1], text)
    n_seen = 19
    with pytest.raises(TextError, match=f"cut to the model's length: {30 - n_seen} of its 30 words have no score"):
        word_scores(scored, marks)
    assert len(word_scores(scored, marks, beyond="drop")) == n_seen
    options = PlausibilityOptions(beyond="drop")
    found = measure_plausibility({"1": scored}, [marks], options)
    assert found.n_dropped_words == 30 - n_seen
    np.testing.assert_allclose(found.share_marked, 2 / n_seen, rtol=1e-12)
    chance = chance_plausibility([marks], options, scored={"1": scored})
    expected = metrics.expected_average_precision(marks.mask[:n_seen])
    assert chance.summaries["auprc"].mean == pytest.approx(expected, abs=1e-12)


def test_a_rationale_behind_the_cut_is_empty(attributor):
    text, scored = cut_attribution(attributor, 10)
    found = measure_plausibility({"1": scored}, [rationale([0] * 29 + [1], text)], PlausibilityOptions(beyond="drop"))
    assert (found.n_empty, found.summaries["auprc"].missing) == (1, (("empty rationale", 1),))


def test_what_cannot_be_aligned(attributor):
    a = attributor(TEXT, method="rollout", special_tokens="drop")
    gap = ScoredTokens(a.alignment.select(a.positions != 2), a.scores[a.positions != 2])
    with pytest.raises(TextError, match="no token stands for word 1 of rationale '1', 'keys'"):
        word_scores(gap, rationale([1, 0, 0, 0, 0]))
    end = ScoredTokens(a.alignment.select(a.positions < 5), a.scores[a.positions < 5])
    with pytest.raises(TextError, match="no token stands for word 4 of rationale '1', 'cabinet'"):
        word_scores(end, rationale([1, 0, 0, 0, 0]), beyond="drop")
    cut = ScoredTokens(replace(gap.alignment, n_truncated=1), gap.scores)
    with pytest.raises(TextError, match="no token stands for word 1 of rationale '1', 'keys'"):
        word_scores(cut, rationale([1, 0, 0, 0, 0]), beyond="drop")
    with pytest.raises(TokenizerError, match="words are found by character offsets in one text"):
        word_scores(attributor(("the key", "the cat"), method="raw"), rationale([1, 0, 0, 0, 0]))
    with pytest.raises(ArrayError, match=r"a score for each of the 5 words of rationale '1', got shape \(3,\)"):
        word_scores([1, 2, 3], rationale([1, 0, 0, 0, 0]))
    with pytest.raises(ArrayError, match="scores must be finite, got nan"):
        word_scores([1, 2, 3, 4, float("nan")], rationale([1, 0, 0, 0, 0]))
    with pytest.raises(ArrayError, match=r"one score for each token is needed, \[token\], got shape \(6, 6\)"):
        word_scores(attributor(TEXT, method="raw", layer="all"), rationale([1, 0, 0, 0, 0]))


def test_bad_calls():
    with pytest.raises(OptionError, match="there are no rationales to compare with"):
        measure_plausibility({}, [])
    with pytest.raises(OptionError, match="there are rationales of text '1', but no scores"):
        measure_plausibility({"2": [1]}, [rationale([1, 0, 0, 0, 0])])
    with pytest.raises(ArrayError, match="no word is marked"):
        metrics.measure("auprc", mask_of(0, 0), np.zeros(2), 1, 0)
    with pytest.raises(ArrayError, match=r"scores of shape \(3,\) do not fit a mask of shape \(2,\)"):
        metrics.measure("auprc", mask_of(0, 1), np.zeros(3), 1, 0)
    with pytest.raises(OptionError, match="k must lie from 1 to the number of words, 2, got 3"):
        metrics.token_f1(mask_of(0, 1), np.zeros(2), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annotators": "all"}, "unknown annotators 'all'; choose one of 'each', 'majority'"),
        ({"metrics": ("auc",)}, "unknown metric 'auc'"),
        ({"word_reduction": "min"}, "unknown word_reduction 'min'"),
        ({"beyond": "zero"}, "unknown beyond 'zero'; choose one of 'drop', 'error'"),
        ({"share": 0}, "share must lie above 0 and up to 1, or be None, got 0"),
        ({"seed": "x"}, "seed must be an integer from 0 on, got 'x'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        PlausibilityOptions(**options)


@pytest.mark.shared
def test_rationales_of_sst_are_found_better_than_by_chance():
    folder = shared_folder("models") / "minilm-sst2"
    attributor = Attributor.from_pretrained(folder, dtype=torch.float32)
    every = read_fair_rationales(shared_folder("data") / "fair_rationales_sst" / "SST_rationales.csv")
    texts = dict(list({each.id: each.text for each in every}.items())[:40])
    marks = [each for each in every if each.id in texts]
    raw = attributor(list(texts.values()), method="raw")
    found = measure_plausibility(dict(zip(texts, raw, strict=True)), marks)
    chance = chance_plausibility(marks)
    assert (found.summaries["auprc"].n, found.n_rationales) == (40, 240)
    for name in ("auprc", "token_f1", "iou"):
        assert found.summaries[name].low > chance.summaries[name].high


@pytest.mark.shared
def test_a_long_review_is_compared_up_to_its_cut():
    attributor = Attributor.from_pretrained(shared_folder("models") / "minilm-sst2", dtype=torch.float32)
    review = read_eraser_movies(shared_folder("data") / "eraser_movies" / "test.jsonl")[0]
    a = attributor(review.text, method="raw", truncation=True)
    options = PlausibilityOptions(beyond="drop", metrics=("auprc",))
    found = measure_plausibility({review.id: a}, [review], options)
    assert 0 < found.n_dropped_words < len(review.words)
    assert 0 < found.summaries["auprc"].mean < 1

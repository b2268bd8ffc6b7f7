"""Rank correlations by hand and as SciPy has them; what is undefined is missing."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from attnflow_hf import Attributor
from attnflow_hf.errors import ArrayError, OptionError
from attnflow_hf.evaluation import Agreement, layer_rows, rank_agreement
from attnflow_hf.evaluation.agreement import kendall, spearman
from attnflow_hf.tokens import Tokens

THEIRS = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}
OURS = {"spearman": spearman, "kendall": kendall}
LEFT = np.array([True, True, False, False])


@dataclass(frozen=True)
class Importance:
    """What the metrics need of an importance, and no more."""

    alignment: Tokens
    scores: np.ndarray


def importance(scores, special=None, ids=None):
    scores = np.asarray(scores, dtype=float)
    n = scores.shape[-1]
    mask = np.zeros(n, dtype=bool) if special is None else np.array(special, dtype=bool)
    ids = list(range(n)) if ids is None else ids
    return Importance(Tokens.from_ids(ids, special_tokens_mask=mask), scores)


@pytest.fixture(scope="module")
def attributor():
    return Attributor.from_pretrained()


def test_spearman_by_hand():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4 about 2.5: products 2.25 + 0 + 0 + 2.25; squares 4.5 and 5
    found = Agreement("spearman", "keep").of([0.1, 0.2, 0.2, 0.9], [1, 2, 3, 4])
    np.testing.assert_allclose(found.value, 4.5 / np.sqrt(4.5 * 5), rtol=1e-12)


def test_kendall_by_hand():
    # of the 6 pairs one is tied in the first; of the other 5, (0, 1) and (0, 2) and (0, 3) agree, (1, 3) and (2, 3) not
    found = Agreement("kendall", "keep").of([0.1, 0.5, 0.5, 0.9], [1, 3, 4, 2])
    np.testing.assert_allclose(found.value, (3 - 2) / np.sqrt(5 * 6), rtol=1e-12)


@pytest.mark.parametrize("statistic", OURS)
@given(data=st.data())
def test_as_scipy_with_ties(statistic, data):
    n = data.draw(st.integers(2, 12))
    few = st.lists(st.integers(-2, 2).map(float), min_size=n, max_size=n).filter(lambda scores: len(set(scores)) > 1)
    first, second = np.array(data.draw(few)), np.array(data.draw(few))
    ours, theirs = OURS[statistic](first, second), THEIRS[statistic](first, second).statistic
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("statistic", OURS)
def test_as_scipy_on_many_tokens(statistic):
    rng = np.random.default_rng(0)
    first, second = rng.random(700), rng.integers(0, 30, size=700).astype(float)
    ours, theirs = OURS[statistic](first, second), THEIRS[statistic](first, second).statistic
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("statistic", OURS)
def test_monotone_functions_change_nothing(statistic):
    first, second = np.random.default_rng(1).random((2, 20))
    how = Agreement(statistic, "keep")
    np.testing.assert_allclose(how.of(first, np.exp(second)).value, how.of(first, second).value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(how.of(first, -first).value, -1, rtol=0, atol=1e-12)
    assert how.of(first, first).value == 1


@pytest.mark.parametrize("function", OURS.values())
def test_constant_scores_have_no_rank_correlation(function):
    assert np.isnan(function(np.ones(3), np.arange(3.0)))
    assert np.isnan(function(np.arange(3.0), np.ones(3)))


@pytest.mark.parametrize("statistic", OURS)
def test_undefined_is_missing_and_not_zero(statistic):
    pairs = [([0.5], [0.1]), ([0.2, 0.2], [0.1, 0.3]), ([0.1, 0.2], [0.3, 0.3]), ([], []), ([1, 2], [1, 2])]
    found = rank_agreement(*zip(*pairs, strict=True), special_tokens="keep", statistic=statistic)
    assert found.missing == (("constant scores", 2), ("fewer than two tokens", 2))
    assert (found.n, found.mean) == (1, 1.0)


def test_special_tokens_in_or_out():
    first = importance([9, 1, 2, 3, 8], special=[1, 0, 0, 0, 1])
    second = importance([0, 4, 5, 6, 1], special=[1, 0, 0, 0, 1])
    assert Agreement("spearman", "drop").of(first, second).value == 1
    # ranks 5 1 2 3 4 against 1 3 4 5 2: squared differences 16 4 4 4 4; 1 - 6 * 32 / (5 * 24)
    np.testing.assert_allclose(Agreement("spearman", "keep").of(first, second).value, 1 - 1.6, rtol=1e-12)
    assert Agreement("spearman", "drop").of(first.scores, second).value == 1
    assert Agreement("spearman", "drop").of(first, second.scores).value == 1


def test_a_sentence_of_one_word_has_no_value_without_its_special_tokens():
    one = importance([9, 1, 8], special=[1, 0, 1])
    assert Agreement("spearman", "drop").of(one, one).reason == "fewer than two tokens"
    assert Agreement("spearman", "keep").of(one, one).value == 1


def test_decimals_tie_what_differs_in_the_last_bits():
    noisy, other = np.array([0.5, 0.5 + 1e-15, 0.5 - 1e-15]), np.array([1.0, 2.0, 3.0])
    assert Agreement("spearman", "keep").of(noisy, other).value == -0.5
    assert Agreement("spearman", "keep", decimals=9).of(noisy, other).reason == "constant scores"


def test_rows_of_all_layers(attributor):
    texts = ["the key to the cabinets", "The zebras near the old author"]
    every = attributor(texts, method="rollout", layer="all")
    gradients = [importance(np.arange(len(a.tokens)) % 3, a.special_tokens_mask, a.input_ids) for a in every]
    rows = layer_rows(every, gradients, special_tokens="drop", importance="by hand")
    assert [(row["layer"], row["metric"]) for row in rows] == [
        (layer, name) for layer in range(6) for name in ("spearman", "kendall")
    ]
    assert {(row["method"], row["importance"], row["special_tokens"], row["n"]) for row in rows} == {
        ("rollout", "by hand", "drop", 2)
    }
    for row in rows:
        keep = [~a.special_tokens_mask for a in every]
        values = [
            THEIRS[row["metric"]](a.scores[row["layer"]][k], g.scores[k]).statistic
            for a, g, k in zip(every, gradients, keep, strict=True)
        ]
        np.testing.assert_allclose([row["value"], row["std"]], [np.mean(values), np.std(values)], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], [1, 2, 3], "scores of 2 and of 3 tokens cannot be compared"),
        ([[1, 2]], [[1, 2]], r"one score for each token is needed, \[token\], got shape \(1, 2\)"),
        ([1, float("nan")], [1, 2], r"scores must be finite, got nan at index \(1,\)"),
        (importance([1, 2]), importance([1, 2], ids=[0, 7]), "different tokens: number 1 is '1' .* and '7'"),
    ],
)
def test_what_cannot_be_compared(first, second, message):
    with pytest.raises(ArrayError, match=message):
        Agreement("spearman", "keep").of(first, second)


def test_the_same_words_at_other_places_are_other_tokens(attributor):
    a = attributor("the key the key", method="raw", special_tokens="drop")
    first, last = (replace(a, alignment=a.alignment.select(keep), scores=a.scores[keep]) for keep in (LEFT, ~LEFT))
    assert first.tokens == last.tokens
    with pytest.raises(ArrayError, match=r"number 0 is 'the' \(position 1\) in one and 'the' \(position 3\) in the"):
        Agreement("spearman", "keep").of(first, last)


def test_arrays_do_not_tell_their_special_tokens():
    with pytest.raises(OptionError, match="arrays do not tell which tokens are special"):
        Agreement("spearman", "drop").of([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "spearmann"}, "unknown statistic 'spearmann'.*did you mean 'spearman'"),
        ({"special_tokens": "zero"}, "unknown special_tokens 'zero'; choose one of 'drop', 'keep'"),
        ({"decimals": 1.5}, "decimals must be an integer or None, got 1.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        Agreement(**{"statistic": "spearman", "special_tokens": "keep", **options})


def test_bad_lists(attributor):
    with pytest.raises(ArrayError, match="there are 1 scorings but 2 others"):
        rank_agreement([[1, 2]], [[1, 2], [2, 1]], special_tokens="keep")
    with pytest.raises(OptionError, match="attributions of one method, got no attributions"):
        layer_rows([], [], special_tokens="keep")
    one = attributor("the key", method="raw")
    with pytest.raises(OptionError, match=r"scores of all layers are \[layer, token\], got shape \(3,\)"):
        layer_rows([one], [one], special_tokens="keep")
    matrix = attributor("the key", method="raw", output_position="all")
    with pytest.raises(OptionError, match="attribute with layer='all' and one output position"):
        layer_rows([matrix], [one], special_tokens="keep")
    both = [attributor("the key", method=method, layer="all") for method in ("raw", "rollout")]
    with pytest.raises(OptionError, match="attributions of one method, got raw, rollout"):
        layer_rows(both, [one, one], special_tokens="keep")

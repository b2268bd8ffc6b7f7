"""Means, standard deviations and intervals over sentences; what is missing is counted and never 0."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from attnflow_hf.errors import ArrayError, OptionError
from attnflow_hf.evaluation import Bootstrap, Measured, summarize


def of_values(values, **options):
    return summarize([Measured(float(value)) for value in values], bootstrap=Bootstrap(**options))


def test_by_hand():
    # of 1, 2, 6: mean 3; deviations -2, -1, 3, whose squares sum to 14
    found = of_values([1, 2, 6])
    assert (found.n, found.n_missing, found.mean) == (3, 0, 3.0)
    np.testing.assert_allclose(found.std, np.sqrt(14 / 3), rtol=1e-12)
    assert 1 <= found.low < 3 < found.high <= 6


def test_missing_values_are_counted_by_reason_and_are_no_zeros():
    measured = [Measured(None, "constant"), Measured(0.5), Measured(None, "short"), Measured(None, "constant")]
    found = summarize(measured)
    assert (found.n, found.mean, found.std, found.low, found.high) == (1, 0.5, None, None, None)
    assert found.missing == (("constant", 2), ("short", 1))
    assert found.n_missing == 3
    assert found.to_row()["missing"] == "constant: 2; short: 1"
    assert str(found) == "0.500; n = 1, 2 missing (constant), 1 missing (short)"


def test_nothing_at_all():
    found = summarize([Measured(None, "short")])
    assert (found.n, found.mean, str(found)) == (0, None, "no value; n = 0, 1 missing (short)")
    assert summarize([]).to_row()["value"] is None


def test_interval_is_that_of_scipy():
    values = np.random.default_rng(3).normal(size=60)
    options = {"n_resamples": 20000, "confidence_level": 0.9, "method": "percentile", "rng": 1}
    theirs = scipy_bootstrap((values,), np.mean, **options).confidence_interval
    found = of_values(values, n_resamples=20000, level=0.9)
    # the ends of two random samples of 20,000 means, whose spread is 0.12, differ by some 0.002
    np.testing.assert_allclose([found.low, found.high], [theirs.low, theirs.high], rtol=0, atol=0.008)


def test_interval_depends_on_the_seed_alone_and_not_on_chunks(monkeypatch):
    values = np.random.default_rng(0).random(50)
    first = of_values(values, n_resamples=300)
    assert first == of_values(values, n_resamples=300)
    assert first.low != of_values(values, n_resamples=300, seed=1).low
    monkeypatch.setattr("attnflow_hf.evaluation.summary._CHUNK", 120)
    assert first == of_values(values, n_resamples=300)


def test_wider_level_gives_wider_interval():
    values = np.random.default_rng(0).random(50)
    narrow, wide = of_values(values, level=0.5), of_values(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (narrow.level, wide.n_resamples) == (0.5, 2000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_resamples": 0}, "n_resamples must be a positive integer, got 0"),
        ({"level": 95}, "level must lie between 0 and 1, as 0.95 does; got 95"),
        ({"seed": -1}, "seed must be an integer from 0 on, got -1"),
    ],
)
def test_bad_bootstraps(options, message):
    with pytest.raises(OptionError, match=message):
        Bootstrap(**options)


def test_bad_measurements():
    with pytest.raises(OptionError, match="give a value, or a reason why there is none; got None and ''"):
        Measured(None)
    with pytest.raises(OptionError, match=r"got 0\.5 and 'short'"):
        Measured(0.5, "short")
    with pytest.raises(ArrayError, match="the value must be finite, got nan"):
        Measured(float("nan"))

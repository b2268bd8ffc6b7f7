"""Which keys each block of queries is given, and which samples stand together, in worked examples."""

import weakref

import pytest
import torch

from attnflow_hf.attention_function import Recorder
from attnflow_hf.query_blocks import MOST_WEIGHTS, QueryBlocks, queries_of, sample_groups, samples_of

LOWEST = torch.finfo(torch.float32).min


def as_mask(rows, *, kind=LOWEST):
    """A mask `[1, 1, query, key]` out of rows of ones and zeros; additive with `kind` for hidden keys, or boolean."""
    seen = torch.tensor(rows, dtype=torch.bool)[None, None]
    return seen if kind is bool else torch.zeros(seen.shape).masked_fill(~seen, kind)


def causal(n, window=None):
    return [[int(key <= query and (window is None or key > query - window)) for key in range(n)] for query in range(n)]


def cut(size, mask, *, n_queries=None, n_keys=None, **named):
    """The blocks as pairs of ranges: queries from and to, keys from and to."""
    n_queries, n_keys = n_queries or mask.shape[-2], n_keys or mask.shape[-1]
    blocks = QueryBlocks(size).of(n_queries, n_keys, mask, named)
    return [(rows.start, rows.stop, keys.start, keys.stop) for rows, keys in blocks]


@pytest.mark.parametrize("kind", [LOWEST, float("-inf"), bool])
def test_a_causal_mask_leaves_out_the_later_keys(kind):
    assert cut(2, as_mask(causal(5), kind=kind)) == [(0, 2, 0, 2), (2, 4, 0, 4), (4, 5, 0, 5)]


@pytest.mark.parametrize("kind", [LOWEST, float("-inf"), bool])
def test_a_sliding_window_leaves_out_the_earlier_keys_too(kind):
    assert cut(2, as_mask(causal(6, window=2), kind=kind)) == [(0, 2, 0, 2), (2, 4, 1, 4), (4, 6, 3, 6)]


def test_half_precision_masks_are_read_by_their_own_lowest_number():
    mask = as_mask(causal(4)).clamp(min=torch.finfo(torch.float16).min).half()
    assert cut(2, mask) == [(0, 2, 0, 2), (2, 4, 0, 4)]


def test_padding_in_front_and_behind_is_left_out():
    assert cut(2, as_mask([[0, 1, 1, 0]] * 4)) == [(0, 2, 1, 3), (2, 4, 1, 3)]


def test_a_hole_between_visible_keys_is_kept():
    assert cut(2, as_mask([[0, 1, 0, 1, 0]] * 4)) == [(0, 2, 1, 4), (2, 4, 1, 4)]


@pytest.mark.parametrize("kind", [LOWEST, float("-inf"), bool])
def test_a_block_with_a_query_that_sees_nothing_keeps_all_keys(kind):
    rows = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]  # padding on the left
    assert cut(2, as_mask(rows, kind=kind)) == [(0, 2, 0, 4), (2, 4, 1, 4)]


def test_a_query_that_sees_nothing_in_one_row_of_the_batch_keeps_all_keys():
    full, padded = as_mask(causal(4)), as_mask([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]])
    assert cut(2, torch.cat([full, padded])) == [(0, 2, 0, 4), (2, 4, 0, 4)]


def test_rows_and_heads_of_a_batch_see_together_what_one_of_them_sees():
    first, second = as_mask([[1, 1, 0, 0]] * 2), as_mask([[0, 0, 1, 0]] * 2)
    assert cut(1, torch.cat([first, second])) == [(0, 1, 0, 3), (1, 2, 0, 3)]
    assert cut(1, torch.cat([first, second], dim=1)) == [(0, 1, 0, 3), (1, 2, 0, 3)]


def test_a_bias_in_the_mask_hides_no_key():
    mask = as_mask(causal(4)) + 3 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert cut(2, mask) == [(0, 2, 0, 2), (2, 4, 0, 4)]
    assert cut(2, torch.full((1, 2, 4, 4), -1e4)) == [(0, 2, 0, 4), (2, 4, 0, 4)]


def test_without_a_mask_all_keys_are_kept():
    assert cut(2, None, n_queries=3, n_keys=3) == [(0, 2, 0, 3), (2, 3, 0, 3)]


def test_with_a_bias_argument_all_keys_are_kept():
    mask = as_mask(causal(4))
    assert cut(2, mask, position_bias=torch.zeros(1, 2, 4, 4)) == [(0, 2, 0, 4), (2, 4, 0, 4)]
    assert cut(2, mask, scaling=0.5, position_ids=torch.zeros(1, 4)) == [(0, 2, 0, 2), (2, 4, 0, 4)]


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 1, 4, 5), (4, 4)])
def test_masks_of_another_shape_leave_out_nothing(shape):
    assert cut(2, torch.full(shape, LOWEST), n_queries=4, n_keys=4) == [(0, 2, 0, 4), (2, 4, 0, 4)]


@pytest.mark.parametrize("size", [None, 4, 9])
def test_queries_that_fit_are_one_block_of_all_keys(size):
    assert cut(size, as_mask(causal(4))) == [(0, 4, 0, 4)]


def test_cross_attention_is_cut_by_its_queries():
    assert cut(2, as_mask([[1, 1, 1, 0, 0]] * 3)) == [(0, 2, 0, 3), (2, 3, 0, 3)]


def test_a_mask_is_read_once_and_two_are_remembered(monkeypatch):
    read, visible = [], QueryBlocks._visible.__globals__["_visible_keys"]
    monkeypatch.setattr("attnflow_hf.query_blocks._visible_keys", lambda *given: read.append(given) or visible(*given))
    blocks, masks = QueryBlocks(2), [as_mask(causal(4, window)) for window in (None, 2, 3)]
    for _ in range(3):  # as in layers that take turns
        for mask in masks[:2]:
            blocks.of(4, 4, mask, {})
    assert len(read) == 2
    blocks.of(4, 4, masks[2], {})
    assert len(blocks._known) == 2
    assert blocks.of(4, 4, masks[0], {}) == QueryBlocks(2).of(4, 4, masks[0], {})


def test_a_remembered_mask_is_kept_so_that_no_other_can_have_its_id():
    blocks, mask = QueryBlocks(2), as_mask(causal(4))
    blocks.of(4, 4, mask, {})
    remembered = weakref.ref(mask)
    del mask
    assert remembered() is not None
    for window in (1, 2):
        blocks.of(4, 4, as_mask(causal(4, window)), {})
    assert remembered() is None


@pytest.mark.parametrize(
    ("shape", "n_keys", "wanted"),
    [
        ((1, 2, 4, 5), None, (1, 2, 2, 5)),
        ((1, 2, 4, 5), 5, (1, 2, 2, 5)),
        ((1, 2, 4, 6), 5, (1, 2, 4, 6)),
        ((1, 1, 1, 5), None, (1, 1, 1, 5)),
        ((4, 5), None, (4, 5)),
    ],
)
def test_queries_of_cuts_what_has_a_row_for_each_query(shape, n_keys, wanted):
    assert queries_of(torch.zeros(shape), slice(1, 3), 4, n_keys).shape == wanted


def test_queries_of_passes_on_what_is_no_tensor():
    assert queries_of(0.5, slice(1, 3), 4, None) == 0.5
    assert queries_of(None, slice(1, 3), 4, None) is None


# --- groups of samples ---


def groups(n_samples, n_weights, mask=None, **named):
    return [(each.start, each.stop) for each in sample_groups(n_samples, n_weights, mask, named)]


def test_as_many_samples_stand_together_as_fit_in_the_cache():
    assert groups(5, MOST_WEIGHTS // 2) == [(0, 2), (2, 4), (4, 5)]
    assert groups(2, MOST_WEIGHTS * 9) == [(0, 1), (1, 2)]
    assert groups(5, MOST_WEIGHTS // 5) == [(0, 5)]


@pytest.mark.parametrize(
    "named",
    [
        {"position_ids": torch.zeros(3, 7)},
        {"position_bias": torch.zeros(3, 2, 7, 7), "bias": torch.zeros(1, 2, 7, 7)},
        {"scaling": torch.tensor(0.5), "dropout": 0.0, "slopes": torch.zeros(2, 1, 1)},
    ],
)
def test_samples_are_parted_where_each_argument_tells_them(named):
    assert groups(3, MOST_WEIGHTS, torch.zeros(3, 1, 7, 7), **named) == [(0, 1), (1, 2), (2, 3)]


def test_samples_stay_together_where_an_argument_may_be_of_heads_as_well():
    assert groups(3, MOST_WEIGHTS, slopes=torch.zeros(3, 1, 1)) == [(0, 3)]
    assert groups(3, MOST_WEIGHTS, torch.zeros(3, 7)) == [(0, 3)]


def test_samples_of_cuts_what_has_an_axis_for_them():
    assert samples_of(torch.zeros(3, 1, 7, 7), slice(1, 2), 3).shape == (1, 1, 7, 7)
    assert samples_of(torch.zeros(1, 1, 7, 7), slice(1, 2), 3).shape == (1, 1, 7, 7)
    assert samples_of(torch.tensor(0.5), slice(1, 2), 3) == 0.5
    assert samples_of(None, slice(1, 2), 3) is None


@pytest.mark.parametrize(("device", "n_calls"), [("cpu", 3 * 2), ("meta", 2)])
def test_a_recorder_goes_through_samples_one_by_one_on_a_cpu_alone(monkeypatch, device, n_calls):
    monkeypatch.setattr("attnflow_hf.query_blocks.MOST_WEIGHTS", 1)
    calls = []

    def eager(module, query, key, value, mask, bias):
        calls.append([tuple(each.shape) for each in (query, key, mask, bias)])
        weights = torch.softmax(query @ key.transpose(2, 3) + mask + bias, dim=-1)
        return (weights @ value).transpose(1, 2), weights

    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, 4, 5, generator=draw).to(device) for _ in range(3))
    mask, bias = torch.randn(3, 1, 4, 4, generator=draw).to(device), torch.randn(1, 2, 4, 4, generator=draw).to(device)
    received = []
    output, _ = Recorder(received.append, block_size=2).attend(eager, None, query, key, value, mask, bias=bias)
    assert len(calls) == n_calls
    n = 1 if device == "cpu" else 3
    assert set(map(tuple, calls)) == {((n, 2, 2, 5), (n, 2, 4, 5), (n, 1, 2, 4), (1, 2, 2, 4))}
    if device == "cpu":
        whole, weights = eager(None, query, key, value, mask, bias)
        torch.testing.assert_close(output, whole)
        torch.testing.assert_close(received[0], weights.mean(dim=1))

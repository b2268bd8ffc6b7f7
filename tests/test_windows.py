import numpy as np
import pytest
import torch
from tiny_models import bert, gpt2, make, minilm_folder, tokenizer

from attnflow_hf import Attributor, Options
from attnflow_hf.errors import OptionError, TextError
from attnflow_hf.windows import Windows, attribute_windows

WORDS = "the key to the old cabinets is on a table and the cat sat near the mat".split()
LONG = " ".join(WORDS[i * 7 % 17] for i in range(50))
METHODS = ["raw", "rollout", "flow"]


def explain(attributor, texts, windows, methods=METHODS, **options):
    cut = [windows.of(attributor.model, attributor.tokenizer, text) for text in texts]
    found = dict(attribute_windows(attributor.wrapped, cut, methods, Options(**options)))
    return [found[index] for index in range(len(texts))]


def pieces_of(n_words, size, stride):
    """The words of each window beside [CLS] and [SEP], by the definition."""
    room = size - 2
    if n_words <= room:
        return [range(n_words)]
    pieces, start = [], 0
    while start + room < n_words:
        pieces.append(range(start, start + room))
        start += room - stride
    return [*pieces, range(n_words - room, n_words)]


def test_windows_of_a_worked_example():
    # 10 words in windows of 6 tokens: [CLS] and [SEP] leave 4 words to each, 1 of them shared, so that a window
    # begins 3 words after the one before: words 0-3, 3-6, and 6-9, which ends with the text.
    cut = Windows(6, 1).of(bert(), tokenizer(), " ".join(WORDS[:10]))
    assert [list(each) for each in cut.indices] == [[0, 1, 2, 3, 4, 11], [0, 4, 5, 6, 7, 11], [0, 7, 8, 9, 10, 11]]
    assert [sample.tokens.tokens[1:-1] for sample in cut.samples] == [
        tuple(WORDS[start : start + 4]) for start in (0, 3, 6)
    ]
    # of 11 words the third would be 6-9 and the last begins where it is as long as the others: 7-10
    cut = Windows(6, 1).of(bert(), tokenizer(), " ".join(WORDS[:11]))
    assert [each[1] - 1 for each in cut.indices] == [0, 3, 6, 7]
    assert {len(each) for each in cut.indices} == {6}


@pytest.mark.parametrize(("size", "stride"), [(8, 0), (8, 3), (20, 5), (51, 1), (52, 0), (60, 9)])
def test_scores_are_the_mean_over_the_windows_of_those_of_the_windows_as_texts(size, stride):
    attributor = Attributor(bert(), tokenizer())
    found = explain(attributor, [LONG], Windows(size, stride), normalize="none")[0]
    words, pieces = LONG.split(), pieces_of(50, size, stride)
    for method in METHODS:
        sums, counts = np.zeros(52), np.zeros(52)
        for piece in pieces:
            own = attributor(" ".join(words[i] for i in piece), method=method, normalize="none")
            place = [0, *(i + 1 for i in piece), 51]
            sums[place] += own.scores
            counts[place] += 1
        np.testing.assert_allclose(found[method].scores, sums / counts, rtol=0, atol=1e-6)
        assert found[method].tokens == ("[CLS]", *words, "[SEP]")
        assert found[method].output_position == 0
        spans = [LONG[start:stop] for start, stop in found[method].offsets[1:-1]]
        assert spans == words  # offsets are those of the whole text
    if len(pieces) > 1:
        assert found["flow"].notes[0] == f"the mean of {len(pieces)} windows of {size} tokens"


def test_a_text_of_one_window_is_that_text():
    attributor = Attributor(bert(), tokenizer())
    for options in ({}, {"special_tokens": "drop"}, {"normalize": "max", "first_token": "zero"}, {"layer": 1}):
        found = explain(attributor, ["the key to the mat"], Windows(20, 4), **options)[0]
        for method in METHODS:
            wanted = attributor("the key to the mat", method=method, **options)
            np.testing.assert_allclose(found[method].scores, wanted.scores, rtol=0, atol=1e-12)
            assert found[method].to_dict() | {"scores": 0} == wanted.to_dict() | {"scores": 0}


def test_texts_of_all_lengths_in_one_call_are_those_of_calls_of_their_own():
    attributor = Attributor(bert(), tokenizer(), batch_size=3)
    texts = [" ".join(LONG.split()[:n]) for n in (3, 50, 12, 30, 7)]
    together = explain(attributor, texts, Windows(12, 4))
    for text, found in zip(texts, together, strict=True):
        for method, wanted in explain(attributor, [text], Windows(12, 4))[0].items():
            np.testing.assert_allclose(found[method].scores, wanted.scores, rtol=0, atol=1e-6)
            assert found[method].prediction.label == wanted.prediction.label


def test_the_prediction_is_that_of_the_mean_of_the_logits():
    attributor = Attributor(bert(), tokenizer())
    found = explain(attributor, [LONG], Windows(20, 5), ["raw"])[0]["raw"]
    logits = []
    for piece in pieces_of(50, 20, 5):
        encoding = tokenizer()(" ".join(LONG.split()[i] for i in piece), return_tensors="pt")
        with torch.no_grad():
            logits.append(attributor.model(**encoding).logits[0])
    mean = torch.stack(logits).mean(dim=0)
    assert found.prediction.index == int(mean.argmax())
    assert found.prediction.probability == pytest.approx(float(mean.softmax(0).max()), abs=1e-6)


def test_standard_errors_are_the_mean_of_those_of_the_windows():
    attributor = Attributor(bert(), tokenizer())
    sampling = {"n_permutations": 3, "seed": 1}
    found = explain(attributor, [LONG], Windows(20, 5), ["flow_shapley"], **sampling)[0]["flow_shapley"]
    words, values, errors, counts = LONG.split(), np.zeros(52), np.zeros(52), np.zeros(52)
    for piece in pieces_of(50, 20, 5):
        text = " ".join(words[i] for i in piece)
        own = attributor(text, method="flow_shapley", normalize="none", **sampling)
        place = [0, *(i + 1 for i in piece), 51]
        values[place] += own.scores
        errors[place] += own.standard_errors
        counts[place] += 1
    total = (values / counts).sum()
    np.testing.assert_allclose(found.scores, values / counts / total, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.standard_errors, errors / counts / total, rtol=0, atol=1e-6)
    most = f"{found.standard_errors.max():.1g}"
    assert found.notes[-1] == f"estimated from 3 random orders (seed 1): standard errors are up to {most}"
    exact = explain(attributor, [LONG], Windows(12, 5), ["flow_shapley"], **sampling)[0]["flow_shapley"]
    assert exact.standard_errors is None
    assert exact.notes == (exact.notes[0],)


@pytest.mark.parametrize("special_tokens", ["keep", "zero", "drop"])
@pytest.mark.parametrize("normalize", ["sum", "max", "none"])
def test_the_readout_comes_after_the_mean(special_tokens, normalize):
    attributor = Attributor(bert(), tokenizer())
    plain = explain(attributor, [LONG], Windows(16, 4), ["flow"], normalize="none")[0]["flow"].scores
    options = {"special_tokens": special_tokens, "normalize": normalize}
    found = explain(attributor, [LONG], Windows(16, 4), ["flow"], **options)[0]["flow"]
    wanted = plain.copy()
    wanted[[0, -1]] *= special_tokens == "keep"
    wanted = wanted[1:-1] if special_tokens == "drop" else wanted
    wanted = wanted / {"sum": wanted.sum(), "max": wanted.max(), "none": 1.0}[normalize]
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-12)
    assert found.normalize == normalize
    assert found.special_tokens == special_tokens


def test_causal_models_are_explained_from_the_last_token_of_each_window():
    attributor = Attributor(gpt2(), tokenizer(template=""))
    found = explain(attributor, [LONG], Windows(10, 2), ["rollout"], normalize="none")[0]["rollout"]
    assert (found.output_position, found.prediction) == ("mean", None)
    words, sums, counts = LONG.split(), np.zeros(50), np.zeros(50)
    for start in [*range(0, 40, 8), 40]:
        own = attributor(" ".join(words[start : start + 10]), method="rollout", normalize="none")
        sums[start : start + 10] += own.scores
        counts[start : start + 10] += 1
    np.testing.assert_allclose(found.scores, sums / counts, rtol=0, atol=1e-6)


def test_a_first_token_that_does_not_count_counts_in_no_window_if_another_has_it():
    attributor = Attributor(gpt2(), tokenizer(template=""))
    found = explain(attributor, [LONG], Windows(10, 2), ["rollout"], normalize="none", first_token="zero")[0]["rollout"]
    words, sums, counts = LONG.split(), np.zeros(50), np.zeros(50)
    for start in [*range(0, 40, 8), 40]:
        own = attributor(" ".join(words[start : start + 10]), method="rollout", normalize="none").scores.copy()
        skipped = int(start > 0)
        sums[start + skipped : start + 10] += own[skipped:]
        counts[start + skipped : start + 10] += 1
    wanted = sums / counts
    wanted[0] = 0.0
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-6)


def test_the_mean_over_positions_and_a_model_with_sinks():
    attributor = Attributor(bert(), tokenizer())
    found = explain(attributor, [LONG], Windows(20, 5), ["rollout"], output_position="mean")[0]["rollout"]
    assert found.output_position == "mean"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "num_key_value_heads": 2}
    sinking = Attributor(make("GptOssConfig", "GptOssForCausalLM", **sizes, **experts), tokenizer(template=""))
    found = explain(sinking, [LONG], Windows(20, 5), ["rollout"], normalize="none")[0]["rollout"]
    assert 0.0 < float(found.sink_scores) < 1.0
    assert found.scores.shape == (50,)


def test_special_tokens_in_the_text_are_text():
    attributor = Attributor(bert(), tokenizer())
    words = LONG.split()
    words[20] = "[SEP]"
    found = explain(attributor, [" ".join(words)], Windows(14, 2), ["raw"])[0]["raw"]
    assert found.tokens == ("[CLS]", *words, "[SEP]")


def test_flow_that_says_little_is_counted():
    attributor = Attributor.from_pretrained(minilm_folder())
    text = "The key to the old cabinets is on the table. " * 12
    found = explain(attributor, [text], Windows(40, 8), ["flow"])[0]["flow"]
    n_windows = int(found.notes[0].split()[3])
    assert found.notes[-1] == f"flow says little about the output position of {n_windows} of {n_windows} windows"
    assert found.saturation is None


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ((0, 0), "window must be an integer of at least 1, got 0"),
        ((True, 0), "window must be an integer of at least 1, got True"),
        ((8, -1), "stride must be an integer of at least 0, got -1"),
        ((8, 8), "stride must be less than the window of 8 tokens, got 8"),
        ((8, 6), "a window of 8 tokens has room for 6 of the text beside 2 special ones, so that a stride of 6 leads"),
        ((2, 0), "a window of 2 tokens has room for 0 of the text"),
        ((65, 0), "a window of 65 tokens is more than the 64 which the model reads at most"),
    ],
)
def test_windows_that_cannot_be(windows, message):
    attributor = Attributor(bert(), tokenizer())
    with pytest.raises(OptionError, match=message):
        explain(attributor, [LONG], Windows(*windows))


def test_texts_that_cannot_be_cut():
    attributor = Attributor(bert(), tokenizer())
    with pytest.raises(OptionError, match="windows are cut of one text; a pair has none"):
        explain(attributor, [("the key", LONG)], Windows(20))
    with pytest.raises(TextError, match="the text is empty"):
        explain(attributor, [""], Windows(20))
    with pytest.raises(OptionError, match="output_position must be 'auto' or 'mean', got 3"):
        explain(attributor, [LONG], Windows(20), output_position=3)

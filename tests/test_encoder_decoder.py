import copy

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from graph_makers import mix
from tiny_models import bert, make, tokenizer

from attnflow_hf import Attribution, Attributor, Options, flow
from attnflow_hf.capture_report import CROSS, DECODER, ENCODER, CaptureReport, Site
from attnflow_hf.captured_graph import captured_graph
from attnflow_hf.errors import ArrayError, AttnFlowError, CaptureError, OptionError, PositionError, TokenizerError

BY_NAME = {each.name: each for each in ARCHITECTURES}
MARIAN = {"decoder_start_token_id": 0, "eos_token_id": 3, "forced_eos_token_id": 3}
MODELS = {"t5": {}, "bart": {}, "marian": MARIAN}
TEXTS = ["the key to the old cabinets is on a table", "the key", "one longer text and another text"]
TARGETS = ["the cat sat", "one text near another table and cat", "key"]


def build(name, **options):
    known = BY_NAME[name]
    return make(known.config, known.model, **{**copy.deepcopy(known.options), **MODELS.get(name, {}), **options})


@pytest.fixture(scope="module", params=MODELS)
def attributor(request):
    return Attributor(build(request.param), tokenizer(), batch_size=2)


@pytest.fixture(scope="module")
def bart():
    return Attributor(build("bart"), tokenizer())


def same(got, wanted, tolerance=1e-6):
    assert got.tokens == wanted.tokens
    assert got.alignment.parts == wanted.alignment.parts
    assert (got.output_position, got.layer) == (wanted.output_position, wanted.layer)
    np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=tolerance)


def read_by(attributor, text, target):
    """What the model's encoder and decoder read, put together by hand: the start token, then the target's but one."""
    labels = tokenizer()(text_target=target)["input_ids"]
    start = attributor.model.config.decoder_start_token_id
    return {
        "input_ids": torch.tensor([tokenizer()(text)["input_ids"]]),
        "decoder_input_ids": torch.tensor([[start, *labels[:-1]]]),
    }


def plain_eager(model, inputs):
    """The head means that the model itself reports, of encoder, decoder and cross attention; and its logits."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    names = ("encoder_attentions", "decoder_attentions", "cross_attentions")
    return [[each[0].double().mean(dim=0).numpy() for each in outputs[name]] for name in names], outputs.logits[0]


def rollout_by_recursion(encoder, decoder, cross, r=0.5):
    """See `test_captured_graph.joint_rollout`."""
    n, m = len(encoder[0]), len(decoder[0])
    top = np.eye(n)
    for own in encoder:
        top = mix(own, r) @ top
    state = np.hstack([np.zeros((m, n)), np.eye(m)])
    every = []
    for own, into in zip(decoder, cross, strict=True):
        state = r * (mix(own, r) @ state) + (1 - r) * (into @ np.hstack([top, np.zeros((n, m))]))
        every.append(state)
    return np.stack(every)


def flow_of_all(encoder, decoder, cross):
    sites = [Site(ENCODER, i, 1) for i in range(len(encoder))] + [Site(DECODER, i, 1) for i in range(len(decoder))]
    sites += [Site(CROSS, i, 1) for i in range(len(cross))]
    report = CaptureReport("By hand", "eager", tuple(sites), n_layers=len(encoder) + len(decoder))
    graph = captured_graph([np.float32(each) for each in encoder + decoder + cross], report)
    positions = list(range(len(encoder[0]), graph.n_tokens))
    return np.stack([flow(graph, output_positions=positions, layer=len(encoder) + 2 * i + 1) for i in range(3)])


# What is explained


@pytest.mark.parametrize("residual", [0.3, 0.5])
def test_rollout_is_that_of_the_models_own_attentions_by_recursion(attributor, residual):
    inputs = read_by(attributor, TEXTS[0], TARGETS[0])
    options = {"method": "rollout", "text_target": TARGETS[0], "normalize": "none", "residual_weight": residual}
    found = attributor(TEXTS[0], output_position="all", layer="all", **options)
    attentions, _ = plain_eager(attributor.model, inputs)
    wanted = rollout_by_recursion(*attentions, residual)
    assert wanted.shape == found.scores.shape == (3, 5, 17)
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.scores.sum(axis=-1), 1, rtol=0, atol=1e-12)


def test_flow_is_that_of_the_models_own_attentions(attributor):
    found = attributor(TEXTS[0], text_target=TARGETS[0], output_position="all", layer="all", normalize="none")
    attentions, _ = plain_eager(attributor.model, read_by(attributor, TEXTS[0], TARGETS[0]))
    np.testing.assert_allclose(found.scores, flow_of_all(*attentions), rtol=0, atol=1e-6)
    assert not np.triu(found.scores[:, :, 12:], k=1).any()


def test_raw_attention_is_the_last_cross_attention(attributor):
    found = attributor(TEXTS[0], text_target=TARGETS[0], method="raw", output_position="all")
    (_, _, cross), _ = plain_eager(attributor.model, read_by(attributor, TEXTS[0], TARGETS[0]))
    np.testing.assert_allclose(found.scores[:, :12], cross[-1], rtol=0, atol=1e-6)
    assert not found.scores[:, 12:].any()


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_an_encoding_gives_the_same_as_a_target(attributor, method):
    found = attributor(read_by(attributor, TEXTS[0], TARGETS[0]), method=method)
    wanted = attributor(TEXTS[0], method=method, text_target=TARGETS[0])
    same(found, wanted)
    assert isinstance(found, Attribution)
    assert found.offsets is None
    assert "no character offsets" in found.notes[0]


def test_the_decoder_reads_its_start_and_the_target_without_its_end(attributor):
    found = attributor(TEXTS[1], text_target=TARGETS[0], method="rollout")
    start = tokenizer().convert_ids_to_tokens(attributor.model.config.decoder_start_token_id)
    assert found.tokens == ("[CLS]", "the", "key", "[SEP]", start, "[CLS]", "the", "cat", "sat")
    assert found.alignment.parts == ("encoder",) * 4 + ("decoder",) * 5
    assert found.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert found.special_tokens_mask.tolist() == [True, False, False, True, True, True, False, False, False]
    assert found.texts == (TEXTS[1], TARGETS[0])
    assert found.sequence_ids == (None, 0, 0, None, None, None, 1, 1, 1)


def test_output_positions_count_the_decoders_tokens(attributor):
    options = {"method": "rollout", "text_target": TARGETS[0], "normalize": "none"}
    every = attributor(TEXTS[0], output_position="all", **options)
    assert every.scores.shape == (5, 17)
    for position in range(5):
        found = attributor(TEXTS[0], output_position=position, **options)
        np.testing.assert_allclose(found.scores, every.scores[position], rtol=0, atol=1e-12)
        assert attributor(TEXTS[0], output_position=position - 5, **options).output_position == position
    assert attributor(TEXTS[0], **options).output_position == 4
    mean = attributor(TEXTS[0], output_position="mean", **options)
    np.testing.assert_allclose(mean.scores, every.scores.mean(axis=0), rtol=0, atol=1e-12)
    with pytest.raises(PositionError, match="output_position 5 is out of range: there are 5, so use -5 to 4"):
        attributor(TEXTS[0], output_position=5, **options)


def test_layers_count_the_decoders_layers(attributor):
    options = {"text_target": TARGETS[0], "normalize": "none"}
    every = attributor(TEXTS[0], layer="all", **options)
    assert every.scores.shape == (3, 17)
    for layer in range(3):
        found = attributor(TEXTS[0], layer=layer, **options)
        np.testing.assert_allclose(found.scores, every.scores[layer], rtol=0, atol=1e-12)
        assert attributor(TEXTS[0], layer=layer - 3, **options).layer == layer
    with pytest.raises(PositionError, match="layer 3 is out of range: there are 3, so use -3 to 2"):
        attributor(TEXTS[0], layer=3, **options)


def test_prediction_is_that_of_the_decoders_position(attributor):
    _, logits = plain_eager(attributor.model, read_by(attributor, TEXTS[0], TARGETS[0]))
    for position in (1, 4):
        found = attributor(TEXTS[0], text_target=TARGETS[0], output_position=position, method="rollout").prediction
        assert found.index == int(logits[position].argmax())
        assert found.probability == pytest.approx(float(logits[position].softmax(-1).max()), abs=1e-5)


def test_special_tokens_of_both_halves_are_dropped(attributor):
    options = {"method": "rollout", "text_target": TARGETS[0], "output_position": "all"}
    plain = attributor(TEXTS[1], normalize="none", **options).scores
    found = attributor(TEXTS[1], special_tokens="drop", **options)
    assert found.tokens == ("the", "key", "the", "cat", "sat")
    inner = plain[2:][:, [1, 2, 6, 7, 8]]
    np.testing.assert_allclose(found.scores, inner / inner.sum(axis=-1, keepdims=True), rtol=0, atol=1e-12)


def test_without_a_target_the_encoder_alone_is_explained(attributor):
    found = attributor(TEXTS[0], method="rollout", output_position="all")
    assert (found.alignment.parts, found.prediction) == ((), None)
    (encoder, _, _), _ = plain_eager(attributor.model, read_by(attributor, TEXTS[0], TARGETS[0]))
    np.testing.assert_allclose(found.scores, mix(encoder[1], 0.5) @ mix(encoder[0], 0.5), rtol=0, atol=1e-6)
    joint = attributor(TEXTS[0], method="rollout", output_position="all", text_target=TARGETS[0])
    assert joint.scores.shape == (5, 17)


# Batches


@pytest.mark.parametrize("method", ["raw", "rollout", "flow"])
def test_batch_equals_single(attributor, method):
    batch = attributor(TEXTS, text_target=TARGETS, method=method)
    for found, text, target in zip(batch, TEXTS, TARGETS, strict=True):
        single = attributor(text, text_target=target, method=method)
        same(found, single)
        assert found.texts == (text, target)
        assert found.prediction.label == single.prediction.label


def test_padding_of_an_encoding_changes_nothing(attributor):
    rows = [read_by(attributor, text, target) for text, target in zip(TEXTS, TARGETS, strict=True)]
    encoding = dict(tokenizer()(TEXTS, return_tensors="pt", padding=True))
    ids = [row["decoder_input_ids"][0] for row in rows]
    encoding["decoder_input_ids"] = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    masks = [torch.ones_like(each) for each in ids]
    encoding["decoder_attention_mask"] = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
    for found, row in zip(attributor(encoding, method="rollout"), rows, strict=True):
        same(found, attributor(row, method="rollout"))


def test_a_single_text_in_a_list_gives_a_list(bart):
    found = bart([TEXTS[0]], text_target=[TARGETS[0]], method="rollout")
    assert isinstance(found, list)
    same(found[0], bart(TEXTS[0], text_target=TARGETS[0], method="rollout"))


# What is done with an attribution


@pytest.mark.parametrize("options", [{}, {"layer": "all"}, {"output_position": "all"}, {"output_position": "mean"}])
def test_an_attribution_of_both_is_saved_and_loaded(bart, tmp_path, options):
    found = bart(TEXTS[0], text_target=TARGETS[0], **options)
    for each in (found, found.part("decoder"), found.part("encoder")):
        each.save(tmp_path / "a.json")
        loaded = Attribution.load(tmp_path / "a.json")
        assert loaded.alignment.parts == each.alignment.parts
        np.testing.assert_array_equal(loaded.scores, each.scores)
        assert loaded.to_dict() == each.to_dict()


def test_parts_are_the_scores_as_they_are_in_the_whole(bart):
    found = bart(TEXTS[0], text_target=TARGETS[0], output_position="all")
    encoder, decoder = found.part("encoder"), found.part("decoder")
    np.testing.assert_array_equal(np.concatenate([encoder.scores, decoder.scores], axis=-1), found.scores)
    assert encoder.tokens + decoder.tokens == found.tokens
    assert (set(encoder.alignment.parts), set(decoder.alignment.parts)) == ({"encoder"}, {"decoder"})
    with pytest.raises(OptionError, match="unknown part 'cross'; choose one of 'decoder', 'encoder'"):
        found.part("cross")
    with pytest.raises(OptionError, match="unknown part 'decoder'; choose one of 'encoder'"):
        encoder.part("decoder")
    with pytest.raises(OptionError, match=r"unknown part 'encoder'; .*this attribution has no parts"):
        bart(TEXTS[0]).part("encoder")


def test_words_of_both_halves(bart):
    found = bart(TEXTS[1], text_target="key, the cat", method="rollout")
    words = found.to_words()
    assert words.words == ("[CLS]", "the", "key", "[SEP]", *[found.tokens[4]], "[CLS]", "key,", "the", "cat")
    np.testing.assert_allclose(words.scores.sum(), found.scores.sum(), rtol=0, atol=1e-12)
    assert found.part("decoder").to_words().words[2:] == ("key,", "the", "cat")
    pair = bart(("a premise", "a longer hypothesis"), text_target="the cat", method="rollout")
    assert pair.sequence_ids == (None, 0, 0, None, 1, 1, 1, None, None, None, 2, 2)
    assert pair.to_words().words[-2:] == ("the", "cat")


def test_words_without_offsets_are_told(bart):
    with pytest.raises(TokenizerError, match="neither character offsets nor word ids"):
        bart(read_by(bart, TEXTS[0], TARGETS[0]), method="rollout").to_words()


def test_an_attribution_of_both_is_shown(bart, capsys):
    found = bart(TEXTS[0], text_target=TARGETS[0])
    found.show()
    printed = capsys.readouterr().out
    assert "output position 4 (sat)" in printed
    assert all(piece in printed for piece in ("cabinets", "cat (decoder)"))
    found.show(words=True)
    for part, piece in (
        (found, "cabinets"),
        (found.part("encoder"), "cabinets"),
        (found.part("decoder"), "sat (decoder)"),
    ):
        assert part.to_html().count(f">{piece.removesuffix(' (decoder)')}<") == 1


def test_compare_takes_an_encoding_with_a_decoder(bart):
    inputs = read_by(bart, TEXTS[0], TARGETS[0])
    found = bart.compare(inputs, options=Options(layer=1))
    for method, attribution in found.items():
        same(attribution, bart(inputs, method=method, layer=1))


def test_shapley_values_of_both_and_their_errors(bart):
    found = bart(TEXTS[0], text_target=TARGETS[0], method="flow_shapley", n_permutations=2, normalize="none")
    parts = [found.part("encoder"), found.part("decoder")]
    np.testing.assert_allclose(found.scores.sum(), 1, rtol=1e-12)
    for name in ("scores", "standard_errors"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(np.sort(joined), np.sort(getattr(found, name)))
    assert [part.standard_errors.shape for part in parts] == [part.scores.shape for part in parts]


# Sound


def test_sound_with_a_decoder():
    architecture = BY_NAME["whisper"]
    attributor, inputs = Attributor(architecture.build(), tokenizer()), architecture.inputs()
    options = {"method": "rollout", "output_position": "all", "layer": "all", "normalize": "none"}
    found = attributor(inputs, **options)
    assert [each.scores.shape for each in found] == [(3, 7, 19)] * 2
    assert found[0].tokens[:2] == ("frame 0", "frame 1")
    assert found[0].alignment.parts == ("encoder",) * 12 + ("decoder",) * 7
    assert found[0].part("decoder").input_ids.tolist() == inputs["decoder_input_ids"][0].tolist()
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        attentions, _ = plain_eager(attributor.model, one)
        np.testing.assert_allclose(found[row].scores, rollout_by_recursion(*attentions), rtol=0, atol=1e-6)
    alone = attributor({"input_features": inputs["input_features"][:1]}, method="rollout")
    assert (alone.alignment.parts, len(alone.tokens), alone.output_position) == ((), 12, "mean")
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:1]
    with pytest.raises(ArrayError, match="there are 2 inputs, but 1 rows of decoder_input_ids"):
        attributor(inputs)


# Errors


def test_a_target_needs_a_decoder_beside_an_encoder():
    with pytest.raises(OptionError, match="text_target is for encoder-decoder models; BertForSequenceClassi"):
        Attributor(bert(), tokenizer())("the key", text_target="the cat")
    with pytest.raises(CaptureError, match="BertForSequenceClassification has no decoder beside an encoder"):
        Attributor(bert(), tokenizer())({"input_ids": [[2, 5, 3]], "decoder_input_ids": [[2, 5]]})
    with pytest.raises(TokenizerError, match=r"text_target needs a tokenizer: use Attributor\(model, tokenizer\)"):
        Attributor(build("bart"))({"input_ids": [[2, 5, 3]]}, text_target="the cat")


@pytest.mark.parametrize(
    ("texts", "targets", "message"),
    [
        (TEXTS, TARGETS[:2], "there are 3 texts, but 2 targets for the decoder"),
        (TEXTS[:1], TARGETS[:2], "there are 1 texts, but 2 targets for the decoder"),
        (TEXTS[0], TARGETS[:1], r"text_target must be a text for each input text, got \['the cat sat'\]"),
        (TEXTS[0], 3, "text_target must be a text for each input text, got 3"),
        (TEXTS[:2], ["the cat", None], "text_target must be a text for each input text, got None"),
    ],
)
def test_targets_that_do_not_fit(bart, texts, targets, message):
    with pytest.raises(OptionError, match=message):
        bart(texts, text_target=targets)


@pytest.mark.parametrize("target", ["on", 3])
def test_a_list_of_texts_needs_a_list_of_targets(bart, target):
    with pytest.raises(OptionError, match="text_target must be a"):
        bart(TEXTS[:2], text_target=target)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[0, 5], [0, 5]], [[1, 1], [0, 0]], "a row of decoder_input_ids must have tokens in front and padding behind"),
        ([[0, 5, 6], [0, 5, 6]], [[1, 1, 1], [1, 0, 1]], "must have tokens in front and padding behind"),
        ([[0, 5], [0, 5]], [[0, 1], [1, 1]], "must have tokens in front and padding behind"),
        ([[0, 5], [0]], None, r"decoder_input_ids must be integers \[batch, token\]"),
        ([[0.5, 5], [0, 1]], None, r"must be integers \[batch, token\], got \[2, 2\] and \[2, 2\]"),
        ([[0, 5], [0, 1]], [[1, 1]], r"must be integers \[batch, token\], got \[2, 2\] and \[1, 2\]"),
        ([[], []], None, r"must be integers \[batch, token\], got \[2, 0\]"),
        ([[[0, 5]], [[0, 5]]], None, r"must be integers \[batch, token\], got \[2, 1, 2\]"),
    ],
)
def test_decoder_ids_that_are_none(bart, ids, mask, message):
    encoding = {"input_ids": [[2, 5, 3], [2, 6, 3]], "decoder_input_ids": ids}
    if mask is not None:
        encoding["decoder_attention_mask"] = mask
    with pytest.raises(ArrayError, match=message):
        bart(encoding)


def test_rows_of_both_halves_must_be_as_many(bart):
    with pytest.raises(OptionError, match="there are 2 texts, but 1 targets for the decoder"):
        bart({"input_ids": [[2, 5, 3], [2, 6, 3]], "decoder_input_ids": [[0, 5]]})


@pytest.mark.parametrize("ids", [[[0, 500]], [[0, -100]], [[0] * 65]])
def test_decoder_ids_that_the_model_cannot_read(bart, ids):
    with pytest.raises(AttnFlowError, match=r"the model knows only|must not be negative|the model reads 64 at most"):
        bart({"input_ids": [[2, 5, 3]], "decoder_input_ids": ids})


def test_a_target_for_sound_is_not_passed_over():
    architecture = BY_NAME["whisper"]
    inputs = {"input_features": architecture.inputs()["input_features"]}
    with pytest.raises(OptionError, match="text_target"):
        Attributor(architecture.build(), tokenizer())(inputs, text_target="the cat")

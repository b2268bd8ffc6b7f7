import copy

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, NEEDS_EAGER
from tiny_models import bert, make, tokenizer

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, flow, rollout
from attnflow_hf.errors import ArrayError, AttnFlowError, OptionError
from attnflow_hf.signals import signal_rows

BY_NAME = {each.name: each for each in ARCHITECTURES}
PREFIXES = {
    "vit": ("[CLS]",),
    "deit": ("[CLS]", "[prefix 1]"),
    "beit": ("[CLS]",),
    "dinov2": ("[CLS]",),
    "dinov2_with_registers": ("[CLS]", *(f"[prefix {index}]" for index in range(1, 5))),
    "dinov3_vit": ("[CLS]", "[prefix 1]", "[prefix 2]"),
    "clip_vision_model": ("[CLS]",),
    "siglip_vision_model": (),
    "ijepa": (),
}
RESIZING = ("beit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Models that take images of any size: relative positions, or ones that are interpolated."""
SOUND = ("wav2vec2", "hubert", "wavlm")


def build(name, **options):
    known = BY_NAME[name]
    own = {"attn_implementation": "eager"} if name in NEEDS_EAGER else {}
    return make(known.config, known.model, **{**copy.deepcopy(known.options), **own, **options})


def image(height=32, width=32, n=1):
    return {"pixel_values": torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))}


def sound(n=1, length=320):
    return {"input_values": torch.randn(n, length, generator=torch.Generator().manual_seed(0))}


def eager_graph(model, inputs):
    """The layer graph by the model's own eager attentions."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return LayerGraph.from_attentions(model(**inputs, output_attentions=True).attentions)


# Images


@pytest.mark.parametrize("name", PREFIXES)
def test_tokens_of_an_image_are_its_patches_row_by_row(name):
    found = Attributor(build(name))(image(), method="rollout")
    prefix = PREFIXES[name]
    patches = [f"{row},{column}" for row in range(4) for column in range(4)]
    assert found.tokens == (*prefix, *patches)
    assert found.alignment.grid == (4, 4)
    assert found.special_tokens_mask.tolist() == [True] * len(prefix) + [False] * 16
    assert found.output_position == (0 if prefix else "mean")
    np.testing.assert_array_equal(found.grid_scores, found.scores[len(prefix) :].reshape(4, 4))
    assert (found.input_ids == -1).all()
    assert found.notes == ()


@pytest.mark.parametrize("name", ["vit", "dinov2_with_registers", "siglip_vision_model", "clip_vision_model"])
@pytest.mark.parametrize(("method", "function"), [("rollout", rollout), ("flow", flow)])
def test_scores_of_an_image_are_those_of_the_steps_done_by_hand(name, method, function):
    found = Attributor(build(name))(image(), method=method, output_position="all", normalize="none")
    graph = eager_graph(build(name), image())
    wanted = function(graph, output_positions=list(range(graph.n_tokens)))
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "deit", "siglip_vision_model"])
def test_grid_scores_keep_the_axes_in_front(name):
    attributor, n = Attributor(build(name)), 16 + len(PREFIXES[name])
    options = {"method": "rollout", "normalize": "none"}
    assert attributor(image(), output_position="all", **options).grid_scores.shape == (n, 4, 4)
    assert attributor(image(), layer="all", **options).grid_scores.shape == (3, 4, 4)
    both = attributor(image(), output_position="all", layer="all", **options)
    assert both.grid_scores.shape == (3, n, 4, 4)
    single = attributor(image(), output_position=2, layer=1, **options)
    np.testing.assert_allclose(both.grid_scores[1, 2], single.grid_scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RESIZING)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32), (16, 40)])
def test_images_that_are_not_square(name, height, width):
    attributor = Attributor(build(name))
    found = attributor(image(height, width), method="rollout")
    assert found.alignment.grid == (height // 8, width // 8)
    assert found.grid_scores.shape == (height // 8, width // 8)
    assert found.tokens[-1] == f"{height // 8 - 1},{width // 8 - 1}"


def test_a_patch_stands_where_its_pixels_are():
    """In the lowest layer all other patches look at each other as before, but for the share that the changed one takes.

    Within a row of one head the softmax keeps the ratios of all entries but the changed patch's.
    """
    attributor = Attributor(build("dinov2"))
    changed = image(32, 48)
    changed["pixel_values"][:, :, 8:16, 32:40] += 1.0  # row 1, column 4
    options = {"method": "raw", "layer": 0, "output_position": "all", "head_reduction": 0, "normalize": "none"}
    before, after = (attributor(each, **options) for each in (image(32, 48), changed))
    others = np.array(before.tokens) != "1,4"
    ratios = after.scores / before.scores
    kept = ratios[others][:, others]
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:, :1], kept.shape), rtol=1e-4)
    assert abs(ratios[others][:, ~others] / kept[:, :1] - 1).min() > 1e-3


def test_detection_tokens_stand_behind_the_patches():
    found = Attributor(build("yolos"))(image(), method="rollout")
    assert found.tokens[0] == "[CLS]"
    assert found.tokens[1:3] == ("0,0", "0,1")
    assert found.tokens[-5:] == ("3,3", *(f"[detection {index}]" for index in range(4)))
    assert found.special_tokens_mask.tolist() == [True] + [False] * 16 + [True] * 4
    np.testing.assert_array_equal(found.grid_scores, found.scores[1:17].reshape(4, 4))


@pytest.mark.parametrize("name", ["vit", "dinov2_with_registers", "yolos"])
def test_special_tokens_of_an_image_are_dropped_or_zeroed(name):
    attributor = Attributor(build(name))
    plain = attributor(image(), method="rollout", normalize="none")
    dropped = attributor(image(), method="rollout", special_tokens="drop")
    assert dropped.tokens == tuple(f"{row},{column}" for row in range(4) for column in range(4))
    np.testing.assert_allclose(dropped.grid_scores, plain.grid_scores / plain.grid_scores.sum(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dropped.scores.sum(), 1, rtol=0, atol=1e-12)
    zeroed = attributor(image(), method="rollout", special_tokens="zero")
    np.testing.assert_allclose(zeroed.grid_scores, dropped.grid_scores, rtol=0, atol=1e-12)
    every = attributor(image(), method="rollout", special_tokens="drop", output_position="all")
    assert every.grid_scores.shape == (16, 4, 4)


def test_a_dropped_patch_leaves_no_grid():
    attributor = Attributor(build("siglip_vision_model"))
    with pytest.raises(OptionError, match=r"there is no grid of patches: .* first_token='drop' took one away"):
        _ = attributor(image(), method="rollout", first_token="drop").grid_scores
    assert Attributor(build("vit"))(image(), method="rollout", first_token="drop").grid_scores.shape == (4, 4)
    with pytest.raises(OptionError, match="there is no grid of patches: this is no image"):
        _ = Attributor(bert(), tokenizer())("the key").grid_scores


@pytest.mark.parametrize("options", [{}, {"layer": "all", "output_position": "all"}, {"special_tokens": "drop"}])
def test_an_attribution_of_an_image_is_saved_and_loaded(tmp_path, options):
    found = Attributor(build("dinov2"))(image(32, 48), method="rollout", **options)
    found.save(tmp_path / "a.json")
    loaded = Attribution.load(tmp_path / "a.json")
    assert (loaded.alignment.grid, loaded.tokens) == ((4, 6), found.tokens)
    np.testing.assert_array_equal(loaded.grid_scores, found.grid_scores)
    assert loaded.to_dict() == found.to_dict()


def test_several_images_give_several_attributions():
    attributor = Attributor(build("vit"))
    batch = attributor(image(n=3), method="flow")
    for index, found in enumerate(batch):
        one = attributor({"pixel_values": image(n=3)["pixel_values"][index : index + 1]}, method="flow")
        np.testing.assert_array_equal(found.scores, one.scores)
    assert len(batch) == 3


@pytest.mark.parametrize("form", ["numpy", "lists", "double"])
def test_every_form_of_pixels(form):
    pixels = image()["pixel_values"]
    forms = {
        "numpy": pixels.numpy(),
        "lists": pixels.tolist(),
        "double": pixels.double(),
    }
    attributor = Attributor(build("vit"))
    found = attributor({"pixel_values": forms[form]}, method="rollout")
    np.testing.assert_allclose(found.scores, attributor(image(), method="rollout").scores, rtol=0, atol=1e-7)


def test_a_classifier_of_images_says_its_label():
    model = make("ViTConfig", "ViTForImageClassification", **BY_NAME["vit"].options, id2label={0: "cat", 1: "dog"})
    found = Attributor(model)(image(), method="rollout")
    with torch.no_grad():
        logits = model(**image()).logits[0]
    assert found.prediction.label == ("cat", "dog")[int(logits.argmax())]
    compared = Attributor(model).compare(image(), options=Options(layer=1))
    assert list(compared) == ["raw", "rollout", "flow"]


def test_an_image_is_shown(capsys):
    found = Attributor(build("vit"))(image(), method="rollout")
    found.show()
    assert "3,3" in capsys.readouterr().out
    assert ">0,1<" in found.to_html()


# Sound


@pytest.mark.parametrize("name", SOUND)
def test_tokens_of_a_sound_are_frames(name):
    found = Attributor(build(name))(sound(), method="rollout")
    assert found.tokens == tuple(f"frame {index}" for index in range(19))
    assert (found.output_position, found.alignment.grid) == ("mean", None)
    assert not found.special_tokens_mask.any()
    graph = eager_graph(build(name), sound())
    wanted = rollout(graph, output_positions=list(range(19))).mean(axis=0)
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_a_sound_is_taken_off_by_its_mask(name, side):
    attributor = Attributor(build(name))
    inputs = sound(2)
    padding = slice(160, None) if side == "right" else slice(0, 160)
    inputs["input_values"][1, padding] = 0
    inputs["attention_mask"] = torch.ones(2, 320, dtype=torch.long)
    inputs["attention_mask"][1, padding] = 0
    found = attributor(inputs, method="rollout")
    real = inputs["input_values"][1:, inputs["attention_mask"][1].bool()]
    for got, single in zip(found, (inputs["input_values"][:1], real), strict=True):
        wanted = attributor({"input_values": single}, method="rollout")
        assert got.tokens == wanted.tokens
        np.testing.assert_allclose(got.scores, wanted.scores, rtol=0, atol=1e-7)
    assert len(found[1].tokens) == 9


def test_frames_of_whispers_encoder():
    architecture = BY_NAME["whisper"]
    inputs = {"input_features": architecture.inputs()["input_features"]}
    found = Attributor(architecture.build())(inputs, method="flow", layer=0, output_position=3)
    assert [each.tokens for each in found] == [tuple(f"frame {index}" for index in range(12))] * 2
    encoder = architecture.build().get_encoder()
    graph = eager_graph(encoder, {"input_features": inputs["input_features"][1:]})
    values = flow(graph, output_positions=3, layer=0)[0]
    np.testing.assert_allclose(found[1].scores, values / values.sum(), rtol=0, atol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("name", "inputs", "error", "message"),
    [
        ("vit", "a text", OptionError, "ViTModel reads pixel_values: give what its processor returns .* got str"),
        ("vit", ["a text"], OptionError, "ViTModel reads pixel_values: .* got list"),
        ("vit", torch.zeros(1, 3, 32, 32), OptionError, "ViTModel reads pixel_values: .* got Tensor"),
        ("vit", {"pixels": 1}, OptionError, "ViTModel reads pixel_values: .* got dict"),
        ("vit", {"input_ids": [[1, 2]]}, OptionError, "ViTModel reads pixel_values: .* got dict"),
        ("wav2vec2", "a text", OptionError, "Wav2Vec2Model reads input_values: .* got str"),
        ("vit", {"pixel_values": None}, ArrayError, "this model reads pixel_values: .* got NoneType"),
        ("vit", {"pixel_values": [[1, 2], [3]]}, ArrayError, "this model reads pixel_values: .* got list"),
        ("vit", {"pixel_values": "pixels"}, ArrayError, "this model reads pixel_values: .* got str"),
        ("wav2vec2", {"input_values": [[0.0, 1.0], [0.0]]}, ArrayError, "this model reads input_values: .* got list"),
        ("vit", {"pixel_values": torch.zeros(0, 3, 32, 32)}, ArrayError, r"pixel_values is empty: \[0, 3, 32, 32\]"),
        ("wav2vec2", {"input_values": torch.zeros(2, 0)}, ArrayError, r"input_values is empty: \[2, 0\]"),
        (
            "wav2vec2",
            {"input_values": torch.zeros(2, 320), "attention_mask": torch.tensor([[1] * 320, [0] * 320])},
            ArrayError,
            "the attention_mask of sound 1 marks all of it as padding",
        ),
    ],
)
def test_inputs_that_are_no_signal(name, inputs, error, message):
    with pytest.raises(error, match=message):
        Attributor(build(name), tokenizer())(inputs)


def test_images_are_no_text_for_the_options():
    attributor = Attributor(build("vit"))
    with pytest.raises(OptionError, match="position_correction divides by the uniform causal graph, but ViTModel is"):
        attributor(image(), position_correction="uniform")
    with pytest.raises(OptionError, match="ViTModel reads pixel_values"):
        attributor.generate("the key")


def test_rows_are_of_the_models_type():
    rows = signal_rows({"input_values": np.zeros((2, 4))}, "input_values", torch.bfloat16)
    assert [(row["input_values"].dtype, row["input_values"].shape) for row in rows] == [(torch.bfloat16, (1, 4))] * 2


def test_a_mask_with_too_few_rows_is_refused():
    with pytest.raises(AttnFlowError, match="attention_mask"):
        Attributor(build("wav2vec2"))({**sound(2), "attention_mask": torch.ones(1, 320)})


def test_padding_of_features_is_taken_off_by_its_mask():
    attributor = Attributor(build("wav2vec2-bert"))
    features = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 12 + [0] * 8])
    found = attributor({"input_features": features, "attention_mask": mask}, method="rollout")
    wanted = attributor({"input_features": features[:, :12]}, method="rollout")
    assert found.tokens == wanted.tokens
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-6)

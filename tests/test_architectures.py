"""Every architecture of the table is captured exactly, or refused by an error that says why."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, OLD, PRESENT, counted_version, is_counted

from attnflow_hf.capture import capture, report_on
from attnflow_hf.capture_report import STEPS
from attnflow_hf.errors import CaptureError
from attnflow_hf.forward_pass import reported_attentions

NO_ATTENTION = "gave no attentions: it has no attention layers, or does not tell their weights"
NOT_SQUARE = "local, pooled or projected attention .* does not make a layer graph"
NO_WEIGHTS = r"its attentions of layer 0 are .*, not \[batch, head, query, key\]"
SPARSE = "block sparse attention, .* load it with from_pretrained\\(..., attention_type='original_full'\\)"
REFUSED = {
    "big_bird": SPARSE,
    "bigbird_pegasus": SPARSE,
    "canine": NOT_SQUARE,
    "data2vec-vision": "loaded with attn_implementation='eager' it may be captured",
    "falcon(alibi)": "not that of the model without capture: .* loaded with attn_implementation='eager' it may be",
    "falcon_mamba": NO_ATTENTION,
    "fnet": NO_ATTENTION,
    "funnel": NOT_SQUARE,
    "hrm_text": NO_ATTENTION,
    "led": NOT_SQUARE,
    "longformer": NOT_SQUARE,
    "longt5": NO_WEIGHTS,
    "longt5(global)": NO_WEIGHTS,
    "mamba": NO_ATTENTION,
    "mamba2": NO_ATTENTION,
    "nystromformer": "cannot read these inputs",
    "pegasus_x": NO_WEIGHTS,
    "prophetnet": NOT_SQUARE,
    "pvt": NOT_SQUARE,
    "rwkv": NO_WEIGHTS,
    "segformer": NOT_SQUARE,
    "squeezebert": "are no probabilities: scores from before the softmax",
    "swin": NOT_SQUARE,
    "swinv2": NOT_SQUARE,
    "timesformer": NOT_SQUARE,
    "yoso": NO_WEIGHTS,
}
ONE_BLOCK: set[str] = set()
"""Those whose eager attention counts on all queries at once."""
TELLS_NOTHING: set[str] = set()
"""Those of which Transformers itself gives no attentions to compare with."""
if OLD:
    REFUSED |= {"recurrent_gemma": NO_ATTENTION, "diffllama": NO_ATTENTION}
    REFUSED |= {"switch_transformers": "are no probabilities"}
    ONE_BLOCK, TELLS_NOTHING = {"gpt2"}, {"minimax"}
CAPTURED = [each for each in PRESENT if each.name not in REFUSED]


def run_plain(architecture, inputs):
    """Head means by plain eager attention, by part and layer (where only some attend, in their order); and logits."""
    model = architecture.build(attn_implementation="eager")
    runner = model if "decoder_input_ids" in inputs or not model.config.is_encoder_decoder else model.get_encoder()
    with torch.no_grad():
        outputs = runner(**inputs, output_attentions=True, use_cache=False)
    length = inputs["attention_mask"].shape[1] if "attention_mask" in inputs else None
    means = {}
    for part, _, weights in reported_attentions(outputs):
        if part or length in (None, weights.shape[-1]):  # MiniMax reports the states of its linear attention too
            means[part, sum(known == part for known, _ in means)] = weights.float().mean(dim=1)
    return means, outputs.get("logits")


def real_rows(inputs, *values):
    """The rows of real tokens, if the values have a row for each token: those of padding are not defined."""
    mask = inputs.get("attention_mask")
    fits = mask is not None and values[0] is not None and values[0].shape[:2] == mask.shape
    return [value[mask.bool()] for value in values] if fits else values


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # deberta and others, at import
@pytest.mark.parametrize("architecture", CAPTURED, ids=lambda each: each.name)
def test_captured_exactly(architecture):
    model = architecture.build()
    for padded in (False, True):
        inputs = architecture.inputs(padded=padded)
        captured = capture(model, inputs)
        means, logits = run_plain(architecture, inputs)
        assert len(captured.matrices) == len(captured.report.sites)
        assert len(captured.matrices) == len(means) or architecture.name in TELLS_NOTHING
        number = dict.fromkeys(("encoder", "decoder", "cross"), 0)
        for site, matrix in zip(captured.report.sites, captured.matrices, strict=True):
            mean = means.get((site.part if captured.report.has_decoder else "", number[site.part]), matrix)
            number[site.part] += 1
            matrix = matrix[..., 1:] if captured.report.has_sinks else matrix
            torch.testing.assert_close(*real_rows(inputs, matrix, mean), rtol=0, atol=1e-6)
        if logits is not None:
            got, wanted = real_rows(inputs, captured.logits, logits)
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("architecture", CAPTURED, ids=lambda each: each.name)
def test_blocks_of_queries_and_groups_of_samples_change_nothing(architecture, monkeypatch):
    inputs = architecture.inputs()
    whole = capture(architecture.build(), inputs)
    monkeypatch.setattr("attnflow_hf.probe._CPU_BLOCK", 5)
    monkeypatch.setattr("attnflow_hf.query_blocks.MOST_WEIGHTS", 1)
    in_blocks = capture(architecture.build(), inputs)
    is_cut = whole.report.step == "interface" and architecture.name not in ONE_BLOCK
    assert in_blocks.report.block_size == (5 if is_cut else None)
    for got, wanted in zip(in_blocks.matrices, whole.matrices, strict=True):
        # sums in another order differ in the last bit, and the sharp random layers above make that more
        torch.testing.assert_close(*real_rows(inputs, got, wanted), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("architecture", [each for each in PRESENT if each.name in REFUSED], ids=lambda each: each.name)
def test_refused_with_a_reason(architecture):
    with pytest.raises(CaptureError, match=f"{architecture.model} .*{REFUSED[architecture.name]}"):
        capture(architecture.build(), architecture.inputs())


DECODED = ("seq2seq", "speech2text")


@pytest.mark.parametrize(
    ("name", "step"),
    [("bert", "interface"), ("bart", "interface"), ("falcon", "hooks"), ("deberta-v2", "hooks"), ("xlnet", "eager")],
)
def test_the_step_taken_is_told(name, step):
    architecture = next(each for each in ARCHITECTURES if each.name == name)
    report = report_on(architecture.build(), with_decoder=architecture.kind in DECODED)
    assert report.step == step
    assert f"captured by {STEPS[step]}" in str(report)
    assert "output = that without capture" in str(report)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_the_readme_counts_what_is_captured():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    if not is_counted():
        pytest.skip(f"the README counts those of Transformers {counted_version()}")
    reports = [report_on(each.build(), with_decoder=each.kind in DECODED, like=each.inputs()) for each in CAPTURED]
    steps = Counter(report.step for report in reports)
    for step, phrase in (("interface", "the interface"), ("hooks", "hooks"), ("eager", "plain eager attention")):
        assert f"captured by {phrase} ({steps[step]})" in readme, steps
    assert f"tiny models of {len(ARCHITECTURES)} architectures" in readme

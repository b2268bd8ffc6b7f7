"""The `text-attribution` pipeline: texts to plain dictionaries of scores; importing this module registers it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

from torch.utils.data import DataLoader
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from attnflow_hf.attributing import attribute_all
from attnflow_hf.attributor import Attributor
from attnflow_hf.backends import methods_of
from attnflow_hf.errors import OptionError
from attnflow_hf.given import Given, given
from attnflow_hf.inputs import Text
from attnflow_hf.loading import EMBEDDED_MODEL
from attnflow_hf.options import Options
from attnflow_hf.shards import result_row
from attnflow_hf.storage import to_plain

TASK = "text-attribution"
OPTIONS = ("method", "words", "truncation", *(field.name for field in fields(Options)))
"""What the pipeline takes beside its inputs, when it is made and when it is called."""
_OF_PIPELINE = ("local_files_only",)
"""What `transformers.pipeline` reads and hands on."""
_Pipeline: Any = Pipeline  # whose annotations are those of no pipeline that there is


class TextAttributionPipeline(_Pipeline):  # type: ignore[misc]
    """Token attributions of texts as plain dictionaries: `pipeline("text-attribution", model=...)`.

    The model is loaded with the head it was saved with; without `model=`, the embedded one is taken. A model object
    goes with `tokenizer=`. Of an encoder-decoder model the encoder is explained. Scores are those of `Attributor`.

    All options can be given when the pipeline is made and, then before those, when it is called:

    - `method`: `"raw"`, `"rollout"`, `"flow"` (default), `"flow_shapley"`, or a list of them, from one forward pass.
    - `words`: also sum the scores over words (default `False`).
    - `truncation`: cut texts that are longer than the model can read (default `False`: they are an error).
    - Those of `Attributor.__call__`: `backend`, `layer`, `output_position`, `head_reduction`, `residual_weight`,
      `edge_weights`, `target` (one for all texts), `normalize_rows`, `relu`, `baseline`, `normalize`,
      `special_tokens`, `first_token`, `position_correction`, `keep`, `n_permutations`, `seed`.

    And as of every pipeline `batch_size`, `num_workers`, `device`, `dtype`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        """Check that the model reads text; `transformers.pipeline` calls this."""
        Attributor(model, tokenizer)
        super().__init__(model=model, tokenizer=tokenizer, **options)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Return a dictionary for a text; a list of them for a list, an iterator for a generator or a data set.

        Args:
            inputs: A text; a pair, as a tuple or as `{"text": ..., "text_pair": ...}`; or many of them.
            options: Those of the class, `batch_size`, `num_workers`.

        Returns:
            What `json.dumps` takes, in the columns of `run_dataset`: `tokens`, `offsets`, `special_tokens_mask`,
            `scores_<method>` (`[token]`; with `"all"` as layer or output position further axes in front), likewise
            `standard_errors_flow_shapley` beside those of that method (`None` where they are exact),
            `prediction_label`, `prediction_probability`, on `grad_attention` `target_label`, `target_index`,
            `target_probability` and `target_output`, `output_position` (`None` for `"mean"` and `"all"`), `notes`;
            with `words=True` also `words` and `word_scores_<method>`.

        Raises:
            AttnFlowError: One of its children says what came, what is needed and what to do.
        """
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the options of the three steps."""
        options = {name: value for name, value in options.items() if name not in _OF_PIPELINE}
        for name in options:
            if name not in OPTIONS:
                raise OptionError(_unknown(name))
        before = {name: options.pop(name) for name in ("truncation",) if name in options}
        after = {name: options.pop(name) for name in ("words",) if name in options}
        if not isinstance(after.get("words", False), bool):
            raise OptionError(f"words must be True or False, got {after['words']!r}")
        methods = {"methods": methods_of(options.pop("method"))} if "method" in options else {}
        Options(**options)
        return before, methods | options, after

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """Return an iterator over all results; a batch is a list here, so a tokenizer need not know how to pad."""
        if isinstance(inputs, Sized):
            prepared: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            prepared, num_workers = PipelineIterator(inputs, self.preprocess, preprocess_params), min(num_workers, 1)
        if num_workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not outlive a fork
        loader: Any = DataLoader(prepared, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
        found = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(found, self.postprocess, postprocess_params)

    def preprocess(self, inputs: Any, truncation: bool = False) -> dict[str, Any]:
        """Return a text as the model reads it."""
        asked = given(self.model, self.tokenizer, _text_of(inputs), truncation=truncation)
        return {"sample": asked.samples[0]}

    def _forward(self, model_inputs: Any, methods: Sequence[str] = ("flow",), **options: Any) -> dict[str, Any]:
        """Return the attributions of a batch, or of one text, by each method."""
        batch = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        samples = [each["sample"] for each in batch]
        wrapped = replace(Attributor(self.model, self.tokenizer).wrapped, batch_size=len(samples))
        return {"found": attribute_all(wrapped, Given(samples), methods, Options(**options))}

    def postprocess(self, model_outputs: Mapping[str, Any], words: bool = False) -> dict[str, Any]:
        """Return the row of one text."""
        found = model_outputs["found"]  # a list of one where no batch was taken apart
        row = result_row(found[0] if isinstance(found, list) else found, words=words)
        return {name: to_plain(value) for name, value in row.items()}


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, OPTIONS, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"unknown option {name!r}{hint} The {TASK} pipeline takes {', '.join(sorted(OPTIONS))}"


def _text_of(inputs: Any) -> Text:
    """Return a text or a pair; what else it may be is checked where texts are read."""
    if isinstance(inputs, Mapping) and "text" in inputs and inputs.keys() <= {"text", "text_pair"}:
        second = inputs.get("text_pair")
        return inputs["text"] if second is None else (inputs["text"], second)
    if not isinstance(inputs, (str, tuple)):
        keys = f" with keys {list(inputs)}" if isinstance(inputs, Mapping) else ""
        raise OptionError(
            f"an input must be a text, or a pair as a tuple or as a dictionary with 'text' and 'text_pair'; got "
            f"{type(inputs).__name__}{keys}. Many of them come as a list, a generator or a KeyDataset"
        )
    return inputs


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    TextAttributionPipeline,
    default={"model": (str(files("attnflow_hf") / EMBEDDED_MODEL), "main")},
    type="text",
)
del TextAttributionPipeline._registered_impl  # else `save_pretrained` would put this file beside the model

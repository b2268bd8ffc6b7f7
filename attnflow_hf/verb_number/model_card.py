"""The model card of the verb-number model, with the measured figures filled in."""

from __future__ import annotations

from collections.abc import Sequence

from attnflow_hf.verb_number.evaluate import Score, render_scores
from attnflow_hf.verb_number.settings import Settings

__all__ = ["render_card"]

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-classification
tags:
- verb-number
- subject-verb-agreement
- attention-rollout
- attention-flow
---

# The verb-number model

A small BERT that reads the beginning of an English sentence and predicts whether its next verb is singular or plural:
"the key to the cabinets" (is) is `singular`, "the keys to the cabinet" (are) is `plural`. It is made to be explained,
not to check grammar: with {settings.n_layers} layers, {settings.n_heads} heads and {settings.hidden_size} dimensions it
has the size of the model whose decisions Abnar & Zuidema (2020) explain by attention rollout and attention flow.

It loads with `AutoModelForSequenceClassification` and `AutoTokenizer` of Transformers. The weights are stored as
float16 and load as float32.

## Input

`[CLS]` and the words up to the verb, without the verb and without `[SEP]`. The tokenizer holds {n_tokens:,} tokens:
frequent words whole, all others in pieces that keep a plural "s" apart. Text is lower-cased, except for part-of-speech
tags in capitals (`NN`, `NNS`, `JJ`, ...), which stand for rare words in the data. So `CD` or `IN` in capitals is read
as a tag.

## Data

- The subject-verb agreement data of Linzen, Dupoux & Goldberg (2016): beginnings of sentences of the English Wikipedia,
  CC BY-SA 3.0, rare words replaced by their tag. They are not part of this package. Training used `train.tsv`, less
  {settings.validation_share:.0%} held out by a hash of the text.
- Shorter prefixes cut out of the same rows wherever an inner verb shows its number.
- Sentences of a grammar written for this package (`grammar.py`, `lexicon.py`), so that everyday sentences work.
- The encoder all-MiniLM-L6-v2 (Apache-2.0), as packaged in `{settings.encoder}`, which gives the first word
  embeddings (their principal components). Fine-tuned on the same training data, it was also the teacher: its
  probability of a plural verb has a weight of {settings.teacher_weight:.0%} in the label of each row, and it alone
  labels {settings.cut_pool:,} more shorter prefixes of the training rows. Nothing of it is needed to run the model.

No row of `natural.tsv` or `att1.tsv` to `att5.tsv` was trained on, and a shorter prefix that is itself such a row, or
is held out, was left out. Two overlaps cannot be excluded: the data may hold several prefixes of one sentence, and the
encoder was pretrained on web text, which may hold the same sentences.

## Accuracy

{table}

- `natural.tsv` is a sample of running text. In `att1.tsv` to `att5.tsv` one to five nouns of the other number stand
  between subject and verb. Nearly all prefixes with four or five of them are plural, so read the balanced accuracy
  there (the mean of the accuracies on singular and plural prefixes; 50% is chance).
- "train.tsv" are the held-out rows, in the data's two halves.
- "grammar" are sentences with a pair of neighboring nouns that is in no training sentence; in "grammar, unknown nouns"
  every noun is missing from the vocabulary and from the grammar's training sentences.

Abnar & Zuidema report an accuracy of 96% for their own model on data of this kind.

The recipe was worked out on the held-out rows and the grammar. The script prints the whole table at the end of each
run, so the figures of the evaluation files were seen for the few runs that reached their end; the recipe was not chosen
by them.

## Recipe

    python -m attnflow_hf.verb_number.train configs/verb_number.yaml --data FOLDER --output FOLDER

The settings file holds every number. The run took {minutes:.0f} minutes (CPU threads: {settings.n_threads}):

- passes over the data: {settings.teacher_epochs} for the teacher and {settings.epochs} for the model, with AdamW, a
  cosine schedule and a running mean of the weights;
- in each epoch all naturally distributed rows of `train.tsv`, but only {settings.attractor_sample:,} of the many with
  attractors, {settings.cut_sample:,} of the prefixes that the teacher labeled and {settings.grammar_sample:,} sentences
  of the grammar;
- {settings.split_rate:.0%} of the words split into pieces, and {settings.mask_rate:.0%} hidden, to be guessed as a
  second task.

Another run with the same settings gives a slightly different model, as the learner of the word pieces breaks ties at
random. The teacher's labels are the same.

## Limits

- English only, and only the number of a verb in the present tense or of "be".
- Words outside the vocabulary are known by their pieces alone, which costs accuracy in long sentences (see the table).
- Many attractors, several clauses, and agreement by meaning ("the majority of voters" are) are its weak spots.
- It learned from prefixes of up to 48 words and takes {settings.max_length} tokens at most.
- Its certainty is not calibrated.
"""


def render_card(settings: Settings, scores: Sequence[Score], *, minutes: float, n_tokens: int) -> str:
    """Return the model card as Markdown.

    Args:
        settings: The settings of the run.
        scores: The measured accuracies.
        minutes: How long the training took.
        n_tokens: Size of the vocabulary.
    """
    return CARD.format(settings=settings, table=render_scores(scores), minutes=minutes, n_tokens=n_tokens)

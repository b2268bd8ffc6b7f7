"""The tokenizer of the verb-number model: frequent words whole, all others in pieces that keep their ending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["TAGS", "build_tokenizer", "count_words", "split_word"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# The tags of the Penn Treebank, which stand for rare words in the data of Linzen et al. (2016).
TAGS = tuple(
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNP NNPS NNS PDT POS PRP PRP$ "
    "RB RBR RBS RP SYM UH VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB".split()
)

# A longer ending in "s" would hide the number of a word: "zebras" must end in "##s".
ENDINGS_IN_S = frozenset({"##s", "##es", "##ss", "##us", "##is", "##ics", "##ous", "##ness", "##less"})

WORD_PATTERN = "|".join(
    (
        r"``|''|--",
        r"n't\b|'(?:s|ve|m|re|ll|d)\b",
        r"\w+?(?=n't\b)",
        r"\w+(?:-\w+)*",
        r"[^\s\w]",
    )
)


def build_tokenizer(
    counts: Mapping[str, int], *, extra_words: Iterable[str], min_count: int, n_pieces: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer that writes ``[CLS] text`` and knows the frequent words whole.

    Args:
        counts: How often each word occurs in the training sentences (see `count_words`).
        extra_words: Words that are whole tokens however rare they are.
        min_count: A word of `counts` becomes a whole token when it occurs at least so often.
        n_pieces: How many pieces to learn for the other words, before the ones that hide a plural "s" are dropped.
        max_length: The longest input of the model, in tokens.

    Returns:
        The tokenizer, ready for `save_pretrained`.
    """
    frequent = [
        word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= min_count
    ]
    entries = dict.fromkeys((*SPECIAL_TOKENS, *TAGS, *_learn_pieces(counts, n_pieces), *frequent, *extra_words))
    tokenizer = _text_splitter()
    tokenizer.model = models.WordPiece({entry: index for index, entry in enumerate(entries)}, unk_token="[UNK]")
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [SEP] $B:1",
        special_tokens=[(name, SPECIAL_TOKENS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_tokens([AddedToken(tag, single_word=True, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Return how often each lower-cased word occurs in `texts`, the tags of rare words left out."""
    splitter = _text_splitter()
    assert splitter.normalizer is not None
    assert splitter.pre_tokenizer is not None
    counts: Counter[str] = Counter()
    for text in texts:
        plain = " ".join(word for word in text.split() if word not in TAGS)
        normalized = splitter.normalizer.normalize_str(plain)
        counts.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normalized))
    return counts


def split_word(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Return the ids of the pieces that `word` would have if it were no entry of the vocabulary itself.

    The pieces are found as WordPiece does it, always the longest that fits; the list is empty where none fits.

    Example:
        >>> split_word("cats", {"cat": 0, "cats": 1, "##s": 2})
        [0, 2]
    """
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (
            end
            for end in range(len(word), start, -1)
            if end - start < len(word) and prefix + word[start:end] in vocabulary
        )
        end = next(ends, None)
        if end is None:
            return []
        ids.append(vocabulary[prefix + word[start:end]])
        start = end
    return ids


def _text_splitter() -> Tokenizer:
    """Return a tokenizer that only normalizes and splits: lower case, no accents, straight quotes, clitics apart."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True),
            normalizers.Replace(Regex(r"[\x{2018}\x{2019}]"), "'"),
            normalizers.Replace(Regex(r'[\x{201c}"](?=\w)'), "``"),
            normalizers.Replace(Regex(r'[\x{201c}\x{201d}"]'), "''"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    return tokenizer


def _learn_pieces(counts: Mapping[str, int], n_pieces: int) -> list[str]:
    """Return about `n_pieces` word pieces, single characters first.

    The trainer breaks ties at random, so that a few pieces differ from run to run.
    """
    tokenizer = _text_splitter()
    trainer = trainers.WordPieceTrainer(vocab_size=n_pieces, show_progress=False, continuing_subword_prefix="##")
    # Each word counts once: a piece is for rare words, so it should be common among words, not in running text.
    tokenizer.train_from_iterator(sorted(counts), trainer=trainer)
    pieces = sorted(tokenizer.get_vocab(), key=lambda piece: (len(piece.removeprefix("##")), piece))
    return [piece for piece in pieces if not _hides_number(piece)]


def _hides_number(piece: str) -> bool:
    """Return whether a continuing piece swallows a plural "s"."""
    return piece.startswith("##") and piece.endswith("s") and piece not in ENDINGS_IN_S

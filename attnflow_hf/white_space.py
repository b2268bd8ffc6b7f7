"""Words as what stands between white space: which word each character of a text belongs to."""


def word_of_character(text: str) -> list[int]:
    """Return for each character the index of its word; white space belongs to the word behind it, if there is one."""
    words, word, inside = [], 0, False
    for character in text:
        if character.isspace() and inside:
            word, inside = word + 1, False
        elif not character.isspace():
            inside = True
        words.append(word)
    last = word if inside else max(word - 1, 0)
    return [min(word, last) for word in words]


def words_touched(text: str, words: list[int], start: int, stop: int) -> tuple[int, int]:
    """Return the first and last word that the characters from `start` to `stop` belong to."""
    if not words:
        return 0, 0
    solid = [i for i in range(start, stop) if not text[i].isspace()] or [min(start, len(words) - 1)]
    return words[solid[0]], words[solid[-1]]

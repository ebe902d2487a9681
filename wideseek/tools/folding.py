"""One way of comparing words: without case, accents or punctuation."""

import re
import unicodedata

_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ħ": "h"}
)
_JOINING = re.compile(r"['’‘ʻʼ`´]|(?<=[^\W\d_])\.(?=[^\W\d_])")  # "St. John's", "U.S.": no gap
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def fold(text: str) -> str:
    """Lower-case words parted by single spaces: "São Tomé, U.S.A." -> "sao tome usa"."""
    plain = text.casefold()
    if not plain.isascii():
        decomposed = unicodedata.normalize("NFKD", plain).casefold()
        plain = "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_LETTERS)
    return _BETWEEN_WORDS.sub(" ", _JOINING.sub("", plain)).strip()

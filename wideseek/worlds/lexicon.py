"""The word stock of the worlds: kinds, attributes, relations and made-up names, split into train and test.

Invariant: a test world and a training world share no made-up word, no kind, no test-only attribute and no test-only
relation; see `Lexicon.word`.
"""

import hashlib
import random
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]

_ONSETS = (
    "b c d f g h j k l m n p r s t v w z b c d f g h k l m n p r s t v b d g k l m n r s t "
    "br cr dr fr gr kr pr tr bl cl fl gl pl sl ch sh th st sk sp sw qu ph kh zh ts"
).split()
_VOWELS = "a e i o u a e i o u a e i o u a e i o u ai au ea ei ia ie io oa ou ue y".split()
_CODAS = "n r l s t m d k g x nd rn st ll ss ng rt ck th sh ch z f v b p".split()
_MARKED = {
    "a": "áàâãäåā",
    "e": "éèêëě",
    "i": "íîïī",
    "o": "óôõöøō",
    "u": "úûüū",
    "c": "çč",
    "n": "ñń",
    "s": "šş",
    "z": "ž",
}
_REAL = frozenset(("country", "city", "element", "currency", "language"))
"""Kinds of the bundled corpus: never asked for as items in training."""
_STEMS_SHARE = 0.12  # share of names whose words end in an English-looking stem
_STEMS = "land stan ville burg ton ford dale wick berg heim gate mouth field worth grad ia ium ese ish ine".split()


@dataclass(frozen=True, slots=True)
class Attribute:
    """A fact a page may state: its label there, the ways people ask for it, and the kind of its values."""

    label: str
    asked: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One split's words; fact_kinds: labels of facts that can also be kinds, singular and plural.

    english: real words, of training only, that may stand wherever a made-up word does.
    """

    split: Split
    kinds: tuple[tuple[str, str], ...]
    attributes: tuple[Attribute, ...]
    relations: tuple[str, ...]
    groups: tuple[str, ...]
    adjectives: tuple[str, ...]
    words: tuple[str, ...]
    fact_kinds: tuple[tuple[str, str], ...]
    english: tuple[str, ...]

    def word(self, rng: random.Random) -> str:
        """A made-up lower-case word of this split; a word's split is decided by its hash, one in five is test."""
        while True:
            word = _draw_word(rng)
            if self.may_have(word):
                return word

    def may_have(self, text: str) -> bool:
        """Whether every word of a made-up text is of this split."""
        return all(_is_test(word) == (self.split == "test") for word in text.lower().split(" "))

    def name(self, rng: random.Random) -> str:
        """A capitalised made-up name of one to four words, now and then with a hyphen, an apostrophe or a stem."""
        words = [self.word(rng).capitalize() for _ in range(rng.choices((1, 2, 3), (55, 38, 7))[0])]
        draw = rng.random()
        if draw < 0.05:
            words[0] = f"{words[0]}-{self.word(rng).capitalize()}"
        elif draw < 0.08:
            words[0] = f"{rng.choice(('O', 'D', 'L', 'Al', 'N'))}'{words[0]}"
        elif draw < 0.14:
            words.insert(
                0,
                rng.choice(
                    (
                        "San",
                        "New",
                        "Saint",
                        "Port",
                        "North",
                        "South",
                        "East",
                        "West",
                        "El",
                        "La",
                        "The",
                    )
                ),
            )
        elif draw < 0.18 and len(words) > 1:
            words.insert(1, rng.choice(("of", "and", "de", "da", "the", "del", "am", "upon")))
        return " ".join(words)


def _is_test(word: str) -> bool:
    return hashlib.blake2b(word.encode(), digest_size=2).digest()[0] % 5 == 0


@cache
def _fragments() -> list[str]:
    """Pieces of one to four letters of the kind that real names and words are made of."""
    text: str = _read()["fragments"]["pieces"]
    return text.split()


def _draw_word(rng: random.Random) -> str:
    if rng.random() < 0.35:
        return "".join(
            rng.choice(_fragments()) for _ in range(rng.choices((2, 3, 4), (45, 45, 10))[0])
        )
    syllables = rng.choices((1, 2, 3, 4), (12, 55, 27, 6))[0]
    parts = []
    for index in range(syllables):
        onset = rng.choice(_ONSETS) if index or rng.random() > 0.15 else ""
        coda = (
            rng.choice(_CODAS) if rng.random() < (0.55 if index == syllables - 1 else 0.2) else ""
        )
        parts.append(onset + rng.choice(_VOWELS) + coda)
    word = "".join(parts)
    if rng.random() < _STEMS_SHARE:
        word += rng.choice(_STEMS)
    if rng.random() < 0.1:
        places = [i for i, letter in enumerate(word) if letter in _MARKED]
        if places:
            at = rng.choice(places)
            word = word[:at] + rng.choice(_MARKED[word[at]]) + word[at + 1 :]
    return word


def _attributes(text: str) -> tuple[Attribute, ...]:
    rows = [line.split(";") for line in text.strip().splitlines()]
    return tuple(
        Attribute(label.strip(), tuple(form.strip() for form in forms.split(",")), kind.strip())
        for label, forms, kind in rows
    )


def _merged(attributes: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
    """One Attribute a label, with all ways in which it is asked for."""
    by_label: dict[str, Attribute] = {}
    for new in attributes:
        known = by_label.get(new.label, new)
        asked = tuple(dict.fromkeys((*known.asked, *new.asked)))
        by_label[new.label] = Attribute(new.label, asked, known.kind)
    return tuple(by_label.values())


def _kinds(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split("/") for pair in text.split())
    return tuple((one, many) for one, many in pairs)


def _english() -> tuple[str, ...]:
    text = (Path(__file__).parent / "english.txt").read_text(encoding="utf-8")
    return tuple(w for x in text.splitlines() if not x.startswith("#") for w in x.split())


@cache
def _read() -> dict[str, Any]:
    with (Path(__file__).parent / "lexicon.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def load_lexicon(split: Split) -> Lexicon:
    """The lexicon of a split. Test worlds use test kinds and relations only, and test attributes beside shared ones."""
    data = _read()
    train_attributes = _attributes(data["attributes"]["train"])
    test_attributes = _attributes(data["attributes"]["test"])
    test = split == "test"
    return Lexicon(
        split=split,
        kinds=_kinds(data["kinds"][split]),
        attributes=train_attributes[::3] + test_attributes
        if test
        else _merged(train_attributes + _attributes(data["attributes"]["ways"])),
        relations=tuple(data["relations"][split].strip().splitlines()),
        groups=tuple(data["groups"][split].split()),
        adjectives=tuple(data["groups"]["adjectives_test" if test else "adjectives"].split()),
        words=tuple(data["words"]["train"].split()),
        fact_kinds=tuple(
            (a.label, a.asked[0])
            for a in train_attributes
            if a.asked[0] == f"{a.label}s" and a.label not in _REAL
        ),
        english=() if test else _english(),
    )

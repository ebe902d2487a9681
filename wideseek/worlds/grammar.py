"""The grammar of questions: reads phrasing.toml and everyday.toml, and draws what their parts stand for."""

import random
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from wideseek.worlds.lexicon import Split

_PART = re.compile(r"<([\w -]+)>")


@cache
def pieces(split: Split) -> dict[str, list[str]]:
    """The alternatives of every part that a split has."""
    sections = _read("phrasing.toml")
    texts: dict[str, str] = sections["both"] | sections[split]
    if split == "train":
        texts |= _read("everyday.toml")
    return {
        part: [piece.replace("¦", "|") for piece in text.replace("\n", "").split("|")]
        for part, text in texts.items()
    }


def _read(name: str) -> dict[str, Any]:
    with (Path(__file__).parent / name).open("rb") as file:
        return tomllib.load(file)


def expand(template: str, split: Split, rng: random.Random) -> str:
    """Put an alternative for every <part>, from the left, until none is left."""
    grammar = pieces(split)
    while found := _PART.search(template):
        template = (
            template[: found.start()] + rng.choice(grammar[found[1]]) + template[found.end() :]
        )
    return template


def training_words() -> list[str]:
    """Every text of the training grammar, without its marks, for building a vocabulary."""
    mark = re.compile(r"<[\w -]+>|\{\w\}")
    return [mark.sub(" ", text) for texts in pieces("train").values() for text in texts]


def with_first(text: str, lower: bool) -> str:
    """The first letter, also of a placeholder, made small or capital."""
    at = 1 if text.startswith("{") else 0
    first = text[at : at + 1]
    return text[:at] + (first.lower() if lower else first.upper()) + text[at + 1 :]

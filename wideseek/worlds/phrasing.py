"""How people ask: a grammar of broad and narrow questions.

Every question is built around a contiguous span that says what the items are ("castles in Morlen") and, in their order,
the columns as the asker words them. The pieces are in phrasing.toml; its test
pieces never occur in training.
"""

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wideseek.worlds.lexicon import Split


@dataclass(frozen=True, slots=True)
class Phrasing:
    """A question with the pieces a careful reader would mark in it.

    span: the words that say what is listed, or the entity of a narrow question; columns: the facts as worded; key_header:
    the asker's word for the first column when given ("Columns: Castle, Height"); entities: the items, when the question
    names each of them.
    """

    question: str
    span: str
    columns: tuple[str, ...]
    key_header: str | None = None
    entities: tuple[str, ...] = ()


@cache
def _grammar(split: Split) -> dict[str, list[str]]:
    with (Path(__file__).parent / "phrasing.toml").open("rb") as file:
        texts: dict[str, str] = tomllib.load(file)[split]
    return {part: text.replace("\n", "").split("|") for part, text in texts.items()}


def _choose(part: str, split: Split, rng: random.Random) -> str:
    return rng.choice(_grammar(split)[part])


def _join_columns(columns: list[str], rng: random.Random) -> str:
    """Write out columns the way people do: "a, b and c"."""
    if len(columns) == 1:
        return columns[0]
    last = rng.choice(
        " and | and | and |, and |, | as well as | & |, plus | and the | and their ".split("|")
    )
    middle = rng.choice(", |, |, |, |, the |; | and |, their ".split("|"))
    return middle.join(columns[:-1]) + last + columns[-1]


def ask_list(
    span: str, kind: tuple[str, str], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A broad question for the items `span` names, with `columns`; `kind` is their singular and plural."""
    one, many = kind
    columns_text = _join_columns(list(columns), rng) if columns else ""
    key_header = None
    form = rng.choices(("open", "front", "each", "which", "bare"), (50, 16, 8, 18, 8))[0]
    if not columns:
        question = rng.choice(
            (
                f"{_choose('open', split, rng)} {_choose('all', split, rng)} {span}",
                _choose("which", split, rng).format(s=span),
            )
        )
    elif form == "open":
        join = _choose("join", split, rng)
        if (
            join.lower().rstrip().endswith(("columns:", "columns", "fields:", "wanted:"))
            and rng.random() < 0.6
        ):
            key_header = rng.choice((one, one.capitalize(), "name", "Name", f"{one} name"))
            columns = tuple(c.capitalize() for c in columns) if key_header[0].isupper() else columns
            columns_text = ", ".join((key_header, *columns))
        close = ")" if "(" in join else ""
        question = f"{_choose('open', split, rng)} {_choose('all', split, rng)} {span}{join}{columns_text}{close}"
    elif form == "front":
        question = f"{_choose('front', split, rng)} {columns_text}{_choose('of', split, rng)}{span}"
    elif form == "each":
        question = f"{_choose('each', split, rng)} {span}{_choose('ask', split, rng)}{columns_text}"
    elif form == "which":
        if span.startswith(many + " ") and rng.random() < 0.35:
            span = f"{many} {rng.choice(('are', 'are', 'were', 'lie', 'can be', 'have been'))}{span[len(many) :]}"
            question = f"{rng.choice(('Which', 'What'))} {span}{_choose('and_what', split, rng)}{columns_text}"
        else:
            opening = _choose("which", split, rng).format(s=span)
            question = f"{opening}{_choose('and_what', split, rng)}{columns_text}"
    else:
        span = span[0].upper() + span[1:]
        question = (
            span + rng.choice((": ", " - ", ", ", " with ", " and their ", "; ")) + columns_text
        )
    return Phrasing(_finish(question, split, rng), span, columns, key_header)


def ask_entities(
    entities: tuple[str, ...], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A question that names its items one by one."""
    template = _choose("entities", split, rng)
    names = ", ".join(entities[:-1]) + rng.choice((" and ", " and ", ", and ", ", ")) + entities[-1]
    names = names if len(entities) > 1 else entities[0]
    question = template.format(c=_join_columns(list(columns), rng), s=names)
    return Phrasing(_finish(question, split, rng), "; ".join(entities), columns, None, entities)


def ask_fact(entity: str, column: str, split: Split, rng: random.Random) -> Phrasing:
    """A narrow question for one fact of one entity."""
    if column.split()[0] in ("how", "when", "who", "where"):
        question = f"{column.capitalize()} {rng.choice(('is', 'was', 'is', 'are'))} {entity}?"
        column = question[: len(column)]
    else:
        template = _choose("narrow", split, rng)
        if template.startswith("{c}"):
            column = column[0].upper() + column[1:]
        question = template.format(c=column, s=entity)
    return Phrasing(_finish(question, split, rng), entity, (column,))


def _finish(question: str, split: Split, rng: random.Random) -> str:
    """Greeting, closing words, final mark and letter case."""
    question = " ".join(question.split())
    if rng.random() < 0.5 and question[-1] not in ".?!":
        question += "?" if question.startswith(("Wh", "Can", "Could", "Would", "How")) else "."
    if rng.random() < 0.06:
        question += _choose("thanks", split, rng)
    if rng.random() < 0.05:
        question = _choose("hello", split, rng) + question
    return question


def training_words() -> list[str]:
    """Every text of the training grammar, for building a vocabulary."""
    return [text for texts in _grammar("train").values() for text in texts]

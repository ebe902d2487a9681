"""How the facts that a question asks for are written out: in a row, one a line, or each in a clause of its own."""

import random
import re
from functools import cache

from wideseek.worlds.grammar import expand, pieces, with_first
from wideseek.worlds.lexicon import Split, load_lexicon

_ORDERED_SHARE = 0.05  # of training questions whose facts stand last: "ordered by" one of them
_QUESTION = re.compile(r"(how many|how|who|when|where|which|what year|by whom)\b ?(.*)")
_ACTS = re.compile(r"(?:\S+ )+(?:they|it|each|each one|~) \S.*")
_ASKING = ("how", "what", "when", "where", "which", "who")


def join_columns(columns: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """Write out columns the way people do: "a, b and c"; in training also "a / b / c", "(1) a, (2) b" and the like."""
    if len(columns) == 1:
        return columns[0]
    if split == "train" and rng.random() < 0.1 and _words_of_facts().issuperset(columns):
        return " ".join(columns[:-1]) + rng.choice((" and ", " ")) + columns[-1]
    if split == "train" and rng.random() < 0.25:
        return rng.choice((_separate, _separate, _number, _sequence))(columns, rng)
    last, middle = expand("<last>", split, rng), expand("<middle>", split, rng)
    return middle.join(columns[:-1]) + last + columns[-1]


@cache
def _words_of_facts() -> frozenset[str]:
    """Facts that can be told apart although nothing stands between them."""
    return frozenset(a for x in load_lexicon("train").attributes for a in (x.label, *x.asked))


def _separate(columns: tuple[str, ...], rng: random.Random) -> str:
    marks = (", ", ", ", ", ", " / ", " / ", " + ", " + ", "/", "; ", " & ", " | ", " and ")
    return rng.choice(marks).join(columns)


def _number(columns: tuple[str, ...], rng: random.Random) -> str:
    mark = rng.choice(("({}) ", "{}) ", "{}. "))
    first = rng.choice("11a")
    marked = [mark.format(chr(ord(first) + n)) + column for n, column in enumerate(columns)]
    last = rng.choice((", ", ", ", " and ", ", and "))
    return rng.choice((", ", " ", "; ")).join(marked[:-1]) + last + marked[-1]


def _sequence(columns: tuple[str, ...], rng: random.Random) -> str:
    if len(columns) == 2:
        first, between = rng.choice((("both ", " and "), ("first ", ", then "), ("", " and then ")))
        return first + between.join(columns)
    start, end = rng.choice((("first ", " and finally "), ("", " and also "), ("", ", then ")))
    return start + ", ".join(columns[:-1]) + end + columns[-1]


def _clauses(columns: tuple[str, ...], rng: random.Random) -> str:
    """Columns after the first each in words of their own: "a, and what b each has. Include the c"."""
    text = columns[0]
    for column in columns[1:]:
        link = rng.choice((", ", ", and ", " and ", "; ", "? ", ". "))
        clause = rng.choice(pieces("train")["clause"]).replace("{c}", column)
        text += link + (with_first(clause, lower=False) if link in ("? ", ". ") else clause)
    return text


def is_told(column: str) -> bool:
    """Whether a fact is worded as a question of its own: "how many rooms", "when built"."""
    return bool(_QUESTION.fullmatch(column) or _ACTS.fullmatch(column))


def follows_its_item(column: str) -> bool:
    """Whether a fact cannot be asked around its item as "when built" can ("when was Morlen built"): a mere "when" cannot."""
    question = _QUESTION.fullmatch(column)
    return _ACTS.fullmatch(column) is not None or (question is not None and not question[2])


def tell(column: str, rng: random.Random) -> str:
    """A fact as a clause of its own: "how many rooms they have", "when it was built", "what height each has"."""
    acts = _ACTS.fullmatch(column) is not None
    if acts and column.startswith(_ASKING):
        return column
    if acts and " where " in column:
        return rng.choice(("the ", "")) + column
    found = _QUESTION.fullmatch(column)
    if acts or not found:
        part = "told_what" if acts else "told_clause"
        return rng.choice(pieces("train")[part]).replace("{c}", column)
    word, rest = found.groups()
    part = {"how many": "told_many", "how": "told_how"}.get(word, "told_who")
    part = "told_when" if word in ("when", "where") else part
    part = part if rest else "told_bare"
    clause = rng.choice(pieces("train")[part])
    return clause.replace("{q}", word).replace("{r}", rest).replace("{c}", column)


def tell_all(columns: tuple[str, ...], rng: random.Random) -> str:
    """Facts in clauses: "what their heights are, who built them and when they were opened"."""
    clauses = [tell(columns[0], rng)]
    clauses += [c if not is_told(c) and rng.random() < 0.5 else tell(c, rng) for c in columns[1:]]
    last = rng.choice((" and ", " and ", ", and ", ", "))
    return (", ".join(clauses[:-1]) + last if len(clauses) > 1 else "") + clauses[-1]


def bullet(columns: tuple[str, ...], rng: random.Random) -> str:
    """One column a line; only for the end of a question."""
    mark = rng.choice(("- ", "- ", "* ", "{}. ", "{}) ", ""))
    return "".join(f"\n{mark.format(n)}{column}" for n, column in enumerate(columns, 1))


def join_header(columns: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """The columns of a table as they are typed in a row, the key column first."""
    if split == "test" or rng.random() < 0.5:
        return ", ".join(columns)
    if rng.random() < 0.35:
        return ", ".join(columns[:-1]) + " and " + columns[-1]
    return rng.choice((" | ", " | ", " | ", " / ", "; ", " - ", " + ")).join(columns)


def write_columns(
    carrier: str, columns: tuple[str, ...], split: Split, rng: random.Random
) -> tuple[str, str]:
    """The carrier and the columns' text; at a question's end they may stand one a line, or in clauses."""
    end = carrier.removesuffix(".")
    if split == "train" and len(columns) > 1 and end.endswith("{c}") and rng.random() < 0.16:
        return (
            (end, bullet(columns, rng)) if rng.random() < 0.4 else (carrier, _clauses(columns, rng))
        )
    facts = join_columns(columns, split, rng)
    last = re.search(r"\{c\}[.?]?$", carrier)
    if split == "train" and last and rng.random() < _ORDERED_SHARE:
        facts += rng.choice((", ", " ", "; ")) + expand("<ordered>", split, rng)
        facts += f" {rng.choice(columns)}{expand('<direction>', split, rng)}"
    return carrier, facts

"""How people ask: a grammar of broad and narrow questions.

Every question is built around a contiguous span that says what the items are ("castles in Morlen") and, in their order,
the columns as the asker words them. The pieces are in phrasing.toml; its test pieces never occur in training. The carrier
is the question with placeholders {s} and {c} still in it; {S} and {C} stand where a sentence begins.
"""

import random
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from wideseek.worlds.lexicon import Split, load_lexicon

_PART = re.compile(r"<([\w -]+)>")
# A word that may be made up; one right beside a placeholder stays, so that the span's ends can still be read.
_WORD = re.compile(r"(?<![{'])(?<!\} )\b[A-Za-z]{3,}(?:'[a-z]+)?\b(?! ?\{)")
# What ends with a question mark, not "What I need is a list".
_ASKS = re.compile(
    r"Wh(?!at (I|we|is needed|should|has|about)\b)|How|Can|Could|Would|Will|Might|May|Shall|Is|Are|Do (you|we)|Does"
)
# What stands beside the items, and what may stand there instead: "castles vasked by their heights", "Vasking Morlen, what",
# "Morlen vask to vask: height", "the heights vasking to all castles".
_LINKS = (
    (re.compile(r"(\{s\}),? [a-z]+(?: [a-z]+){0,3} (?=\{c\})"), r"\1 {w}{joined} {whose} "),
    (re.compile(r"^(?:[A-Z][a-z]+ing|Given|Take|Consider|For) (?=\{s\})"), "{W}ing "),
    (re.compile(r"(\{s\})(?: [a-z]+){1,5}(?=: \{c\})"), r"\1 {w} {beside} {w}"),
    (
        re.compile(r"(\{c\}) (?:of|for)(?=(?: all| each| every)?(?: the)? \{s\})"),
        r"\1 {w}ing {beside}",
    ),
)
_MADE_UP_SHARE = 0.2  # of training questions: structure, not vocabulary, must be read
_LINKS_SHARE = 0.4  # of training questions: what joins the items to the rest may be unknown too
_LOWER_SHARE = 0.06  # of training questions: typed without a capital
_FORMS = {
    "open": "<open> <all> {s}<join>",
    "front": "<front> {c}<of>{s}",
    "each": "<each> {s}<ask>",
    "which": "<which><and_what>",
    "bare": "{s}<bare>",
    "header": "<headed><header>",
    "plain": "<plain> {s}<plain_join> {c}",
}
_FORM_WEIGHTS: dict[Split, tuple[int, ...]] = {
    "train": (44, 24, 8, 14, 13, 18, 30),
    "test": (50, 16, 8, 18, 8, 0, 0),
}


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
        sections: dict[str, dict[str, str]] = tomllib.load(file)
    texts = sections["both"] | sections[split]
    return {part: text.replace("\n", "").split("|") for part, text in texts.items()}


def _expand(template: str, split: Split, rng: random.Random) -> str:
    """Put an alternative for every <part>, from the left, until none is left."""
    grammar = _grammar(split)
    while found := _PART.search(template):
        template = (
            template[: found.start()] + rng.choice(grammar[found[1]]) + template[found.end() :]
        )
    return template


def _join_columns(columns: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """Write out columns the way people do: "a, b and c"; in training also "a / b / c", "(1) a, (2) b" and the like."""
    if len(columns) == 1:
        return columns[0]
    if split == "train" and rng.random() < 0.25:
        return rng.choice((_separate, _separate, _number, _sequence))(columns, rng)
    last, middle = _expand("<last>", split, rng), _expand("<middle>", split, rng)
    return middle.join(columns[:-1]) + last + columns[-1]


def _separate(columns: tuple[str, ...], rng: random.Random) -> str:
    marks = (", ", ", ", ", ", " / ", " / ", " + ", " + ", "/", "; ", " & ", " | ", " and ")
    return rng.choice(marks).join(columns)


def _number(columns: tuple[str, ...], rng: random.Random) -> str:
    mark = rng.choice(("({}) ", "{}) ", "{}. "))
    names = rng.choice(("123456789", "123456789", "abcdefghi"))
    marked = [mark.format(n) + column for n, column in zip(names, columns, strict=False)]
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
        clause = rng.choice(_grammar("train")["clause"]).replace("{c}", column)
        text += link + (_with_first(clause, lower=False) if link in ("? ", ". ") else clause)
    return text


def _bullet(columns: tuple[str, ...], rng: random.Random) -> str:
    """One column a line; only for the end of a question."""
    mark = rng.choice(("- ", "- ", "* ", "{}. ", "{}) ", ""))
    return "".join(f"\n{mark.format(n)}{column}" for n, column in enumerate(columns, 1))


def _join_header(columns: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """The columns of a table as they are typed in a row, the key column first."""
    if split == "test" or rng.random() < 0.5:
        return ", ".join(columns)
    if rng.random() < 0.35:
        return ", ".join(columns[:-1]) + " and " + columns[-1]
    return rng.choice((" | ", " | ", " | ", " / ", "; ", " - ", " + ")).join(columns)


def _with_first(text: str, lower: bool) -> str:
    """The first letter, also of a placeholder, made small or capital."""
    at = 1 if text.startswith("{") else 0
    first = text[at : at + 1]
    return text[:at] + (first.lower() if lower else first.upper()) + text[at + 1 :]


def _carrier(
    template: str,
    split: Split,
    rng: random.Random,
    *,
    thanks: str = "thanks",
    links: bool = False,
) -> str:
    """Expand a template; add final mark, closing words and greeting; now and then make its words up.

    links: also those right beside the items.
    """
    text = _with_first(" ".join(_expand(template, split, rng).split()), lower=False)
    text = re.sub(r"(?i)\b(please) please\b", r"\1", text)  # two polite parts may meet
    train = split == "train"
    if rng.random() < 0.5 and text[-1] not in ".?!":
        first_sentence = not train or not re.search(r"[.?!] ", text)
        text += "?" if first_sentence and _ASKS.match(text) else "."
    if rng.random() < 0.06:
        words = _expand(f"<{thanks}>", split, rng)
        if train and text[-1] not in ".?!" and words[1].isupper() and rng.random() < 0.6:
            text += "."
        text += words
    if rng.random() < (0.14 if train else 0.05):
        text = _greet(text, split, rng)
    if train and links:
        text = _make_up_link(text, rng)
    return _make_up(text, rng) if train and rng.random() < _MADE_UP_SHARE else text


def _greet(text: str, split: Split, rng: random.Random) -> str:
    hello = _expand("<hello>", split, rng)
    if split == "test":
        return hello + text
    hello = re.sub(r"(^|[.!] )([a-z])", lambda found: found[1] + found[2].upper(), hello)
    if hello.endswith(", ") and not re.match(r"I\b", text):
        text = _with_first(text, lower=True)
    return hello + text


def _make_up(carrier: str, rng: random.Random) -> str:
    """Replace all but function words by made-up ones."""
    known = set(_grammar("train")["function_words"])

    def made_up(found: re.Match[str]) -> str:
        if found[0].lower() in known:
            return found[0]
        word = _made_up_word(rng, 4, 99)
        return word.capitalize() if found[0][0].isupper() else word

    return _WORD.sub(made_up, carrier)


def _make_up_link(carrier: str, rng: random.Random) -> str:
    """Replace the words on one side of the items by made-up ones, whose form still tells that they are none of them."""
    if rng.random() >= _LINKS_SHARE:
        return carrier
    found = [(pattern, new) for pattern, new in _LINKS if pattern.search(carrier)]
    if not found:
        return carrier
    pattern, new = rng.choice(found)
    word = _made_up_word(rng, 3, 9)
    joined = rng.choice(("ed by", "ed by", "ed with", "ing", " with", "ed to", "ed in", " to"))
    whose = rng.choice(("their", "their", "the", "its"))
    beside = rng.choice(("by", "to", "for", "against"))
    filled = new.format(w=word, W=word.capitalize(), joined=joined, whose=whose, beside=beside)
    return pattern.sub(filled, carrier, count=1)


def _made_up_word(rng: random.Random, shortest: int, longest: int) -> str:
    word = ""
    while not shortest <= len(word) <= longest:
        word = load_lexicon("train").word(rng)
    return word


def _fill(draft: Phrasing, items: str, facts: str, split: Split, rng: random.Random) -> Phrasing:
    """Put the items and the facts into the carrier that the draft has for a question; now and then all in lower case."""
    texts = {"s": items, "c": facts}
    question = re.sub(
        r"\{([sc])\}", lambda found: texts[found[1].lower()], draft.question, flags=re.I
    )
    full = replace(draft, question=re.sub(r"[ :]*\n", ":\n", question, count=1))
    if split == "test" or rng.random() >= _LOWER_SHARE:
        return full
    return Phrasing(
        full.question.lower(),
        full.span.lower(),
        tuple(column.lower() for column in full.columns),
        full.key_header and full.key_header.lower(),
        tuple(entity.lower() for entity in full.entities),
    )


def _write_columns(
    carrier: str, columns: tuple[str, ...], split: Split, rng: random.Random
) -> tuple[str, str]:
    """The carrier and the columns' text; at a question's end they may stand one a line, or in clauses."""
    end = carrier.removesuffix(".")
    if split == "train" and len(columns) > 1 and end.endswith("{c}") and rng.random() < 0.16:
        return (
            (end, _bullet(columns, rng))
            if rng.random() < 0.4
            else (carrier, _clauses(columns, rng))
        )
    return carrier, _join_columns(columns, split, rng)


def _headed(
    kind: tuple[str, str], columns: tuple[str, ...], split: Split, rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A word for the key column, and the columns in its letter case."""
    one, _ = kind
    key = _expand("<headers>", split, rng).format(k=one, K=one.capitalize())
    return key, tuple(c.capitalize() for c in columns) if key[0].isupper() else columns


def ask_list(
    span: str, kind: tuple[str, str], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A broad question for the items `span` names, with `columns`; `kind` is their singular and plural."""
    if not columns:
        template = rng.choice(("<open> <all> {s}", "<which>"))
        if split == "train" and rng.random() < 0.3:
            template = "<plain> {s}"
        carrier = _carrier(template, split, rng)
        return _fill(Phrasing(carrier, span, ()), span, "", split, rng)
    form = rng.choices(tuple(_FORMS), _FORM_WEIGHTS[split])[0]
    template = _FORMS[form]
    many = kind[1]
    if form == "which" and span.startswith(many + " ") and rng.random() < 0.35:
        verb = rng.choice(("are", "are", "were", "lie", "can be", "have been"))
        span = f"{many} {verb}{span[len(many) :]}"
        template = rng.choice(("Which", "What")) + " {s}<and_what>"
    countable = split == "train" and form in ("open", "plain", "each") and many in span
    if countable and rng.random() < 0.08:  # "every castle in Morlen, with its height"
        span = span.replace(many, kind[0], 1)
        template = "<every> {s}<every_with> {c}"
    template = _expand(template, split, rng)
    template = template if "{c}" in template else template + "{c}"
    # A header's first word is only told from a fact by the words that announce it.
    carrier = _carrier(template, split, rng, links=form != "header")
    if "{S}" in carrier:
        span = span[0].upper() + span[1:]
    if form == "header" or (". Wanted: {c}" in carrier and rng.random() < 0.6):
        key, columns = _headed(kind, columns, split, rng)
        draft = Phrasing(carrier, span, columns, key)
        return _fill(draft, span, _join_header((key, *columns), split, rng), split, rng)
    carrier, facts = _write_columns(carrier, columns, split, rng)
    return _fill(Phrasing(carrier, span, columns), span, facts, split, rng)


def ask_entities(
    entities: tuple[str, ...], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A question that names its items one by one."""
    template = _expand("<entities>", split, rng)
    template = template if "{c}" in template else template + "{c}"
    carrier = _carrier(template, split, rng, links=True)
    last = rng.choice((" and ", " and ", ", and ", ", "))
    names = (", ".join(entities[:-1]) + last if len(entities) > 1 else "") + entities[-1]
    if split == "train" and rng.random() < 0.1:
        names = rng.choice((" / ", "; ", " & ", " and ")).join(entities)
    carrier, facts = _write_columns(carrier, columns, split, rng)
    draft = Phrasing(carrier, "; ".join(entities), columns, None, entities)
    return _fill(draft, names, facts, split, rng)


def ask_fact(entity: str, column: str, split: Split, rng: random.Random) -> Phrasing:
    """A narrow question for one fact of one entity."""
    part = "narrow"
    if (word := column.split()[0]) in ("how", "when", "who", "where"):
        part = "how_many" if column.startswith("how many") else word
        part = part if part in _grammar(split) else "how"
    carrier = _carrier(
        f"<{part}>", split, rng, thanks="fact_thanks" if split == "train" else "thanks"
    )
    if "{C}" in carrier:
        column = column[0].upper() + column[1:]
    return _fill(Phrasing(carrier, entity, (column,)), entity, column, split, rng)


def training_words() -> list[str]:
    """Every text of the training grammar, without its marks, for building a vocabulary."""
    mark = re.compile(r"<[\w -]+>|\{\w\}")
    return [mark.sub(" ", text) for texts in _grammar("train").values() for text in texts]

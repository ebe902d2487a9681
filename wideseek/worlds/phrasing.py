"""How people ask: a grammar of broad and narrow questions.

Every question is built around a contiguous span that says what the items are ("castles in Morlen") and, in their order,
the columns as the asker words them. The pieces are in phrasing.toml, whose test pieces never occur in training, and in
everyday.toml. The carrier
is the question with placeholders {s} and {c} still in it; {S} and {C} stand where a sentence begins.
"""

import random
import re
from dataclasses import dataclass, replace

from wideseek.worlds.columns import (
    bullet,
    follows_its_item,
    is_told,
    join_columns,
    join_header,
    tell,
    tell_all,
    write_columns,
)
from wideseek.worlds.grammar import expand, pieces, with_first
from wideseek.worlds.lexicon import Split, load_lexicon
from wideseek.worlds.turned import turn

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
_EVERYDAY_SHARE = 0.4  # of training questions without columns, or about named items
_LOWER_SHARE = 0.12  # of training questions: typed without a capital
_FORMS = {
    "open": "<open> <all> {s}<join>",
    "front": "<front> {c}<of>{s}",
    "each": "<each> {s}<ask>",
    "which": "<which><and_what>",
    "bare": "{s}<bare>",
    "header": "<headed><header>",
    "plain": "<plain> {s}<plain_join> {c}",
    "front_header": "<front> {c}<of>{s}",
    "row": "{s}<mark>{c}",
    "everyday": "<everyday>",
}
_FORM_WEIGHTS: dict[Split, tuple[int, ...]] = {
    "train": (44, 24, 8, 18, 20, 28, 30, 8, 8, 110),
    "test": (50, 16, 8, 18, 8, 0, 0, 0, 0, 0),
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
    text = with_first(" ".join(expand(template, split, rng).split()), lower=False)
    text = re.sub(r"(?i)\b(please) please\b", r"\1", text)  # two polite parts may meet
    train = split == "train"
    if train:
        text = re.sub(r"\^(.)(.)", lambda found: with_first(found[1] + found[2], False), text)
    if rng.random() < 0.5 and text[-1] not in ".?!":
        asks = _ASKS.match(re.split(r"[.?!] ", text)[-1] if train else text)
        text += "?" if asks else "."
    if rng.random() < 0.06:
        words = expand(f"<{thanks}>", split, rng)
        if words[0] in ",!":
            text = text.rstrip(".?!")
        elif train and text[-1] not in ".?!" and words[1].isupper() and rng.random() < 0.6:
            text += "."
        text += words
    if rng.random() < (0.14 if train else 0.05):
        text = _greet(text, split, rng)
    if train and links:
        text = _make_up_link(text, rng)
    text = _make_up(text, rng) if train and rng.random() < _MADE_UP_SHARE else text
    return _name_strangers(text, rng)


def _name_strangers(carrier: str, rng: random.Random) -> str:
    """Put in names and numbers that have nothing to do with the items."""
    while "{N}" in carrier:
        carrier = carrier.replace("{N}", load_lexicon("train").name(rng), 1)
    return carrier.replace("{n}", str(rng.randint(2, 40))) if "{n}" in carrier else carrier


def _greet(text: str, split: Split, rng: random.Random) -> str:
    hello = expand("<hello>", split, rng)
    if split == "test":
        return hello + text
    hello = re.sub(r"(^|[.!] )([a-z])", lambda found: found[1] + found[2].upper(), hello)
    if hello.endswith(", ") and not re.match(r"I\b", text):
        text = with_first(text, lower=True)
    return hello + text


def _make_up(carrier: str, rng: random.Random) -> str:
    """Replace all but function words by made-up ones."""
    known = set(pieces("train")["function_words"])

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
    marked = re.sub(r"[ :;,+=/|–—→>-]*\n", ":\n", question, count=1)
    full = replace(draft, question=re.sub(r"([.?]):\n", r"\1\n", marked))
    if split == "test" or rng.random() >= _LOWER_SHARE:
        return full
    return Phrasing(
        full.question.lower(),
        full.span.lower(),
        tuple(column.lower() for column in full.columns),
        full.key_header and full.key_header.lower(),
        tuple(entity.lower() for entity in full.entities),
    )


def _headed(
    kind: tuple[str, str], columns: tuple[str, ...], split: Split, rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A word for the key column, and the columns in its letter case."""
    one, _ = kind
    key = expand("<headers>", split, rng).format(k=one, K=one.capitalize())
    return key, tuple(c.capitalize() for c in columns) if key[0].isupper() else columns


def ask_list(
    span: str, kind: tuple[str, str], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A broad question for the items `span` names, with `columns`; `kind` is their singular and plural."""
    if not columns:
        template = rng.choice(("<open> <all> {s}", "<which>"))
        if split == "train" and rng.random() < 0.3:
            template = rng.choice(("<plain> {s}", "<plain> {s}<just>", "{s}<just>"))
        if split == "train":
            template = "<e list>" if rng.random() < _EVERYDAY_SHARE else template
            turned, span = turn(template, span, kind[1], rng)
            template = turned.removesuffix("<and_what>")
        carrier = _carrier(template, split, rng).replace("{P}", kind[1])
        if "{S}" in carrier:
            span = span[0].upper() + span[1:]
        return _fill(Phrasing(carrier, span, ()), span, "", split, rng)
    if any(map(is_told, columns)):
        return _ask_list_told(span, kind[1], columns, rng)
    form = rng.choices(tuple(_FORMS), _FORM_WEIGHTS[split])[0]
    template = _FORMS[form]
    many = kind[1]
    if form == "which" and span.startswith(many + " ") and rng.random() < 0.35:
        verb = rng.choice(("are", "are", "were", "lie", "can be", "have been"))
        span = f"{many} {verb}{span[len(many) :]}"
        template = rng.choice(("Which", "What")) + " {s}<and_what>"
    if split == "train":
        turned, span = turn(template, span, many, rng)
        form, template = ("which" if turned.endswith("<and_what>") else form), turned
    countable = form in ("open", "plain", "each", "everyday") and many in span
    if split == "train" and countable and rng.random() < 0.08:
        # "every castle in Morlen, with its height", "the height of each castle in Morlen"
        span = span.replace(many, kind[0], 1)
        template = rng.choice(
            ("<every> {s}<every_with> {c}", "<every> {s}<every_with> {c}", "{c} <of_every> {s}")
        )
    template = expand(template, split, rng)
    template = template if "{c}" in template else template + "{c}"
    # A header's first word is only told from a fact by the words that announce it.
    carrier = _carrier(template, split, rng, links=form != "header")
    if "{S}" in carrier:
        span = span[0].upper() + span[1:]
    if form == "row":
        mark = re.split(r"\{[sS]\}", carrier)[1].partition("{c}")[0]
        return _fill(Phrasing(carrier, span, columns), span, mark.join(columns), split, rng)
    if form == "front_header":
        key = rng.choice((kind[0], "name", "name", f"{kind[0]} name", "names"))
        facts = join_columns((key, *columns), split, rng)
        return _fill(Phrasing(carrier, span, columns, key), span, facts, split, rng)
    if form == "header" or (". Wanted: {c}" in carrier and rng.random() < 0.6):
        key, columns = _headed(kind, columns, split, rng)
        end = carrier.removesuffix(".")
        if split == "train" and end.endswith("{c}") and rng.random() < 0.12:
            draft = Phrasing(end, span, columns, key)
            return _fill(draft, span, bullet((key, *columns), rng), split, rng)
        draft = Phrasing(carrier, span, columns, key)
        return _fill(draft, span, join_header((key, *columns), split, rng), split, rng)
    carrier, facts = write_columns(carrier, columns, split, rng)
    return _fill(Phrasing(carrier, span, columns), span, facts, split, rng)


def _ask_list_told(span: str, many: str, columns: tuple[str, ...], rng: random.Random) -> Phrasing:
    """A training question of which some facts are questions of their own: "which castles are there and how old are they"."""
    opening = rng.choice(
        (
            "<which>",
            "<which>",
            "<open> <all> {s}",
            "<plain> {s}",
            "{s}",
            "{s}",
            "<e ask> {s}",
            "<e list>",
        )
    )
    turned, span = turn(f"{opening}<told>{{c}}", span, many, rng)
    carrier = _carrier(turned.replace("<and_what>", "<told>{c}"), "train", rng)
    carrier = carrier.replace("{P}", many)
    if "{S}" in carrier:
        span = span[0].upper() + span[1:]
    return _fill(Phrasing(carrier, span, columns), span, tell_all(columns, rng), "train", rng)


def ask_entities(
    entities: tuple[str, ...], columns: tuple[str, ...], split: Split, rng: random.Random
) -> Phrasing:
    """A question that names its items one by one."""
    told = any(map(is_told, columns))
    everyday = split == "train" and rng.random() < _EVERYDAY_SHARE
    part = "{s}<told>{c}" if told else "<e entities>" if everyday else "<entities>"
    template = expand(part, split, rng)
    template = template if "{c}" in template else template + "{c}"
    carrier = _carrier(template, split, rng, links=True)
    names = _join_names(entities, split, rng)
    if told:
        facts = tell_all(columns, rng)
    else:
        carrier, facts = write_columns(carrier, columns, split, rng)
    draft = Phrasing(carrier, "; ".join(entities), columns, None, entities)
    return _fill(draft, names, facts, split, rng)


def _join_names(entities: tuple[str, ...], split: Split, rng: random.Random) -> str:
    last = rng.choice((" and ", " and ", ", and ", ", "))
    if split == "train" and rng.random() < 0.1:
        entities = tuple(f"the {entity}" for entity in entities)
    names = (", ".join(entities[:-1]) + last if len(entities) > 1 else "") + entities[-1]
    if split == "train" and rng.random() < 0.1:
        marks = (" / ", "; ", " & ", " and ", " + ")
        alone = all(re.fullmatch(r"\w+", entity) for entity in entities)
        return (" " if alone and rng.random() < 0.6 else rng.choice(marks)).join(entities)
    return names


def ask_fact(entity: str, column: str, split: Split, rng: random.Random) -> Phrasing:
    """A narrow question for one fact of one entity."""
    carrier = _carrier(
        _narrow(column, split, rng),
        split,
        rng,
        thanks="fact_thanks" if split == "train" else "thanks",
    )
    if "{C}" in carrier:
        column = column[0].upper() + column[1:]
    carrier = _split_question(carrier, column)
    return _fill(Phrasing(carrier, entity, (column,)), entity, column, split, rng)


def ask_facts(entities: tuple[str, ...], columns: tuple[str, ...], rng: random.Random) -> Phrasing:
    """A training question whose first fact is asked around its items: "who built Morlen, and when was it opened?"."""
    first, *others = columns
    if follows_its_item(first):
        return ask_entities(entities, columns, "train", rng)
    template = expand(_narrow(first, "train", rng), "train", rng).rstrip(".?!")
    clauses = [tell(column, rng) if is_told(column) else column for column in others]
    for number, column in enumerate(others):
        follow = rng.choice(pieces("train")["told" if is_told(column) else "follow"])
        follow = follow if "{c}" in follow else follow + "{c}"
        template = template.rstrip("?.") + follow.replace("{c}", f"{{{number}}}")
    carrier = _carrier(template, "train", rng, thanks="fact_thanks")
    if "{C}" in carrier:
        first = first[0].upper() + first[1:]
    carrier = _split_question(carrier, first)
    for number, clause in enumerate(clauses):
        carrier = carrier.replace(f"{{{number}}}", clause)
    draft = Phrasing(carrier, "; ".join(entities), (first, *others), None, entities)
    return _fill(draft, _join_names(entities, "train", rng), first, "train", rng)


def _narrow(column: str, split: Split, rng: random.Random) -> str:
    """The part of the grammar that asks for one fact so worded."""
    word = column.split()[0]
    part = "how_many" if column.startswith("how many") else word
    everyday = split == "train" and rng.random() < _EVERYDAY_SHARE
    if word not in ("how", "when", "who", "where", "which"):
        return "<e fact>" if everyday else "<narrow>"
    if everyday:
        alike = {"where": "when", "which": "who", "how_many": "how many"}
        return f"<e {alike.get(part, part)}>"
    part = {"where": "when", "which": "which_one"}.get(part, part) if split == "train" else part
    return f"<{part if part in pieces(split) else 'how'}>"


def _split_question(carrier: str, column: str) -> str:
    """Put in the words of a fact that is asked for around its item: "when was Morlen built"."""
    word, _, rest = column.partition(" ")
    carrier = carrier.replace("{Q}", word.capitalize()).replace("{q}", word)
    return carrier.replace("{r}", rest)

"""How people ask: a grammar of broad and narrow questions.

Every question is built around a contiguous span that says what the items are ("castles in Morlen") and, in their order,
the columns as the asker words them. Test phrasings (`_TEST`) never occur in training.
"""

import random
from dataclasses import dataclass

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


_TRAIN = {
    "open": """List|List|List|List|Give me|Give me|Give|Show me|Show|Find|Find me|Name|I need|I want|I would like|I'd like|
Please list|Please give me|Please find|Make a table of|Make me a table of|Create a table of|Create a list of|Build a table of|
Produce a table of|Prepare a table of|Compile a list of|Compile|Collect|Gather|Look up|Tabulate|Provide|Provide a list of|
Can you list|Can you find|Could you list|Could you give me|Could you find|Would you list|Tell me|Write down|Put together|
Put together a table of|Help me find|Help me list|Search for|Get me|Get|Fetch|Enumerate|Report|Summarise|Summarize|Present|
I am looking for|I'm looking for|We need|We need a table of|I need a list of|I need a table of|I want a list of|Draw up a list of|
Set out|Identify|Return|Output|Table of|A table of|A list of""",
    "all": "all|all|all|all the|the|the||every one of the|each of the|all known|all of the|any|the various|the complete list of|every single one of the",
    "join": """ with their | with their | with their | with | with | with the | with the |, with |, with their |, each with its |
, each with |, each with their |, along with their | along with the | together with their |, together with the | and their | and the |
, and for each give the |, and for each of them the |, and give the |, and their |. For each, give the |. For each give |
. For each one, give me the |. Include the |. Include |. Include their |, including |, including their | including the |
. Columns: |. Columns: | (columns: | with columns |. I need the |. I want the |. I want to know the |. Give the |. Also give the |
. Add the |. Add their |, listing the |, listing |, showing |, showing the |, giving the |, stating |, stating the |: |: | - | by |
. Show their |. State the |. Tell me the |. Please include the | plus | plus their |, plus the |. Facts wanted: |. Fields: |
. For every one I need the |. Each row should have the |. Report the |. What are their | and say what their |; for each, the |
; give the | as well as their |, as well as the | showing their """,
    "front": """What are the|What is the|Give me the|Give the|I need the|I want the|I need to know the|List the|Show the|Find the|Tell me the|
Look up the|Report the|Provide the|State the|Collect the|Show me the|Please give the|Could you find the|What's the|Compare the|Get the|
I would like the|I'd like to know the""",
    "of": " of all | of all | of all the | of the | of | of each of the | of every one of the | for all | for all the | for the | for | for each of the ",
    "each": "For each of the|For every one of the|For all|For all the|For the|For each|For every|Of all the|Among the",
    "ask": ", give the |, give me the |, list the |, list |, give |, find the |, I need the |, state the |, what is the |, what are the |, show the |, tell me the |, report the |, say what the ",
    "which": """Which {s}|Which {s}|What {s}|Which are the {s}|What are the {s}|What are all the {s}|Which are all the {s}|What {s} are there|Which {s} exist|
What {s} do we know|How many {s} are there""",
    "and_what": ", and what are their |, and what is their |? Give the |? Give their |? List the |? Include the |? I need their |? Also give their |, with their |? With their |? For each, give the |? Columns: |? Please add the | and what are their | and their |, with the ",
    "narrow": """What is the {c} of {s}?|What is the {c} of {s}?|What is the {c} of {s}?|What's the {c} of {s}?|What are the {c} of {s}?|
Which {c} does {s} have?|What {c} does {s} have?|Tell me the {c} of {s}.|Give me the {c} of {s}.|Give the {c} of {s}|I need the {c} of {s}.|
Find the {c} of {s}.|Look up the {c} of {s}.|{s}: {c}?|{s}'s {c}?|What is {s}'s {c}?|Do you know the {c} of {s}?|{c} of {s}|{c} of {s}?|
Can you tell me the {c} of {s}?|For {s}, what is the {c}?|I would like to know the {c} of {s}.|Which is the {c} of {s}?|What was the {c} of {s}?|
Name the {c} of {s}.|Could you find the {c} of {s}?|What is the {c} for {s}?|State the {c} of {s}.|What {c} is {s}?|What {c} has {s}?|
Please tell me the {c} of {s}|I want to know the {c} of {s}""",
    "hello": "Hi. |Hello, |Hello! |Hey, |Please help. |Quick question: |Question: |Good morning. |For a report: |For my class, ",
    "thanks": " Thanks.| Thank you!| Thanks!| Please.| as a table| As a table, please.| Make it a table.| in a table| One row each.| Use a table.| Do not leave any out.",
}
_TEST = {
    "open": "Draw me a table covering|Kindly list|Assemble|Supply|Let me see|I must have|Pull up|Lay out|Do list|Chart",
    "all": "all|all the|the|the full set of",
    "join": " alongside their | accompanied by their |. For each of these, note the |, noting the |, with details of their |. Wanted: |, mentioning the | complete with their ",
    "front": "Let me know the|Supply the|Note down the|Work out the",
    "of": " of all | belonging to all the | for every one of the ",
    "each": "Taking all the|Across the|With regard to the",
    "ask": ", note the |, supply the |, let me have the ",
    "which": "Which {s} can you find|What might be the {s}|Which ones are the {s}",
    "and_what": ", and what might be their |? Note their |? Supply the |, together with their ",
    "narrow": "Let me know the {c} of {s}.|Any idea what the {c} of {s} is?|I wonder what the {c} of {s} is.|Supply the {c} of {s}.|What would be the {c} of {s}?",
    "hello": "Good evening. |Dear team, |One thing: ",
    "thanks": " Cheers.| Many thanks.| Tabular form, please.",
}


def _choose(part: str, split: Split, rng: random.Random) -> str:
    table = _TEST if split == "test" else _TRAIN
    return rng.choice(table[part].replace("\n", "").split("|"))


def _join_columns(columns: list[str], rng: random.Random) -> str:
    """Write out columns the way people do: "a, b and c"."""
    if len(columns) == 1:
        return columns[0]
    last = rng.choice((" and ", " and ", " and ", ", and ", ", ", " as well as ", " & ", ", plus ", " and the ", " and their "))
    middle = rng.choice((", ", ", ", ", ", ", ", ", the ", "; ", " and ", ", their "))
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
            (f"{_choose('open', split, rng)} {_choose('all', split, rng)} {span}", _choose("which", split, rng).format(s=span))
        )
    elif form == "open":
        join = _choose("join", split, rng)
        if join.lower().rstrip().endswith(("columns:", "columns", "fields:", "wanted:")) and rng.random() < 0.6:
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
        question = f"{span[0].upper()}{span[1:]}{rng.choice((': ', ' - ', ', ', ' with ', ' and their ', '; '))}{columns_text}"
        span = question[: len(span)]
    return Phrasing(_finish(question, split, rng), span, columns, key_header)


_ENTITY_FORMS = {
    "train": (
        "What are the {c} of {s}?|Compare the {c} of {s}.|Compare {s} by {c}.|For {s}, give the {c}.|Give me the {c} of {s}|"
        "List the {c} of {s}.|I need the {c} of {s}.|Find the {c} of {s}|Tell me the {c} of {s}.|Show the {c} for {s}.|"
        "{s}: {c}|Make a table of {s} with {c}.|Look up {s} and give the {c} of each.|What is the {c} of {s}?|"
        "A table with the {c} of {s}|Give the {c} for each of {s}.|For each of {s} I need the {c}."
    ),
    "test": "Set {s} side by side: {c}.|Supply the {c} of {s}.|Let me know the {c} of {s}.|Taking {s}, what are the {c}?",
}


def ask_entities(entities: tuple[str, ...], columns: tuple[str, ...], split: Split, rng: random.Random) -> Phrasing:
    """A question that names its items one by one."""
    template = rng.choice(_ENTITY_FORMS[split].split("|"))
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
    return list(_TRAIN.values())

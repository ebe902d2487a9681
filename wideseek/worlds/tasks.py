"""A question about a made-up world and its exact answer, all from one seed."""

from dataclasses import dataclass, field
from typing import Literal

from wideseek.tools.outcome import Page
from wideseek.worlds import made_up
from wideseek.worlds.lexicon import Attribute, Split
from wideseek.worlds.phrasing import Phrasing, ask_entities, ask_fact, ask_facts, ask_list
from wideseek.worlds.wording import asked_form
from wideseek.worlds.world import Listing, World, draw_lists, make_pages

Kind = Literal["table", "boxed"]
_TOLD_SHARE = 0.2  # of training tables: facts may be asked for by questions of their own


@dataclass(frozen=True, slots=True)
class Task:
    """A question, the pages it can be answered from, and the exact answer.

    columns[0] is the key column; rows are in the order of the list page; `phrasing` marks the question's pieces for the
    scripted expert and is never shown to a model.
    """

    id: str
    question: str
    kind: Kind
    columns: tuple[str, ...]
    key: str
    rows: tuple[tuple[str, ...], ...]
    answer: str | None
    pages: tuple[Page, ...]
    phrasing: Phrasing
    labels: tuple[str, ...]
    aliases: dict[str, list[str]] = field(default_factory=dict)


def make_task(
    seed: int,
    split: Split,
    rows: tuple[int, int] = (3, 10),
    kind: Kind | None = None,
    *,
    loose: bool = False,
) -> Task:
    """The task of a seed: a table question over `rows` items (inclusive range), or a boxed one about a single item.

    kind None draws one boxed question in six. loose: the asker may call a list otherwise than its page, so that only who
    has seen the pages' titles can tell which one is meant. ValueError for an empty range.
    """
    if not 1 <= rows[0] <= rows[1]:
        raise ValueError(f"rows must be a range of at least 1, not {rows}")
    world = World(seed, split)
    rng = world.rng
    kind = kind or ("boxed" if rng.random() < 1 / 6 else "table")
    lists, attributes = draw_lists(world, rng.randint(*rows))
    shares = (4, 22, 27, 22, 15, 10) if split == "train" else (6, 28, 30, 21, 10, 5)
    count = 1 if kind == "boxed" else rng.choices(range(6), shares)[0]
    asked = rng.sample(attributes, min(count, len(attributes)))
    if asked and split == "train" and rng.random() < 0.6:
        # "atomic weight" where the page has "atomic number" too
        alike = made_up.look_alikes(attributes)
        first = rng.sample(alike, min(len(alike), rng.randint(1, 2)))
        asked = [*first, *(a for a in asked if a not in first)][: len(asked)]
        rng.shuffle(asked)
    # Rows that are alike but for their numbers are the ones a table skips: in training some worlds have many.
    missing = 0.3 if split == "train" and rng.random() < 0.1 else 0.02
    for entity in lists[0].entities:
        for attribute in asked:
            if rng.random() < missing:
                del entity.facts[attribute.label]
    if kind == "boxed":
        return _boxed_task(f"{split}-{seed}", world, lists, asked[0])
    return _table_task(f"{split}-{seed}", world, lists, asked, attributes, loose)


def _boxed_task(name: str, world: World, lists: list[Listing], asked: Attribute) -> Task:
    """One fact of one entity, now and then under the entity's other name."""
    rng = world.rng
    subject = rng.choice(lists[0].entities)
    if rng.random() < 0.15:
        subject.alias = world.fresh_name()
    words = asked_form(asked, world.split, rng, told=True)
    called = subject.alias or subject.name
    phrasing = ask_fact(called.lower() if rng.random() < 0.12 else called, words, world.split, rng)
    return Task(
        id=name,
        question=phrasing.question,
        kind="boxed",
        columns=phrasing.columns,
        key="",
        rows=(),
        answer=subject.facts.get(asked.label, "unknown"),
        pages=make_pages(world, lists),
        phrasing=phrasing,
        labels=(asked.label,),
    )


def _table_task(
    name: str,
    world: World,
    lists: list[Listing],
    asked: list[Attribute],
    among: list[Attribute],
    loose: bool,
) -> Task:
    """Facts of every entity of the target list, or of a few that the question names."""
    rng, target = world.rng, lists[0]
    train = world.split == "train"
    told = train and rng.random() < _TOLD_SHARE
    words = tuple(asked_form(a, world.split, rng, told=told, among=among) for a in asked)
    chosen = target.entities
    # A single fact of a single item is a boxed question's: a table for it would contradict that.
    named = len(chosen) > 1 or len(words) > 1 or not train
    if words and named and len(chosen) <= 12 and rng.random() < (0.19 if train else 0.13):
        chosen = rng.sample(chosen, min(len(chosen), rng.randint(1 if len(words) > 1 else 2, 5)))
        names = tuple(e.name for e in chosen)
        if train and len(words) < 4 and rng.random() < (1.0 if len(names) == 1 else 0.5):
            phrasing = ask_facts(names, words, rng)
        else:
            phrasing = ask_entities(names, words, world.split, rng)
    else:
        about = target.relation
        if loose and rng.random() < 0.4:
            others = {listing.relation for listing in lists[1:]}
            kinds, place = target.kind[1], target.place
            about = made_up.other_words(about, kinds, place, others, world.lexicon, rng)
        if loose and rng.random() < 0.3:
            about = made_up.loosely(about, world.lexicon, rng)
        phrasing = ask_list(about, target.kind, words, world.split, rng)
    names = tuple(entity.name for entity in chosen)
    labels = tuple(attribute.label for attribute in asked)
    columns = (phrasing.key_header or "name", *phrasing.columns)
    return Task(
        id=name,
        question=phrasing.question,
        kind="table",
        columns=columns,
        key=columns[0],
        rows=tuple(
            (called, *(e.facts.get(label, "unknown") for label in labels))
            for called, e in zip(phrasing.entities or names, chosen, strict=True)
        ),
        answer=None,
        pages=make_pages(world, lists),
        phrasing=phrasing,
        labels=labels,
        aliases={c: [x] for c, x in zip(phrasing.columns, labels, strict=True) if c != x},
    )


def make_tasks(
    split: Split,
    count: int,
    seed: int = 0,
    rows: tuple[int, int] = (3, 10),
    kind: Kind | None = None,
) -> list[Task]:
    """`count` tasks with consecutive seeds from `seed * 1_000_000`."""
    return [make_task(seed * 1_000_000 + index, split, rows, kind) for index in range(count)]

"""Procedural worlds: pages, a question about them and its exact answer, all from one seed.

A world holds a target list of entities with a page each, other lists that look like it (same kind elsewhere, other kinds in
the same place), and pages that merely mention a target. Names are made up and values drawn anew, so that an agent
must search and copy.
"""

import random
from dataclasses import dataclass, field
from typing import Literal

from wideseek.tools.outcome import Page
from wideseek.worlds import made_up
from wideseek.worlds.lexicon import Attribute, Lexicon, Split, load_lexicon
from wideseek.worlds.phrasing import Phrasing, ask_entities, ask_fact, ask_facts, ask_list
from wideseek.worlds.values import draw_value
from wideseek.worlds.wording import asked_form

Kind = Literal["table", "boxed"]
_SITE = "https://atlas.wideseek/"
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


@dataclass(slots=True)
class _Entity:
    name: str
    facts: dict[str, str]
    alias: str = ""


@dataclass(slots=True)
class _List:
    title: str
    relation: str
    kind: tuple[str, str]
    place: str
    entities: list[_Entity]


class _World:
    """Draws one world; every choice comes from the one rng."""

    def __init__(self, seed: int, split: Split) -> None:
        self.rng = random.Random(f"world/{split}/{seed}")
        self.lexicon: Lexicon = load_lexicon(split)
        self.split: Split = split
        self.names: set[str] = set()
        self.numbers = iter(self.rng.sample(range(1, 10_000), 1_000))

    def fresh_name(self) -> str:
        while True:
            name = self.lexicon.name(self.rng)
            if self.lexicon.english and self.rng.random() < 0.12:  # as gold and the dollar are
                name = self.rng.choice(self.lexicon.english).capitalize()
            if self.rng.random() < 0.03:
                name = f"{name} ({self.lexicon.word(self.rng).capitalize()})"
            if name.lower() not in self.names:
                self.names.add(name.lower())
                return name

    def fresh_url(self) -> str:
        return f"{_SITE}{next(self.numbers)}"

    def draw_attributes(self, count: int) -> list[Attribute]:
        """Attributes of a kind; in training four in ten labels are made up, so that none can be presumed."""
        chosen = self.rng.sample(self.lexicon.attributes, count)
        if self.split == "train":
            chosen = [
                made_up.invent(a.kind, self.lexicon, self.rng) if self.rng.random() < 0.4 else a
                for a in chosen
            ]
        if self.rng.random() < 0.4:
            chosen += [
                made_up.resemble(a, self.rng, turned=self.split == "train")
                for a in self.rng.sample(chosen, self.rng.randint(1, 2))
            ]
        if self.split == "train" and self.rng.random() < 0.5:
            chosen += [
                made_up.sibling(a, self.lexicon, self.rng)
                for a in self.rng.sample(chosen, self.rng.randint(1, 2))
            ]
        return list({a.label: a for a in chosen}.values())  # made-up labels may meet

    def draw_kind(self) -> tuple[str, str]:
        """Singular and plural; in training also made-up words, and words that are facts elsewhere ("the capitals of")."""
        draw = self.rng.random() if self.split == "train" else 1.0
        if draw < 0.25:
            word = made_up.long_word(self.lexicon, self.rng)
            return word, made_up.plural(word)
        if draw < 0.65:
            return self.rng.choice(self.lexicon.fact_kinds)
        return self.rng.choice(self.lexicon.kinds)

    def draw_entities(self, count: int, attributes: list[Attribute]) -> list[_Entity]:
        entities: list[_Entity] = []
        train = self.split == "train"
        # Cells that end alike ("km² |") are where a table jumps from one row to another.
        alike = {a.label for a in attributes if train and self.rng.random() < 0.45}
        # So are cells that many rows have, such as a continent or a currency.
        few = {
            a.label: [
                draw_value(a.kind, self.lexicon, self.rng) for _ in range(self.rng.randint(1, 3))
            ]
            for a in attributes
            if train and self.rng.random() < 0.15
        }
        for _ in range(count):
            name = self.fresh_name()
            if train and entities and self.rng.random() < 0.08:
                name = self._kin(self.rng.choice(entities).name)
            facts: dict[str, str] = {}
            for attribute in attributes:
                value = draw_value(attribute.kind, self.lexicon, self.rng)
                if train and self.rng.random() < 0.3:
                    value = made_up.echo(
                        name, attribute.kind, value, list(facts.values()), self.lexicon, self.rng
                    )
                if attribute.label in alike and entities and self.rng.random() < 0.6:
                    value = self._alike(value, self.rng.choice(entities).facts[attribute.label])
                if attribute.label in few and self.rng.random() < 0.9:
                    value = self.rng.choice(few[attribute.label])
                if train and self.rng.random() < 0.06:
                    value = made_up.marked(value, self.rng)
                facts[attribute.label] = value
            entities.append(_Entity(name, facts))
        if train and self.rng.random() < 0.4:
            entities.sort(key=lambda entity: entity.name)  # neighbours then begin alike
        return entities

    def _kin(self, name: str) -> str:
        """A name that shares words with another item's, as South Korea and North Korea do."""
        word = self.lexicon.word(self.rng).capitalize()
        kin = self.rng.choice(
            (
                f"{name} {word}",
                f"{word} {name}",
                f"{name}-{word}",
                f"{name}{word.lower()}",
                word[:2] + name.split(" (")[0][-self.rng.randint(3, 5) :],
            )
        )
        if kin.lower() in self.names or not self.lexicon.may_have(kin):
            return self.fresh_name()
        self.names.add(kin.lower())
        return kin

    def _alike(self, value: str, other: str) -> str:
        """A value that another item's begins or ends like, as "Chilean Peso" and "Colombian Peso", or its very twin."""
        own, others = value.split(" "), other.split(" ")
        draw = self.rng.random()
        if draw < 0.25:
            return other
        if draw < 0.7 and len(others) > 1:
            return " ".join((*own[: max(1, len(own) - 1)], others[-1]))
        cut = self.rng.randint(1, max(1, len(other) - 1))
        return (other[:cut] + value[cut:]).strip()

    def phrase(self, kinds: str, place: str) -> str:
        """What a list is about, as in "castles in Morlen"."""
        rng = self.rng
        relation = rng.choice(self.lexicon.relations)
        if self.split == "train" and rng.random() < 0.35:
            # No word of it is known, so that where it ends must be told by its shape.
            relation = rng.choice(made_up.RELATIONS).replace(
                "{x}", made_up.long_word(self.lexicon, self.rng)
            )
        return relation.format(
            p=kinds,
            r=place,
            n=rng.randint(2, 20),
            y=rng.randint(1500, 2020),
            g=rng.choice(self.lexicon.groups),
            a=rng.choice(self.lexicon.adjectives),
            d=rng.randint(150, 199) * 10,
            m=made_up.long_word(self.lexicon, self.rng).capitalize()
            + rng.choice(("ian", "ese", "ish", "an", "i")),
            w=rng.choice(self.lexicon.words),
        )


_SENTENCES = (
    "{e} is one of the {l}.", "{e} belongs to the {l}.", "{e}, a {o}, is listed among the {l}.", "{e} is a {o}.",
    "{e} is a {o} in {r}.", "{e} counts among the {l}.",
)  # fmt: skip


def _entity_page(world: _World, entity: _Entity, home: _List, order: list[str]) -> Page:
    sentence = world.rng.choice(_SENTENCES).format(
        e=entity.name, l=home.relation, o=home.kind[0], r=home.place
    )
    facts = [f"{label}: {entity.facts[label]}" for label in order if label in entity.facts]
    text = "\n".join((entity.name, sentence, *facts))
    aliases = (entity.alias,) if entity.alias else ()
    return Page(
        title=entity.name, url=world.fresh_url(), text=text, aliases=aliases, snippet=sentence
    )


def _list_page(world: _World, listing: _List) -> Page:
    names = [entity.name for entity in listing.entities]
    sentence = world.rng.choice(
        (
            "This page lists the {l}.",
            "A list of {l}.",
            "{l} known to this site.",
            "All {l}, each with a page of its own.",
        )
    ).format(l=listing.relation)
    sentence = sentence[0].upper() + sentence[1:]
    lines = [f"{k}. {name}" for k, name in enumerate(names, 1)]
    text = "\n".join((listing.title, sentence, f"items: {len(names)}", *lines))
    return Page(title=listing.title, url=world.fresh_url(), text=text, snippet=sentence)


def _draw_lists(world: _World, rows: int) -> tuple[list[_List], list[Attribute]]:
    """The target list first, then two to four lists that resemble it."""
    rng = world.rng
    # Long pages, such as those of countries, are where a look-up goes astray.
    longest = 17 if world.split == "train" and rng.random() < 0.4 else 11
    attributes = world.draw_attributes(rng.randint(4, longest))
    places = [world.fresh_name() for _ in range(3)]
    one, many = world.draw_kind()
    lists: list[_List] = []

    def add(
        one: str, many: str, place: str, count: int, facts: list[Attribute], relation: str = ""
    ) -> None:
        relation = relation or world.phrase(many, place)
        title = relation[0].upper() + relation[1:]
        if all(title.lower() != other.title.lower() for other in lists):
            lists.append(
                _List(title, relation, (one, many), place, world.draw_entities(count, facts))
            )

    add(one, many, places[0], rows, attributes)
    for _ in range(rng.randint(1, 2)):
        add(one, many, rng.choice(places[1:]), rng.randint(2, 5), attributes)
    for _ in range(rng.randint(1, 2)):
        other_one, other_many = world.draw_kind()
        add(other_one, other_many, places[0], rng.randint(2, 4), world.draw_attributes(5))
    series = world.split == "train" and rng.random() < 0.25
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3)) + series if world.split == "train" else 0):
        about, fact = lists[0].relation, rng.choice(attributes).label
        if series:
            near = made_up.next_in_series(about, places[0], world.lexicon, rng)
        else:
            near = made_up.near_relation(about, many, places[0], fact, world.lexicon, rng)
        add(one, many, places[0], rng.randint(1, 2), attributes, near)
    return lists, attributes


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
    world = _World(seed, split)
    rng = world.rng
    kind = kind or ("boxed" if rng.random() < 1 / 6 else "table")
    lists, attributes = _draw_lists(world, rng.randint(*rows))
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


def _boxed_task(name: str, world: _World, lists: list[_List], asked: Attribute) -> Task:
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
        pages=_pages(world, lists),
        phrasing=phrasing,
        labels=(asked.label,),
    )


def _table_task(
    name: str,
    world: _World,
    lists: list[_List],
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
        pages=_pages(world, lists),
        phrasing=phrasing,
        labels=labels,
        aliases={c: [x] for c, x in zip(phrasing.columns, labels, strict=True) if c != x},
    )


def _pages(world: _World, lists: list[_List]) -> tuple[Page, ...]:
    """All pages of a world: lists, entities, and a few that only mention a target."""
    rng = world.rng
    pages = [_list_page(world, listing) for listing in lists]
    for listing in lists:
        order = sorted({label for entity in listing.entities for label in entity.facts})
        rng.shuffle(order)
        pages += [_entity_page(world, entity, listing, order) for entity in listing.entities]
    for entity in rng.sample(lists[0].entities, min(3, len(lists[0].entities))):
        title = world.fresh_name()
        if world.split == "train" and rng.random() < 0.4:
            like = made_up.adjective(rng.choice((lists[0].place, entity.name)), rng)
            if like.lower() not in world.names:
                world.names.add(like.lower())
                title = like
        sentence = f"{title} is often mentioned together with {entity.name}."
        pages.append(
            Page(title=title, url=world.fresh_url(), text=f"{title}\n{sentence}", snippet=sentence)
        )
    return tuple(pages)


def make_tasks(
    split: Split,
    count: int,
    seed: int = 0,
    rows: tuple[int, int] = (3, 10),
    kind: Kind | None = None,
) -> list[Task]:
    """`count` tasks with consecutive seeds from `seed * 1_000_000`."""
    return [make_task(seed * 1_000_000 + index, split, rows, kind) for index in range(count)]

"""A made-up world: lists of items, the facts of each, and the pages that tell them.

A world holds a target list of entities with a page each, other lists that look like it (same kind elsewhere, other kinds in
the same place), and pages that merely mention a target. Names are made up and values drawn anew, so that an agent
must search and copy.
"""

import random
from dataclasses import dataclass

from wideseek.tools.outcome import Page
from wideseek.worlds import made_up
from wideseek.worlds.lexicon import Attribute, Lexicon, Split, load_lexicon
from wideseek.worlds.values import draw_value

_SITE = "https://atlas.wideseek/"


@dataclass(slots=True)
class Entity:
    name: str
    facts: dict[str, str]
    alias: str = ""


@dataclass(slots=True)
class Listing:
    title: str
    relation: str
    kind: tuple[str, str]
    place: str
    entities: list[Entity]


class World:
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

    def draw_entities(self, count: int, attributes: list[Attribute]) -> list[Entity]:
        entities: list[Entity] = []
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
            entities.append(Entity(name, facts))
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


def _entity_page(world: World, entity: Entity, home: Listing, order: list[str]) -> Page:
    sentence = world.rng.choice(_SENTENCES).format(
        e=entity.name, l=home.relation, o=home.kind[0], r=home.place
    )
    facts = [f"{label}: {entity.facts[label]}" for label in order if label in entity.facts]
    text = "\n".join((entity.name, sentence, *facts))
    aliases = (entity.alias,) if entity.alias else ()
    return Page(
        title=entity.name, url=world.fresh_url(), text=text, aliases=aliases, snippet=sentence
    )


def _list_page(world: World, listing: Listing) -> Page:
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


def draw_lists(world: World, rows: int) -> tuple[list[Listing], list[Attribute]]:
    """The target list first, then two to four lists that resemble it, in training more."""
    rng, train = world.rng, world.split == "train"
    # Long pages, such as those of countries, are where a look-up goes astray.
    longest = 17 if train and rng.random() < 0.4 else 11
    attributes = world.draw_attributes(rng.randint(4, longest))
    places = [world.fresh_name() for _ in range(3)]
    one, many = world.draw_kind()
    lists: list[Listing] = []

    def add(
        one: str, many: str, place: str, count: int, facts: list[Attribute], relation: str = ""
    ) -> None:
        relation = relation or world.phrase(many, place)
        title = relation[0].upper() + relation[1:]
        if all(title.lower() != other.title.lower() for other in lists):
            lists.append(
                Listing(title, relation, (one, many), place, world.draw_entities(count, facts))
            )

    add(one, many, places[0], rows, attributes)
    for _ in range(rng.randint(1, 2)):
        add(one, many, rng.choice(places[1:]), rng.randint(2, 5), attributes)
    for _ in range(rng.randint(1, 2)):
        other_one, other_many = world.draw_kind()
        add(other_one, other_many, places[0], rng.randint(2, 4), world.draw_attributes(5))
    series = train and rng.random() < 0.25
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3)) + series if train else 0):
        about, fact = lists[0].relation, rng.choice(attributes).label
        if series:
            near = made_up.next_in_series(about, places[0], world.lexicon, rng)
        else:
            near = made_up.near_relation(about, many, places[0], fact, world.lexicon, rng)
        add(one, many, places[0], rng.randint(1, 2), attributes, near)
    # Whether a list or an item is meant is told by the question alone: Chad has a page beside its cities, the euro a list.
    if train and rng.random() < 0.5:
        rng.choice(rng.choice(lists[1:]).entities).name = places[0]
    if train and rng.random() < 0.35:
        item, (other_one, other_many) = rng.choice(lists[0].entities), world.draw_kind()
        add(other_one, other_many, item.name, rng.randint(1, 2), world.draw_attributes(5))
    return lists, attributes


def make_pages(world: World, lists: list[Listing]) -> tuple[Page, ...]:
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

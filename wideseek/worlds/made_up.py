"""Labels of facts that no word list holds, and how people ask for them: "ruvost" asked as "number of ruvosts".

Whoever asks words a fact otherwise than the page does; what the two share must be found without knowing the words.
"""

import random
import re
from collections.abc import Set
from functools import cache

from wideseek.worlds.columns import is_told
from wideseek.worlds.lexicon import Attribute, Lexicon, Split, load_lexicon

# A label of one made-up word W, and ways to ask for it; {W} its plural.
_ONE_WORD = """
{w}; {W}, number of {W}, how many {W}, total {W}, {W} a year, yearly {w}, annual {W}
{w}; {W}, year {w}, {w} year, when {w}ed, year of {w}
{w}; {W}, {w} figure, how {w}, {w} in numbers
{w}; {W}, {w} name, name of the {w}, main {w}, chief {w}, official {w}, {w} now
{w}; {W}, {w} value, {w} level, total {w}, exact {w}, {w} in figures, current {w}
{w}; {W}, {w} by, {w} at, who {w}, where {w}ed, its {w}
year {w}; {w}, {w} year, when {w}ed, year of {w}
{w} year; {w}, year {w}, when {w}ed, year of {w}
{w} place; {w}, place {w}ed, where {w}ed, place of {w}
{w}er; {w}ers, {w}ed by, who {w}ed, who {w}s
{w}ed in; where {w}ed, which {k} {w}s, which {k} {w}s, {k} that {w}s it
{w}ed by; who {w}s, which {k} {w}s, which {k} {w}ed, {k} that {w}ed it
number of {W}; {W}, how many {W}, total {W}, {w} count
{w} name; {w}, {W}, name of the {w}
largest {w}; largest {W}, biggest {w}, main {w}
{W}; {w}, main {W}, its {W}, {W} of note
{W}; {W}, {w}, known {W}
"""
# Labels of two words, W and V.
_TWO_WORDS = """
{w} {v}; {v} of {w}, {w} {V}, {V} of {w}
{w} {v}; {v} of the {w}, {w} {V}, {v} for {w}
{v} of {w}; {w} {v}, {w} {V}, {V} of {w}
{w} {v}; {w} {V}, total {w} {v}
{v} in {w}; {w} {v}, {V} in {w}
{w}ing {v}; {v} ~ {w}, {w}ing {V}, {v} ~ {w}, {v} of {w}ing
{v} of {w}; {v} ~ {w}s, {w} {v}, {v} ~ {w}s
{v}; {v} where ~ {w}s, {V} where ~ {w}s, {V}
{v}; {v} it is {w}ed in, {v} they are {w}ed in, {v} each is {w}ed in
{w} {v}; {v}, how {w}, {v} ~ {w}s, {W}
number of {W} and {V}; how many {W} and {V}, number of {W} and {V}
{w}-{v} code; {w}-{v} codes, code of {w} {V}
{w}-{v} number; {w}-{v} numbers, number of {w} {V}
"""
# What a label is followed by to make another one, and the kind of its values.
_ENDINGS = (
    ("code", "code"), ("year", "year"), ("number", "integer"), ("name", "name"), ("rank", "integer"), ("share", "decimal"),
)  # fmt: skip

# What a list is about, with a made-up word {x} in it.
RELATIONS = (
    "{p} {x} in {r}", "{p} {x} by {r}", "{p} {x} {r}", "{p} that {x} {r}", "{p} {x} {w}", "{p} {x} {a} {w}",
    "{p} who {x} {r}", "{p} {x} from {g} {n}", "{p} {x} since {y}", "{x} {p} of {r}", "{x} {p} in {r}",
    "{p} where {w} is {x}", "{p} {x} than {n} {w}", "{p} {x} a {w} with {r}", "{p} that {x} a {w} with {r}",
    "{p} that {x} {m}", "{p} that {x} the {w}", "{p} {x} the {m} {w}", "{p} where {m} is {x}", "{p} with no {w} {x}",
    "{p} without {x}", "{p} {x} in the {n}th century", "{p} {x} in {m}", "{p} in {r} {x} in {y}", "{a} {p} of the {x}",
    "{p} in {r} where {m} is {x}", "{w} {p} of {r}", "{w} {p} in {r}", "{p} with more than {n} {x}", "{w} {p}",
    "{n} largest {p} in the {w}", "{p} called {x}", "{x} {p}", "{x} {p}", "{m} {p}", "{m} {p}", "{x}ing {p} of {r}",
    "{m}-{x}ing {p}", "{m}-{x}ing {p} in {r}", "{m} {x}ing {p} of {r}", "{p} where {m} is {x}ed", "{p} where {x} is {w}ed",
    "{p} in {r} with over {n} million {x}", "{p} of {r} with at least {n} {x}", "{p} in {r} above {n},000 {x}",
    "{p} that {x} the {m} {w}", "{p} which {x} {r}", "{p} which {x} with {r}", "{p} {x}ed with the {w}",
    "{p} {x}ing the {w}", "{p} {x}ing with {r}", "{p} that were {x}ed in {r}", "{p} which were {x}ed by {r}",
    "{p} that have a {x} with {r}", "{p} with {x} in {r}", "{p} that are {x}", "{p} that {x}", "{x} {p} in {r} by {w}",
    "top {n} {p} in {r} by {x}", "{p} {r} {x}ed", "{p} {x}ed by {r} and {m} {w}", "{p} {x} {r}",
    "{p} which were {x}ed in the {d}s", "{p} of {x} {n}", "{p} in {x} {n}", "{p} on the {m} {x}", "{p} having {x}",
    "{p} having {r} as {x}", "{m} {p} with no {x} {w}", "{m} {p} {x} the {w}", "{p} that have {x}ed the {m} {w}",
    "{p} {x}ed in {r}", "{p} {x}ed in {r}", "{p} {x}en in {r}", "{p} {x}en of {r}", "{x} {p}", "{x} {p}", "{a} {x} {p}",
    "{p} of {x} {n}", "{p} that {x} {r}", "{x}ing {p} of {r}", "{p} in the {x} of {r}", "{x}ed {p} in {r}", "{p} {r} {x}ed",
    "{p} {r} {x}ed", "{p} {r} and {m} {x}ed", "{m} {p} with no {x}",
)  # fmt: skip


_WORDY = frozenset(("name", "names", "word", "phrase"))
_LENGTHENED = _WORDY | {"zone"}


def plural(word: str) -> str:
    if word[-1] == "s":
        return word
    return word[:-1] + "ies" if word[-1] == "y" else word + "s"


def long_word(lexicon: Lexicon, rng: random.Random) -> str:
    """A made-up word that cannot be taken for a function word; in training as often an English one."""
    if lexicon.english and rng.random() < 0.5:
        return rng.choice(lexicon.english)
    word = ""
    while len(word) < 4:
        word = lexicon.word(rng)
    return word


@cache
def _label_words(split: Split) -> list[str]:
    """Words of which labels and questions for them are made."""
    texts = (text for a in load_lexicon(split).attributes for text in (a.label, *a.asked))
    known = (text for text in texts if not is_told(text))
    words = {word for text in known for word in text.split(" ") if len(word) > 3}
    return sorted(words - {"name", "names", "number", "place", "year"})  # which tell nothing alone


def invent(kind: str, lexicon: Lexicon, rng: random.Random) -> Attribute:
    """A fact with a made-up label; `kind` of values.

    Some labels put known words together anew, so that none can be taken for the fact it is a word for elsewhere.
    """
    first, second = long_word(lexicon, rng), long_word(lexicon, rng)
    draw = rng.random()
    if rng.random() < 0.35:
        first = rng.choice(_label_words(lexicon.split))
        second = rng.choice(_label_words(lexicon.split)) if draw >= 0.6 else second
    if draw < 0.25:
        second = rng.choice(lexicon.words)
    elif draw < 0.45:
        second = rng.choice(lexicon.kinds)[0]
    template = rng.choice((_ONE_WORD if rng.random() < 0.6 else _TWO_WORDS).strip().splitlines())
    words = {"w": first, "W": plural(first), "v": second, "V": plural(second)}
    one, _ = rng.choice(lexicon.kinds)
    label, forms = template.format(**words, k=one).split("; ")
    return Attribute(label, tuple(forms.split(", ")), kind)


def resemble(attribute: Attribute, rng: random.Random, *, turned: bool) -> Attribute:
    """A fact whose label shares words with another one's: "currency code" beside "currency".

    turned: it is also asked for as "code of currency".
    """
    ending, kind = rng.choice(_ENDINGS)
    label = f"{attribute.label} {ending}"
    return Attribute(label, (label, f"{ending} of {attribute.label}")[: 1 + turned], kind)


def sibling(attribute: Attribute, lexicon: Lexicon, rng: random.Random) -> Attribute:
    """A fact whose label begins or ends like another one's: "atomic weight" beside "atomic number"."""
    first, *_, last = attribute.label.split(" ") * 2
    other = rng.choice(lexicon.words) if rng.random() < 0.4 else long_word(lexicon, rng)
    if "-" in first and first != last and rng.random() < 0.6:
        label = f"{other}-{first.split('-')[-1]} {last}"
        forms = (plural(label), label)
    elif rng.random() < 0.6:
        label, forms = f"{first} {other}", (f"{first} {plural(other)}", f"{other} of {first}")
    else:
        label, forms = f"{other} {last}", (f"{other} {plural(last)}", f"{last} of {other}")
    return Attribute(label, forms, attribute.kind)


def look_alikes(attributes: list[Attribute]) -> list[Attribute]:
    """Those whose label shares a word with another one's."""
    words = [set(a.label.replace("-", " ").split(" ")) for a in attributes]
    return [
        a
        for a, own in zip(attributes, words, strict=True)
        if any(own & other for other in words if other is not own)
    ]


def lengthened(value: str, name: str, word: str, rng: random.Random) -> str:
    """A value that begins with a whole other one: "Peru" and "Peru/Lima", "Sol" and "Sol (money)"."""
    more = rng.choice((word.capitalize(), word.capitalize(), name, word))
    form = rng.choice(
        ("{}/{}", "{}/{}", "{} {}", "{} {}", "{} ({})", "{}, {}", "{}-{}", "{} and {}")
    )
    return form.format(value, more)


def marked(value: str, rng: random.Random) -> str:
    """A value with a mark before or behind it: "+44", "~300", "12 %", "Ver (old)"."""
    word = rng.choice(("about", "old", "new", "main", "estimate", "north"))
    before = ("+", "+", "~", "≈", "<", ">", "#", "No. ", "±", "@", "-", f"{word} ")
    if rng.random() < 0.6:
        return rng.choice(before) + value
    return value + rng.choice(
        ("%", " %", "+", "*", f" ({word})", f"; {word}", f", {word}", "/2", "!")
    )


def echo(
    name: str, kind: str, value: str, before: list[str], lexicon: Lexicon, rng: random.Random
) -> str:
    """A value that repeats its page: "Brazilian Real", "Brasília" and "BR" stand on the page of Brazil.

    Kinds that are numbers keep their value.
    """
    words = [w for w in re.split("[ ()-]+", name) if len(w) > 3] or [name]
    root = rng.choice(words)
    if kind == "code":
        letters = "".join(letter for letter in name if letter.isalpha())[: rng.randint(1, 3)]
        return letters.upper() if rng.random() < 0.4 else letters
    if before and kind in _LENGTHENED and rng.random() < 0.3:
        return lengthened(rng.choice(before), name, lexicon.word(rng), rng)
    if kind not in _WORDY:
        return value
    ending = rng.choice(("ian", "ese", "n", "an", "i", "ish", "e", "o", "er", ""))
    near = root[: max(3, len(root) - rng.randint(0, 3))] + ending
    word = lexicon.word(rng).capitalize()
    forms = [
        f"{root}{ending} {word}",
        f"{near} {word}",
        f"{near} {value}",
        near,
        root,
        name,
        f"{name} {word}",
    ]
    forms += [f"{word} {root}", f"{value}, {name}", f"{near}, {value}"]
    forms += [f"{value} ({word.lower()})", f"{near} {word} {value}"]
    forms += [f"{near.lower()} ({name.lower()}); {word.lower()} from {value}", f"after {near}"]
    if before:
        forms += [rng.choice(before), f"{rng.choice(before).split()[0]} {word}"]
    return rng.choice(forms).replace("|", "")


def near_relation(
    relation: str, kinds: str, place: str, fact: str, lexicon: Lexicon, rng: random.Random
) -> str:
    """What a list is about that is nearly another's: a word more, fewer or other; or about a fact that may be asked for."""
    word, other = long_word(lexicon, rng), long_word(lexicon, rng)
    if rng.random() < 0.4:
        return rng.choice(
            (
                f"{kinds} by {fact}",
                f"largest {kinds} by {fact}",
                f"{kinds} with {fact} {rng.randint(2, 900)}",
                f"{kinds} {fact.split()[-1]}ed in the {rng.randint(150, 199)}0s",
                f"{plural(fact)} of {place}",
                f"{plural(fact)} in {lexicon.name(rng)}",
            )
        )
    return rng.choice(
        (
            f"largest {relation} by {word}",
            f"{word} {relation}",
            f"{relation} where {other.capitalize()} is {word}ed",
            f"{relation} {word}ed in {rng.randint(1500, 2020)}",
            f"{relation} with more than {rng.randint(2, 40)} {plural(word)}",
            relation.replace(kinds, plural(word)),
            relation.replace(place, lexicon.name(rng)),
            f"{kinds} in {place}",
            f"{kinds} of {place}",
            f"all {kinds}",
        )
    )


def next_in_series(relation: str, place: str, lexicon: Lexicon, rng: random.Random) -> str:
    """What a list is about that differs from another in a number or a place: "in group 3" for "in group 1"."""
    numbers = re.findall(r"\d+", relation)
    if numbers:
        number = rng.choice(numbers)
        return relation.replace(number, str(int(number) + rng.choice((-1, 1, 2, 3, 10))), 1)
    return relation.replace(place, lexicon.name(rng))


def adjective(place: str, rng: random.Random) -> str:
    """What belongs to a place: "Morlian", "Morlish" for Morlen."""
    root = place.split(" ")[-1]
    root = root[: max(3, len(root) - rng.randint(0, 3))]
    return root + rng.choice(("ian", "ese", "ish", "an", "i", "ic"))


def other_words(
    relation: str, kinds: str, place: str, others: Set[str], lexicon: Lexicon, rng: random.Random
) -> str:
    """A relation between items and a place told another way: "castles that lie in Morlen" or "Morlish castles" for
    "castles of Morlen"; one that says more than that stays as it is, and one beside others that say no more."""
    plain = [
        text.format(p=kinds, r=place)
        for text in lexicon.relations
        if set(re.findall(r"\{(\w)\}", text)) == {"p", "r"}
    ]
    if relation not in plain or not others.isdisjoint(plain):
        return relation
    if rng.random() < 0.25:
        return rng.choice(
            (f"{adjective(place, rng)} {kinds}", f"{kinds} {place}", f"{place} {kinds}")
        )
    return rng.choice(plain)


def loosely(relation: str, lexicon: Lexicon, rng: random.Random) -> str:
    """A relation told by someone who recalls it roughly: a word lost, put in, bent, taken for another or out of place."""
    words = relation.split(" ")
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(words))
        draw = rng.random()
        if draw < 0.25 and len(words) > 2:
            words.pop(at)
        elif draw < 0.4:
            words.insert(at, long_word(lexicon, rng))
        elif draw < 0.6:
            words[at] = long_word(lexicon, rng)
        elif draw < 0.8:
            word = words[at]
            words[at] = (
                word[:-1] if word[-1] == "s" else word + rng.choice(("s", "ing", "ed", "ish"))
            )
        else:
            words = words[at:] + words[:at]
    return " ".join(words)

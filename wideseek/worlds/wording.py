"""In which words a fact is asked for: its label, another name for it, or a question of its own."""

import random
from collections.abc import Sequence

from wideseek.worlds.columns import is_told
from wideseek.worlds.lexicon import Attribute, Split

_UNITS = {
    "area": ("km2", "km²", "sq km", "square kilometres", "square miles", "hectares"),
    "measure": (
        "m",
        "km",
        "metres",
        "kilometres",
        "cm",
        "miles",
        "kg",
        "tonnes",
        "g/cm3",
        "feet",
        "tons",
    ),
    "degrees": ("K", "°C", "kelvin", "degrees", "°F", "celsius"),
    "count": ("millions", "thousands", "figures"),
    "money": ("dollars", "€", "USD", "millions"),
}
_MARKS = (" in {}", " in {}", " ({})", " ({})", " {}", " (in {})")
_MERE = {"when": ("when", "when", "what year"), "where": ("where",), "who": ("by whom", "who")}


def asked_form(
    attribute: Attribute,
    split: Split,
    rng: random.Random,
    *,
    told: bool,
    among: Sequence[Attribute] = (),
) -> str:
    """How a fact is asked for; in training often by its plural, which is listed first.

    told: also by a question of its own, which may be a mere "when" where no other of `among` could be meant.
    """
    train = split == "train"
    forms = [f for f in attribute.asked if not is_told(f) or (told and (among or "~" not in f))]
    if train and told and among and (questions := [f for f in forms if is_told(f)]):
        if rng.random() < 0.3 and (words := _mere_questions(attribute, among)):
            return rng.choice(words)
        forms = questions if rng.random() < 0.6 else forms
    if not forms or rng.random() >= (0.65 if train else 0.45):
        return attribute.label
    form = forms[0] if train and rng.random() < 0.4 else rng.choice(forms)
    if "~" in form:
        verb = form.split("~ ")[1].split(" ")[0]
        one = verb.endswith("s") or verb == "got"
        form = form.replace("~", rng.choice(("it", "each", "each one") if one else ("they",)))
    return _as_typed(form, attribute.kind, rng) if train else form


def _as_typed(form: str, kind: str, rng: random.Random) -> str:
    """A fact with the unit it is wanted in, now and then, or with a letter wrong."""
    draw = rng.random()
    if draw < 0.06 and kind in _UNITS and not is_told(form):
        return form + rng.choice(_MARKS).format(rng.choice(_UNITS[kind]))
    word = rng.choice(form.split(" "))
    if draw > 0.985 and len(word) > 5:
        at = rng.randint(1, len(word) - 3)
        wrong = rng.choice(
            (word[:at] + word[at + 1 :], word[:at] + word[at + 1] + word[at] + word[at + 2 :])
        )
        return form.replace(word, wrong)
    return form


def _mere_questions(attribute: Attribute, among: Sequence[Attribute]) -> list[str]:
    """Question words that of all facts can only mean this one."""
    own = {form.split(" ")[0] for form in attribute.asked}
    others = set[str]().union(*(_could_answer(fact) for fact in among if fact is not attribute))
    return [form for word in sorted(own - others) for form in _MERE.get(word, ())]


def _could_answer(fact: Attribute) -> set[str]:
    """Question words that might mean a fact; a name that nothing says more of may be a person's or a place's."""
    words = {form.split(" ")[0] for form in fact.asked} & _MERE.keys()
    if fact.kind == "year" or any("year" in text for text in (fact.label, *fact.asked)):
        words.add("when")
    return words or ({"who", "where"} if fact.kind == "name" else set())

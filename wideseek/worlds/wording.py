"""In which words a fact is asked for: its label, another name for it, or a question of its own."""

import random
from collections.abc import Sequence

from wideseek.worlds.columns import is_told
from wideseek.worlds.lexicon import Attribute, Split

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
    if "~" not in form:
        return form
    one = form.endswith("s")
    return form.replace("~", rng.choice(("it", "each", "each one") if one else ("they",)))


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

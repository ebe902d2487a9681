"""Facts asked for in words of their own, which no other fact of the page could be meant by."""

import random

from wideseek.worlds.lexicon import Attribute
from wideseek.worlds.wording import asked_form

BUILT = Attribute("built", ("year built", "when built"), "year")
OPENED = Attribute("opened", ("opening year",), "year")
FOUND = Attribute("find spot", ("where found",), "name")
AUTHOR = Attribute("author", ("who wrote",), "name")
MAYOR = Attribute("mayor", ("mayors",), "name")
MELTS = Attribute("melting point", ("heat ~ melt", "heat ~ melts"), "measure")


def forms(attribute: Attribute, *among: Attribute) -> set[str]:
    return {
        asked_form(attribute, "train", random.Random(seed), told=True, among=among)
        for seed in range(300)
    }


def test_a_mere_question_word_is_asked_only_where_it_can_mean_one_fact() -> None:
    assert {"when", "what year"} <= forms(BUILT, BUILT, FOUND)
    assert not {"when", "what year"} & forms(BUILT, BUILT, OPENED)
    assert {"where"} <= forms(FOUND, FOUND, AUTHOR)
    assert {"who", "by whom"} <= forms(AUTHOR, FOUND, AUTHOR)
    assert not {"who", "by whom"} & forms(AUTHOR, AUTHOR, MAYOR), "a mayor is somebody too"


def test_pronoun_and_verb_agree() -> None:
    asked = forms(MELTS, MELTS)
    assert {"heat they melt", "heat it melts", "heat each melts"} <= asked
    assert not {"heat it melt", "heat they melts"} & asked


def test_boxed_questions_are_asked_around_their_item() -> None:
    alone = {asked_form(MELTS, "train", random.Random(s), told=True) for s in range(50)}
    assert alone == {"melting point"}


def test_units_and_slips_are_rare_and_stand_where_they_can() -> None:
    """ "height (m)", "heigth": a value keeps its kind of unit, and a word its first and last letters."""
    lengths = Attribute("height", ("heights",), "measure")
    names = Attribute("ruler", ("rulers",), "name")
    asked = [
        asked_form(a, "train", random.Random(seed), told=False)
        for a in (lengths, names)
        for seed in range(4000)
    ]
    others = [form for form in asked if form not in ("height", "heights", "ruler", "rulers")]
    units = {form for form in others if form.startswith("height") and len(form) > 8}
    slips = set(others) - units
    assert {"heights (km)", "heights in m"} <= units and not any("ruler" in form for form in units)
    assert {"heigths", "rulrs"} <= slips
    for slip in slips:
        assert slip[0] in "hr" and slip[-2:] in ("ts", "hs", "rs", "es"), slip
    assert 0.02 < len(others) / len(asked) < 0.06


def test_no_unit_follows_a_question() -> None:
    tall = Attribute("height", ("how tall",), "measure")
    assert forms(tall, tall) <= {"height", "how tall"}

"""Lists turned into questions: what is looked for stands in them, names and all."""

import random

import pytest

from wideseek.worlds.turned import turn


def turned(span: str) -> dict[str, str]:
    """Every way in which a list of castles is turned, with its carrier."""
    drawn = (
        turn("list all the {s} with {c}", span, "castles", random.Random(s)) for s in range(900)
    )
    return {words: carrier for carrier, words in drawn}


@pytest.mark.parametrize(
    ("span", "questions"),
    [
        ("castles vask Ta Dusk", {"Ta Dusk vasks which castles", "Ta Dusk vasks what castles"}),
        ("castles near Ta Dusk", set()),  # a preposition has no "nears"
        ("castles that vask a bone with Ta Dusk", {"Ta Dusk vasks a bone with which castles"}),
        ("castles which vask the moon", {"castles vask the moon", "vasks the moon"}),
        ("castles that are vasked", {"castles are vasked"}),
        ("castles Ta Dusk vasked", {"castles did Ta Dusk vask"}),
        ("noble castles with no roof", {"noble castles have no roof"}),
        ("noble castles of Ta Dusk", {"Ta Dusk's noble castles"}),
        ("castles", set()),
        (
            "castles where Morlish is vasked",
            {
                "Where is Morlish vasked",
                "where is Morlish vasked",
                "castles is Morlish vasked",
                "Where can I vask Morlish",
                "castles do they vask Morlish",
            },
        ),
        ("castles where Morlish is read", {"Where is Morlish read", "castles is Morlish read"}),
    ],
)
def test_a_list_is_turned_into_each_of_its_questions(span: str, questions: set[str]) -> None:
    seen = turned(span)
    assert questions <= seen.keys() and span in seen
    assert bool(questions) == (len(seen) > 1), seen.keys()


def test_a_capital_begins_the_question() -> None:
    for words, carrier in turned("castles where Morlish is vasked").items():
        assert carrier.startswith("{s}") == words.startswith("Where"), (carrier, words)


def test_what_a_name_owns_has_no_article() -> None:
    seen = turned("castles in Morlen")
    assert seen["Morlen's castles"] == "list all {s} with {c}"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideseek.tools.folding import fold


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("São Paulo", "sao paulo"),
        ("SAO  PAULO!", "sao paulo"),
        ("Côte d'Ivoire", "cote divoire"),
        ("St. John’s", "st johns"),
        ("U.S.A.", "usa"),
        ("Łódź", "lodz"),
        ("İzmir", "izmir"),
        ("Straße", "strasse"),
        ("snake_case-and/slash", "snake case and slash"),
        ("℡ 5 ㎏", "tel 5 kg"),
        ("8,511,965 km²", "8 511 965 km2"),
        ("'\"()|*:🙂", ""),
    ],
)
def test_words_are_compared_without_case_accents_and_punctuation(text: str, words: str) -> None:
    assert fold(text) == words


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)

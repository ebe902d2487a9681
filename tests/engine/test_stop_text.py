"""StopText finds a stop string at the token that completes it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from wideseek.engine.stop_text import StopText


def decode_bytes(token_ids: Sequence[int]) -> str:
    return bytes(token_ids).decode("utf-8", errors="replace")


def stop_index(stops: tuple[str, ...], token_ids: Sequence[int]) -> int | None:
    """Index of the token that ended the text, fed one by one."""
    stop_text = StopText(stops, decode_bytes)
    return next((i for i, token in enumerate(token_ids) if stop_text.completed_by(token)), None)


def test_a_stop_string_may_span_tokens() -> None:
    assert stop_index(("END",), b"an EN END!") == 8


def test_the_first_of_several_stop_strings_counts() -> None:
    assert stop_index(("zz", "b"), b"aabzz") == 2


def test_a_character_of_several_tokens_is_read_whole() -> None:
    text = "naïve 東京"
    assert stop_index(("東",), text.encode()) == len("naïve 東".encode()) - 1


def test_a_stop_string_before_an_unfinished_character_counts_at_once() -> None:
    words = {0: b"a", 1: b"stop\xe6", 2: b"\x9d\xb1"}

    def decode(token_ids: Sequence[int]) -> str:
        return b"".join(words[i] for i in token_ids).decode("utf-8", errors="replace")

    stop_text = StopText(("stop",), decode)
    assert [stop_text.completed_by(token) for token in (0, 1)] == [False, True]


def test_bytes_that_never_become_a_character_are_given_up_after_a_few() -> None:
    windows: list[int] = []

    def decode(token_ids: Sequence[int]) -> str:
        windows.append(len(token_ids))
        return decode_bytes(token_ids)

    stop_text = StopText(("x",), decode)
    assert [stop_text.completed_by(byte) for byte in b"\xff" * 50 + b"ax"].index(True) == 51
    assert max(windows) <= 8


def test_a_decoder_that_spaces_words_by_their_neighbour_is_read_right() -> None:
    words = ["to", "day", "x"]

    def decode(token_ids: Sequence[int]) -> str:
        return " ".join(words[i] for i in token_ids)

    stop_text = StopText(("to day",), decode)
    assert [stop_text.completed_by(token) for token in (2, 0, 1)] == [False, False, True]


@given(
    text=st.text(st.sampled_from("abé東🙂"), max_size=30),
    stops=st.lists(st.text(st.sampled_from("abé東🙂"), min_size=1, max_size=4), min_size=1),
)
def test_the_end_is_where_the_whole_text_first_holds_a_stop(text: str, stops: list[str]) -> None:
    ids = text.encode()
    ends = (i for i in range(len(ids)) if any(s in decode_bytes(ids[: i + 1]) for s in stops))
    assert stop_index(tuple(stops), ids) == next(ends, None)

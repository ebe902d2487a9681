"""Lines stay whole: on a disk that is full in the middle of one, and where a kill tore the last."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wideseek.line_file import LineFile


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write takes what fits, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_does_not_fit_leaves_nothing_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with LineFile(path) as lines:
        lines.append("first")
        with room_for(10), pytest.raises(OSError):
            lines.append("too long for it")
        assert path.read_bytes() == b"first\n"
        lines.append("last")
    assert path.read_bytes() == b"first\nlast\n"


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", b""),
        (b"torn", b""),
        (b"whole\n", b"whole\n"),
        (b"whole\nto", b"whole\n"),
        (b"\n" * 3 + b"x" * 9000, b"\n" * 3),
    ],
)
def test_opening_cuts_off_a_torn_line_alone(tmp_path: Path, before: bytes, kept: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    with LineFile(path) as lines:
        assert path.read_bytes() == kept
        lines.append("new")
    assert path.read_bytes() == kept + b"new\n"


def test_whole_lines_are_never_written_again(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 4096 + b"\nto")
    with room_for(100), LineFile(path):  # not even one byte of it could be
        assert path.stat().st_size == 4097


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    with LineFile(tmp_path / "lines") as lines:
        lines.append("\ud800")
    assert (tmp_path / "lines").read_bytes() == b"\\ud800\n"

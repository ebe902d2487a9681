import lzma
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from wideseek.tools import corpus_file
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

PAGES = [
    Page(
        "Ada",
        "https://x/Ada",
        "Ada\nAda is a ship.\nlength: 12 m",
        ("the Ada", "HMS Ada"),
        "A ship.",
    ),
    Page("Øre", "https://x/Ore", "Øre\nØre is a coin."),
]


@pytest.mark.parametrize("name", ["c.sqlite", "c.sqlite.xz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    corpus_file.write(path, PAGES, {"source": "made up"})
    assert corpus_file.read(path) == (PAGES, {"format": corpus_file.FORMAT, "source": "made up"})


def test_same_pages_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.sqlite.xz", tmp_path / "b.sqlite.xz"
    corpus_file.write(first, PAGES, {"b": "2", "a": "1"})
    corpus_file.write(second, PAGES, {"a": "1", "b": "2"})
    assert first.read_bytes() == second.read_bytes()


def _database(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        database = sqlite3.connect(path)
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()

    return make


META = "CREATE TABLE meta (key, value)"
META_ROW = f"INSERT INTO meta VALUES ('format', '{corpus_file.FORMAT}')"
TABLE = "CREATE TABLE pages (title, url, text, aliases, snippet)"


def _cut(path: Path) -> None:
    corpus_file.write(path, PAGES, {})
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.sqlite", lambda path: None, "cannot be read"),
        ("folder.sqlite", lambda path: path.mkdir(), "cannot be read"),
        ("text.sqlite", lambda path: path.write_text("hello"), "neither an SQLite file"),
        ("empty.sqlite", lambda path: path.write_bytes(b""), "neither an SQLite file"),
        ("cut.sqlite", _cut, "damaged"),
        ("half.sqlite.xz", lambda path: path.write_bytes(lzma.compress(b"x" * 99)[:40]), "damaged"),
        ("odd.sqlite.xz", lambda path: path.write_bytes(lzma.compress(b"x")), "neither an SQLite"),
        ("foreign.sqlite", _database("CREATE TABLE t (a)"), "not a corpus"),
        ("no_format.sqlite", _database(META, TABLE), "format None"),
        (
            "other.sqlite",
            _database(META, "INSERT INTO meta VALUES ('format', 'wideseek corpus 9')"),
            "wideseek corpus 9",
        ),
        ("no_pages.sqlite", _database(META, META_ROW, TABLE), "holds no pages"),
        ("no_table.sqlite", _database(META, META_ROW), "no such table: pages"),
        (
            "null.sqlite",
            _database(META, META_ROW, TABLE, "INSERT INTO pages VALUES ('t', 'u', NULL, '', '')"),
            "not text",
        ),
        (
            "twice.sqlite",
            _database(
                META, META_ROW, TABLE, *["INSERT INTO pages VALUES ('t', 'u', 'x', '', '')"] * 2
            ),
            "two pages with the url u",
        ),
    ],
)
def test_a_file_that_is_no_corpus_is_refused_in_one_line_that_names_it(
    tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError) as refusal:
        Corpus.load(path)
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)

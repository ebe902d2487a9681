"""A corpus as one file: SQLite, compressed with xz when the name ends in .xz.

Tables: pages(title, url, text, aliases, snippet) in rank-neutral order, aliases one a line; meta(key, value) with
format = FORMAT and whatever else the maker states (sources, licences).
"""

import lzma
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from wideseek.tools.outcome import Page

FORMAT = "wideseek corpus 1"
_SCHEMA = """
CREATE TABLE pages (title TEXT NOT NULL, url TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
                    aliases TEXT NOT NULL, snippet TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def write(path: Path, pages: Sequence[Page], meta: Mapping[str, str]) -> None:
    """Write a corpus file; the same pages and meta give the same bytes."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SCHEMA)
        database.executemany(
            "INSERT INTO pages VALUES (?, ?, ?, ?, ?)",
            [(p.title, p.url, p.text, "\n".join(p.aliases), p.snippet) for p in pages],
        )
        database.executemany(
            "INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), *sorted(meta.items())]
        )
        database.commit()
        data = database.serialize()
    if path.suffix == ".xz":
        data = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(data)


def read(path: Path) -> tuple[list[Page], dict[str, str]]:
    """Pages in file order and the meta table. Raises ValueError, one line naming the file, for anything else."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\xfd7zXZ\x00"):
            data = lzma.decompress(data)
    except OSError as error:
        raise ValueError(f"corpus {path} cannot be read: {error.strerror}") from error
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"corpus {path} is damaged: {error}") from error
    if not data.startswith(b"SQLite format 3\x00"):
        raise ValueError(f"corpus {path} is neither an SQLite file nor one compressed with xz")
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(data)
            meta = dict(database.execute("SELECT key, value FROM meta"))
            if meta.get("format") != FORMAT:
                raise ValueError(f"corpus {path} has format {meta.get('format')!r}, not {FORMAT!r}")
            rows = database.execute(
                "SELECT title, url, text, aliases, snippet FROM pages ORDER BY rowid"
            ).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ValueError(f"corpus {path} is damaged or not a corpus: {error}") from error
    if not rows:
        raise ValueError(f"corpus {path} holds no pages")
    if not all(isinstance(value, str) for row in rows for value in row):
        raise ValueError(f"corpus {path} has a page with a value that is not text")
    url, times = Counter(row[1] for row in rows).most_common(1)[0]
    if times > 1:
        raise ValueError(f"corpus {path} has two pages with the url {url}")
    pages = [
        Page(title, url, text, tuple(aliases.split("\n")) if aliases else (), snippet)
        for title, url, text, aliases, snippet in rows
    ]
    return pages, meta

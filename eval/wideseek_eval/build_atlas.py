"""Fill the gold into the questions over the bundled corpus: `python -m wideseek_eval.build_atlas`.

Reads atlas/questions.toml and people.toml, whose wordings are by hand, and writes a .jsonl beside each: the values are those
of the pages, and a test holds the pages equal to what the data packages give.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from wideseek.tools import corpus_file
from wideseek.tools.corpus import BUNDLED

FOLDER = Path(__file__).parents[1] / "atlas"
_ITEM = re.compile(r"^\d+\. (.+)$", re.MULTILINE)
_KEYS = "country city element currency language territory Country City Element Currency Language Name".split()


def questions() -> list[dict[str, Any]]:
    """The lines of questions.jsonl. KeyError names a page or a fact that the corpus does not have."""
    pages = {page.title: page.text for page in corpus_file.read(BUNDLED)[0]}
    source = tomllib.loads((FOLDER / "questions.toml").read_text(encoding="utf-8"))
    tables = [_table(entry, pages) for entry in source["table"]]
    return [*tables, *(_boxed(entry, pages) for entry in source["boxed"])]


def people() -> list[dict[str, Any]]:
    """The lines of people.jsonl. A heading may be any run of the asker's words; a fact that a page lacks is unknown.

    KeyError names a page that the corpus does not have, or a fact that no page of a question has.
    """
    pages = {page.title: page.text for page in corpus_file.read(BUNDLED)[0]}
    source = tomllib.loads((FOLDER / "people.toml").read_text(encoding="utf-8"))
    return [_asked(f"people-{n}", entry, pages) for n, entry in enumerate(source["question"], 1)]


def _asked(name: str, entry: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    pairs = [fact.partition(" = ")[::2] for fact in entry["facts"]]
    labels = [label or words for words, label in pairs]
    titles = entry.get("items") or _ITEM.findall(pages[entry["list"]])
    cells = [[_stated(pages[title], label) for label in labels] for title in titles]
    for number, label in enumerate(labels):
        if not any(row[number] for row in cells):
            raise KeyError(f"no page of {entry['text']!r} has {label}")
    line = {"id": name, "question": entry["text"], "split": "atlas", "group": entry["group"]}
    if len(titles) == len(labels) == 1 and "items" in entry:
        empty = {"columns": [], "key": "", "rows": [], "aliases": {}}
        return line | empty | {"kind": "boxed", "answer": cells[0][0]}
    aliases = {
        words: sorted({*_runs(words), label} - {words})
        for (words, _), label in zip(pairs, labels, strict=True)
    }
    return line | {
        "kind": "table",
        "columns": ["name", *(words for words, _ in pairs)],
        "key": "name",
        "rows": [
            [title, *(cell or "unknown" for cell in row)]
            for title, row in zip(titles, cells, strict=True)
        ],
        "answer": None,
        "aliases": {"name": list(_KEYS)} | aliases,
    }


def _runs(text: str) -> list[str]:
    words = text.split()
    ends = range(1, len(words) + 1)
    return [" ".join(words[first:last]) for last in ends for first in range(last)]


def _table(entry: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    names, labels = [], []
    for column in entry["columns"]:
        name, _, label = column.partition(" = ")
        names.append(name)
        labels.append(label or name)
    titles = _ITEM.findall(pages[entry["list"]])
    renamed = zip(names[1:], labels[1:], strict=True)
    return {
        "id": entry["id"],
        "question": entry["question"],
        "kind": "table",
        "columns": names,
        "key": names[0],
        "rows": [
            [title, *(_fact(pages, title, label) for label in labels[1:])] for title in titles
        ],
        "answer": None,
        "aliases": {names[0]: ["name"]}
        | {name: [label] for name, label in renamed if label.casefold() != name.casefold()},
        "split": "atlas",
    }


def _boxed(entry: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    return {
        "id": entry["id"],
        "question": entry["question"],
        "kind": "boxed",
        "columns": [],
        "key": "",
        "rows": [],
        "answer": _fact(pages, entry["page"], entry["label"]),
        "aliases": {},
        "split": "atlas",
    }


def _fact(pages: dict[str, str], title: str, label: str) -> str:
    found = _stated(pages[title], label)
    if not found:
        raise KeyError(f"{title} has no {label}")
    return found


def _stated(page: str, label: str) -> str:
    found = re.search(f"^{re.escape(label)}: (.+)$", page, re.MULTILINE)
    return found[1] if found else ""


def main() -> int:
    for name, filled in (("questions", questions()), ("people", people())):
        lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in filled]
        (FOLDER / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{FOLDER / name}.jsonl: {len(lines)} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())

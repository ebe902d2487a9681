"""Fill the gold into the questions over the bundled corpus: `python -m wideseek_eval.build_atlas`.

Reads atlas/questions.toml, whose wordings are by hand, and writes atlas/questions.jsonl: the values are those of the pages,
and a test holds the pages equal to what the data packages give.
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


def questions() -> list[dict[str, Any]]:
    """The lines of questions.jsonl. KeyError names a page or a fact that the corpus does not have."""
    pages = {page.title: page.text for page in corpus_file.read(BUNDLED)[0]}
    source = tomllib.loads((FOLDER / "questions.toml").read_text(encoding="utf-8"))
    tables = [_table(entry, pages) for entry in source["table"]]
    return [*tables, *(_boxed(entry, pages) for entry in source["boxed"])]


def _table(entry: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    names, labels = [], []
    for column in entry["columns"]:
        name, _, label = column.partition(" = ")
        names.append(name)
        labels.append(label or name)
    titles = re.findall(r"^\d+\. (.+)$", pages[entry["list"]], re.MULTILINE)
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
    found = re.search(f"^{re.escape(label)}: (.+)$", pages[title], re.MULTILINE)
    if found is None:
        raise KeyError(f"{title} has no {label}")
    return found[1]


def main() -> int:
    lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in questions()]
    (FOLDER / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{FOLDER / 'questions.jsonl'}: {len(lines)} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())

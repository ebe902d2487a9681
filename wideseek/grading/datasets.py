"""Published question sets, read from the files their publishers ship (SPEC section 9).

.jsonl, .json and .csv files of WideSearch (gold tables in widesearch_gold/ beside the file), of
WideSeek-R1 (hybrid_20k, width_20k, depth_20k and the test rows) and of ASearcher's test sets.
Nothing is downloaded.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wideseek.grading.answer import Table, extract_final_answer

SUFFIXES = (".jsonl", ".json", ".csv")
GOLD_FOLDER = "widesearch_gold"
QA_SETS = ("NQ", "TriviaQA", "PopQA", "2WikiMultihopQA", "HotpotQA", "Bamboogle", "Musique")
"""What the QA suite consists of, by the names that ASearcher's files begin with."""

Kind = Literal["table", "qa", "flagged"]
"""What the rows of a file ask for: "flagged" when each says so itself in is_markdown."""

Record = Mapping[str, Any]

_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRow:
    """One question and what is right.

    label: what the training reward is handed: answer, is_markdown, instance_id and language; for a
    table also unique_columns and, where the row has an evaluation, required. evaluation: how the
    official scorer of WideSearch goes about this table. gold_csv: its gold where that is a file.
    """

    id: str
    question: str
    language: Literal["en", "zh"]
    label: dict[str, Any]
    evaluation: dict[str, Any] | None
    gold_csv: str | None = None

    @property
    def is_table(self) -> bool:
        return bool(self.label["is_markdown"])

    @property
    def answers(self) -> tuple[str, ...]:
        """The gold phrases of a question that does not ask for a table."""
        return tuple(map(str, self.label["answer"]))

    def gold_table(self) -> tuple[Table, tuple[str, ...]] | None:
        """The gold's required columns, and which of them are the key (the first if none is named).

        None where the gold holds no table or not all required columns.
        """
        if self.gold_csv is not None:
            table = _read_csv_table(self.gold_csv)
        else:
            table = extract_final_answer(self.label["answer"], "table", strict=False)
        if table is None:
            return None
        evaluation = self.evaluation or {}
        place = {_header(name): index for index, name in enumerate(table.columns)}
        wanted = [_header(name) for name in evaluation.get("required") or table.columns]
        if not set(wanted) <= place.keys():
            return None
        kept = [place[name] for name in wanted]
        columns = tuple(table.columns[index] for index in kept)
        rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
        named = self.label["unique_columns"] or evaluation.get("unique_columns") or wanted[:1]
        keys = tuple(table.columns[place[k]] if (k := _header(n)) in place else n for n in named)
        return Table(columns, rows), keys


def read_dataset(
    path: Path,
    kind: Kind | None = None,
    *,
    chinese: bool = False,
    limit: int | None = None,
    fits: Callable[[str], bool] | None = None,
) -> list[DatasetRow]:
    """The rows of a file: the first `limit`, and of these the ones whose question `fits`.

    kind: by default what the fields suggest. ValueError names file, line and field of what is bad.
    """
    places, records = [], []
    for where, record in _read_records(path):
        places.append(where)
        records.append(record)
    if not records:
        raise ValueError(f"{path}: holds no rows")
    kind = kind or guess_kind(records)
    for where, record in zip(places[:limit], records, strict=False):
        try:
            check_record(record, kind)
        except ValueError as error:
            raise ValueError(f"{path} {where}: {error}") from None
    rows = []
    for index, chosen in enumerate(choose_records(records, limit=limit, fits=fits)):
        record, gold = records[chosen], None
        if kind == "table" and "answer" not in record:
            gold = _read_gold(path, places[chosen], record)
        rows.append(make_row(record, index, kind, chinese=chinese, gold_csv=gold))
    return rows


def find_qa_files(folder: Path) -> dict[str, Path]:
    """The test file of each of QA_SETS in a copy of ASearcher's test data; ValueError if one lacks.

    Either NAME*.jsonl in the folder, or test.jsonl in a folder NAME*; .json does as well.
    """
    files: dict[str, Path] = {}
    for name in QA_SETS:
        places = [
            place for place in folder.glob("*") if place.name.lower().startswith(name.lower())
        ]
        found = [
            file
            for place in sorted(places)
            for file in ([place / "test.jsonl", place / "test.json"] if place.is_dir() else [place])
            if file.suffix in SUFFIXES and file.is_file()
        ]
        if found:
            files[name] = found[0]
    missing = [name for name in QA_SETS if name not in files]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}*/test.jsonl (of {', '.join(QA_SETS)})")
    return files


def guess_kind(records: Sequence[Record]) -> Kind:
    """What a file's fields suggest: flags, fields only tables have, or else phrases."""
    fields = {name for record in records for name in record}
    if "is_markdown" in fields:
        return "flagged"
    return "table" if fields & {"unique_columns", "evaluation"} else "qa"


def choose_records(
    records: Sequence[Record], *, limit: int | None, fits: Callable[[str], bool] | None
) -> list[int]:
    """Places of the records that are kept: the cut to `limit` comes before the filter."""
    places = range(len(records[:limit]))
    return [place for place in places if fits is None or fits(_question(records[place]))]


def make_row(
    record: Record,
    index: int,
    kind: Kind,
    *,
    chinese: bool = False,
    gold_csv: str | None = None,
) -> DatasetRow:
    """The row of a checked record; `index`, its place in the data set, stands in for an id.

    The label's language is "zh" only where `chinese` allows it.
    """
    instance = record.get("instance_id", index)
    language: Literal["en", "zh"] = (
        "zh"
        if "zh" in str(record.get("instance_id", "")) or record.get("language") == "zh"
        else "en"
    )
    is_table = kind == "table" or (kind == "flagged" and bool(record.get("is_markdown", False)))
    answer = record.get("answer", record.get("gt"))
    evaluation = _evaluation(record)
    label: dict[str, Any] = {"answer": answer if is_table or isinstance(answer, list) else [answer]}
    if is_table:
        label["unique_columns"] = record.get("unique_columns", [])
        if evaluation is not None:
            label["required"] = evaluation.get("required", [])
    label |= {
        "is_markdown": is_table,
        "instance_id": instance,
        "language": language if chinese else "en",
    }
    return DatasetRow(
        id=str(index if instance is None else instance),
        question=_question(record),
        language=language,
        label=label,
        evaluation=evaluation,
        gold_csv=gold_csv,
    )


def check_record(record: Record, kind: Kind) -> None:
    """ValueError names the field of a record that is missing or of the wrong form."""
    name = "query" if "query" in record and "question" not in record else "question"
    if not isinstance(record.get(name), str) or not record[name].strip():
        raise ValueError(f"{name} must be text, {_not(record.get(name))}")
    flag = record.get("is_markdown", False)
    if not isinstance(flag, bool):
        raise ValueError(f"is_markdown must be true or false, {_not(flag)}")
    instance = record.get("instance_id")
    if instance is not None and not _is_one_of(instance, str, int):
        raise ValueError(f"instance_id must be text or a whole number, {_not(instance)}")
    if record.get("language", "en") not in ("en", "zh"):
        raise ValueError(f"language must be en or zh, {_not(record['language'])}")
    if kind == "table" or flag:
        _check_table(record)
    else:
        name = "gt" if "gt" in record and "answer" not in record else "answer"
        answer = record.get(name)
        phrases = answer if isinstance(answer, list) else [answer]
        if not phrases or not all(_is_phrase(phrase) for phrase in phrases):
            raise ValueError(f"{name} must be text, a number or a list of them, {_not(answer)}")


def _check_table(record: Record) -> None:
    unique = record.get("unique_columns")
    if unique is not None and not _are_texts(unique):
        raise ValueError(f"unique_columns must be a list of texts, {_not(unique)}")
    if record.get("evaluation"):
        evaluation = _evaluation(record)
        if evaluation is None:
            raise ValueError(f"evaluation must be an object, {_not(record['evaluation'])}")
        for name in ("required", "unique_columns"):
            if name in evaluation and not _are_texts(evaluation[name]):
                raise ValueError(f"evaluation.{name} must be a list of texts")
    if "answer" in record or not record.get("evaluation"):
        answer = record.get("answer")
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(f"answer must be the text of a table, {_not(answer)}")


def _read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Each record with where it stands: a line, in .json a row."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: must be a {', '.join(SUFFIXES)} file")
    text = _read_text(path)
    if path.suffix == ".csv":
        yield from _read_csv_records(path, text)
        return
    sources = [(1, text)] if path.suffix == ".json" else enumerate(text.split("\n"), 1)
    for number, source in sources:
        if not source.strip():
            continue
        try:
            content = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number}: not JSON, {error}") from None
        rows = content if path.suffix == ".json" and isinstance(content, list) else [content]
        for place, record in enumerate(rows, number):
            where = f"{'row' if path.suffix == '.json' else 'line'} {place}"
            if not isinstance(record, dict):
                raise ValueError(f"{path} {where}: must be an object, {_not(record)}")
            yield where, record


def _read_csv_records(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    """Records by the line they begin on, since cells may hold line ends."""
    lines = csv.DictReader(io.StringIO(text), strict=True)
    where = "line 1"
    try:
        if lines.fieldnames:
            where = f"line {lines.reader.line_num + 1}"
        for cells in lines:
            yield where, _from_csv(cells, f"{path} {where}")
            where = f"line {lines.reader.line_num + 1}"
    except csv.Error as error:
        raise ValueError(f"{path} {where}: {error}") from None


def _from_csv(cells: dict[Any, Any], where: str) -> Record:
    """A row whose lists, flags and whole numbers are written as JSON; blank cells are left out."""
    if None in cells or None in cells.values():
        raise ValueError(f"{where}: has not as many cells as the header")
    record = {name: cell for name, cell in cells.items() if cell.strip()}
    for name in record.keys() & {"answer", "gt", "unique_columns", "is_markdown"}:
        text = record[name].strip()
        if name == "is_markdown":
            text = text.lower()
        if text.startswith("[") or text in ("true", "false", "null"):
            try:
                record[name] = json.loads(text)
            except ValueError:
                continue  # a phrase that merely begins so
    return record


def _read_gold(path: Path, where: str, record: Record) -> str:
    """The text of widesearch_gold/<instance_id>.csv beside the file."""
    name = str(record.get("instance_id"))
    file = path.parent / GOLD_FOLDER / f"{name}.csv"
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{path} {where}: instance_id {_shown(name)} cannot name a gold file")
    if not file.is_file():
        raise ValueError(f"{path} {where}: instance_id {name} has no gold table {file}")
    return _read_text(file)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _read_csv_table(text: str) -> Table | None:
    """A gold file: first line the header, short rows filled up, surplus cells dropped."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    except csv.Error:
        return None
    if not lines:
        return None
    columns = tuple(name.strip() for name in lines[0])
    width = len(columns)
    filled = (tuple(line[:width]) + ("",) * (width - len(line)) for line in lines[1:])
    return Table(columns, tuple(filled))


def _question(record: Record) -> str:
    return str(record["question"] if "question" in record else record["query"])


def _evaluation(record: Record) -> dict[str, Any] | None:
    """The evaluation of a record, an object or its JSON text; None where it is neither."""
    evaluation = record.get("evaluation")
    if isinstance(evaluation, str):
        try:
            evaluation = json.loads(evaluation)
        except (ValueError, RecursionError):
            return None
    return evaluation if isinstance(evaluation, dict) else None


def _header(name: str) -> str:
    """As WideSearch writes required columns: lower case, no spaces."""
    return name.strip().lower().replace(" ", "")


def _is_one_of(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _is_phrase(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, int | float)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _not(value: object) -> str:
    return f"not {_shown(value)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

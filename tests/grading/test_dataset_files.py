"""Published files: every schema as it is shipped, and one clear line for what is bad."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from wideseek.grading.answer import Table
from wideseek.grading.datasets import QA_SETS, Kind, find_qa_files, read_dataset

FENCED = "```markdown\n| City | Country |\n|---|---|\n| Wien | Austria |\n| Bern | |\n```"
CITIES = Table(("City", "Country"), (("Wien", "Austria"), ("Bern", "")))
EVALUATION = {"required": ["city", "foundedyear"], "unique_columns": ["city"], "eval_pipeline": {}}
WIDESEARCH = {
    "instance_id": "ws_zh_007",
    "query": "列出城市",
    "evaluation": json.dumps(EVALUATION),
    "language": "zh",
}
HYBRID_TABLE = {
    "question": "Which cities?",
    "answer": FENCED,
    "unique_columns": ["city"],
    "is_markdown": True,
    "instance_id": 4,
}
HYBRID_QA = {
    "question": "Who?",
    "answer": "Mozart",
    "unique_columns": None,
    "is_markdown": False,
    "instance_id": 9,
}
DEPTH = {"question": "Who?", "answer": "Mozart", "source": "x", "aug_answer": ["W"], "qid": "q"}


def write(path: Path, *records: object) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_gold(folder: Path, text: str, name: str = "ws_zh_007") -> None:
    (folder / "widesearch_gold").mkdir(exist_ok=True)
    (folder / "widesearch_gold" / f"{name}.csv").write_text(text, encoding="utf-8")


def test_widesearch_reads_its_gold_beside_the_file(tmp_path: Path) -> None:
    gold = '\ufeffCity , Note,Founded Year\r\n"Wien, Stadt",x,881\r\nBern,y\r\n'
    write_gold(tmp_path, gold)
    [row] = read_dataset(write(tmp_path / "widesearch.jsonl", WIDESEARCH))
    assert (row.id, row.question, row.language, row.is_table) == (
        "ws_zh_007",
        "列出城市",
        "zh",
        True,
    )
    assert row.evaluation == EVALUATION
    assert row.gold_csv is not None and row.gold_csv.startswith("City , Note")
    columns = ("City", "Founded Year")
    assert row.gold_table() == (Table(columns, (("Wien, Stadt", "881"), ("Bern", ""))), ("City",))


def test_hybrid_rows_say_themselves_what_they_are(tmp_path: Path) -> None:
    table, phrase = read_dataset(write(tmp_path / "h.jsonl", HYBRID_TABLE, "", HYBRID_QA))
    assert table.gold_table() == (CITIES, ("City",))
    assert (table.id, phrase.id, phrase.is_table, phrase.answers) == ("4", "9", False, ("Mozart",))
    assert table.label["unique_columns"] == ["city"] and "required" not in table.label


def test_width_and_depth_rows_are_told_by_their_fields(tmp_path: Path) -> None:
    width = {"question": "Which?", "answer": FENCED, "unique_columns": None}
    [table] = read_dataset(write(tmp_path / "width_20k.jsonl", width))
    assert table.gold_table() == (CITIES, ("City",))  # without a named key the first column
    [phrase] = read_dataset(write(tmp_path / "depth_20k.jsonl", DEPTH))
    assert (phrase.answers, phrase.id) == (("Mozart",), "0")


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        ("Wien", ("Wien",)),
        (["Wien", "Vienna"], ("Wien", "Vienna")),
        ([1756, True], ("1756", "True")),
    ],
)
@pytest.mark.parametrize("field", ["answer", "gt"])
def test_asearcher_golds_are_texts_or_lists_under_either_name(
    tmp_path: Path, field: str, answer: object, answers: tuple[str, ...]
) -> None:
    [row] = read_dataset(write(tmp_path / "test.jsonl", {"question": "Q?", field: answer}))
    assert row.answers == answers


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_the_same_rows_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    records = [HYBRID_TABLE, HYBRID_QA, HYBRID_QA | {"answer": ["[sic]", "b"], "instance_id": 10}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write(path, *records)
    elif suffix == "json":
        path.write_text(json.dumps(records))
    else:
        with path.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(HYBRID_TABLE)
            for record in records:
                lines.writerow(v if isinstance(v, str) else json.dumps(v) for v in record.values())
    rows = read_dataset(path)
    assert [row.id for row in rows] == ["4", "9", "10"]
    assert [row.is_table for row in rows] == [True, False, False]
    assert rows[0].gold_table() == (CITIES, ("City",))
    assert rows[2].answers == ("[sic]", "b")


def test_line_separators_inside_texts_end_no_row(tmp_path: Path) -> None:
    [row] = read_dataset(write(tmp_path / "t.jsonl", {"question": "a\u2028b\x85c", "answer": "d"}))
    assert row.question == "a\u2028b\x85c"


def test_the_cut_comes_before_the_filter_and_numbers_after_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", *({"question": "x" * n, "answer": str(n)} for n in (5, 1, 6, 2, 3))
    )
    rows = read_dataset(path, limit=4, fits=lambda question: len(question) < 5)
    assert [(row.id, row.answers) for row in rows] == [("0", ("1",)), ("1", ("2",))]
    assert [row.id for row in read_dataset(path, limit=0)] == []


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        ("{", None, "not JSON"),
        ("[1]", None, "must be an object, not [1]"),
        ({"answer": "a"}, None, "question must be text, not None"),
        ({"query": " ", "answer": "a"}, None, "query must be text, not ' '"),
        ({"question": "q"}, None, "answer must be text, a number or a list of them, not None"),
        ({"question": "q", "gt": []}, None, "gt must be text, a number or a list"),
        ({"question": "q", "answer": ["a", None]}, None, "answer must be text, a number"),
        ({"question": "q", "answer": {"a": 1}}, None, "answer must be text, a number"),
        (HYBRID_TABLE | {"is_markdown": "yes"}, None, "is_markdown must be true or false"),
        (HYBRID_TABLE | {"answer": ["a"]}, None, "answer must be the text of a table"),
        (HYBRID_TABLE | {"unique_columns": "city"}, None, "unique_columns must be a list"),
        (HYBRID_TABLE | {"instance_id": 1.5}, None, "instance_id must be text or a whole number"),
        (HYBRID_TABLE | {"instance_id": True}, None, "instance_id must be text or a whole number"),
        (HYBRID_TABLE | {"language": "fr"}, None, "language must be en or zh, not 'fr'"),
        ({"question": "q", "answer": "a", "evaluation": "{"}, None, "evaluation must be an object"),
        (
            {"question": "q", "answer": "a", "evaluation": {"required": "city"}},
            None,
            "evaluation.required must be a list of texts",
        ),
        (WIDESEARCH, None, "instance_id ws_zh_007 has no gold table"),
        (WIDESEARCH | {"instance_id": "../x"}, None, "instance_id '../x' cannot name a gold file"),
        ({"question": "q", "answer": 3}, "table", "answer must be the text of a table, not 3"),
    ],
)
def test_a_bad_row_is_one_line_with_file_line_and_field(
    tmp_path: Path, record: object, kind: Kind | None, message: str
) -> None:
    path = write(tmp_path / "rows.jsonl", "", record)
    with pytest.raises(ValueError) as raised:
        read_dataset(path, kind)
    told = str(raised.value)
    assert told.startswith(f"{path} line 2: {message}") and "\n" not in told


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.txt", "", "must be a .jsonl, .json, .csv file"),
        ("rows.jsonl", "\n\n", "holds no rows"),
        ("rows.json", '[{"question": "q", "answer": "a"}, 3]', "row 2: must be an object, not 3"),
        ("rows.csv", "question,answer\nq,a\nq\n", "line 3: has not as many cells as the header"),
        ("rows.csv", "question,answer\nq,a,b\n", "line 2: has not as many cells as the header"),
        ("rows.csv", 'question,answer\nq,"a\n', "line 2: unexpected end of data"),
        ("rows.csv", "question,answer\nq,a\nq,\n", "line 3: answer must be text"),
        ("rows.csv", 'question,answer\n"q\nr",a\nq,\n', "line 4: answer must be text"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as raised:
        read_dataset(tmp_path / name)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        read_dataset(tmp_path / "none.jsonl")
    (tmp_path / "odd.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="cannot read"):
        read_dataset(tmp_path / "odd.jsonl")


@pytest.mark.parametrize("gold", ["", "City,Other\nWien,1\n"])
def test_a_gold_without_the_required_columns_gives_no_table(tmp_path: Path, gold: str) -> None:
    write_gold(tmp_path, gold)
    [row] = read_dataset(write(tmp_path / "w.jsonl", WIDESEARCH))
    assert row.gold_table() is None


def test_a_key_the_gold_lacks_stays_as_it_is_named(tmp_path: Path) -> None:
    """The grader then says that the gold is bad."""
    [row] = read_dataset(write(tmp_path / "w.jsonl", HYBRID_TABLE | {"unique_columns": ["Land"]}))
    assert row.gold_table() == (CITIES, ("Land",))


def test_qa_sets_are_found_in_a_copy_of_the_test_data(tmp_path: Path) -> None:
    for name in QA_SETS[:-1]:
        (tmp_path / f"{name}_rand1000").mkdir()
        write(tmp_path / f"{name}_rand1000" / "test.jsonl", {"question": "q", "answer": "a"})
    (tmp_path / "frames").mkdir()
    with pytest.raises(ValueError, match=r"has no Musique\*/test.jsonl"):
        find_qa_files(tmp_path)
    loose: Any = write(tmp_path / "musique.jsonl", {"question": "q", "answer": "a"})
    files = find_qa_files(tmp_path)
    assert list(files) == list(QA_SETS) and files["Musique"] == loose

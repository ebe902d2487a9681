"""The exact judge: how much of a gold table or phrase an answer got right, by rule alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wideseek.grading.answer import Table
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.value import canonical, fold

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableScore:
    """Precision, recall and F1 over items (required cells) and over rows, each in [0, 1].

    `success` when all are exactly 1; `columns_matched` counts the required columns found in the
    answer.
    """

    item_f1: float
    item_precision: float
    item_recall: float
    row_f1: float
    row_precision: float
    row_recall: float
    success: bool
    columns_matched: int


def score_table(
    answer: Table | None,
    gold: Table,
    key: Sequence[str],
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> TableScore | Failure:
    """Score `answer` (None: it held no table) against `gold`, whose columns are the required ones.

    Columns are matched by `match_columns`, rows joined by the canonical values of the `key`
    columns, the first of duplicates kept on both sides. A joined row earns its key cells and every
    cell with the gold's canonical value. Denominators: rows after de-duplication, times the
    required columns for items (SPEC section 1). Columns that are missing cost their items; columns
    nobody asked for cost nothing. Failure when the gold itself is unusable.
    """
    if not gold.rows:
        return Failure(FailureKind.BAD_GOLD, "the gold table has no rows")
    if not key or not set(key) <= set(gold.columns):
        return Failure(FailureKind.BAD_GOLD, f"key {list(key)} is not among {list(gold.columns)}")
    if answer is None:
        return _score(0, 0, 0, len(gold.rows), len(gold.columns), columns_matched=0)
    place = match_columns(answer.columns, gold.columns, key, aliases or {})
    gold_keys = [gold.columns.index(name) for name in key]
    expected = _rows_by_key(gold, gold_keys, range(len(gold.columns)))
    found = _rows_by_key(
        answer, [place[column] for column in gold_keys], [place[c] for c in range(len(place))]
    )
    items = rows = 0
    for row_key, cells in found.items():
        if (wanted := expected.get(row_key)) is None or not any(row_key):
            continue
        right = sum(cell == want for cell, want in zip(cells, wanted, strict=True))
        items += right
        rows += right == len(wanted)
    matched = sum(column is not None for column in place)
    return _score(items, rows, len(found), len(expected), len(place), columns_matched=matched)


def score_boxed(answer: str | None, gold: str | Sequence[str]) -> TableScore | Failure:
    """Score a phrase as a table of one cell: right when it equals one of the gold phrases."""
    accepted = {canonical(phrase) for phrase in ([gold] if isinstance(gold, str) else gold)}
    if not any(accepted):
        return Failure(FailureKind.BAD_GOLD, "the gold answer is blank")
    right = answer is not None and canonical(_without_latex(answer)) in accepted
    return _score(right, right, 1, 1, 1, columns_matched=int(answer is not None))


def match_columns(
    answer: Sequence[str],
    gold: Sequence[str],
    key: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
) -> list[int | None]:
    """For each gold column the answer column that stands for it, or None; none is used twice.

    By header without case and blanks, then aliases, then singular against plural, then without a
    trailing parenthesis. A single key not found by name is the first unused answer column that is
    not "#".
    """
    place: list[int | None] = [None] * len(gold)
    free = dict.fromkeys(range(len(answer)))

    def by_alias(name: str) -> set[str]:
        return {_header(alias) for alias in aliases.get(name, ())}

    stages: list[tuple[Callable[[str], set[str]], Callable[[str], set[str]]]] = [
        (_same, _same),
        (_same, by_alias),
        (_singulars, _singulars),
        (_bare_singulars, _bare_singulars),
    ]
    for answer_forms, gold_forms in stages:
        index: dict[str, int] = {}
        for column in free:
            for form in answer_forms(answer[column]):
                index.setdefault(form, column)
        for want, name in enumerate(gold):
            if place[want] is not None:
                continue
            hits = [index[form] for form in gold_forms(name) if index.get(form) in free]
            if hits:
                place[want] = min(hits)
                del free[min(hits)]
    only_key = list(gold).index(key[0])
    if len(key) == 1 and place[only_key] is None:
        place[only_key] = next((c for c in free if _header(answer[c]) != "#"), None)
    return place


def _without_latex(phrase: str) -> str:
    phrase = _TEXT_COMMAND.sub(r"\1", phrase).strip()
    return phrase[1:-1] if len(phrase) > 1 and phrase[0] == phrase[-1] == "$" else phrase


def _header(name: str) -> str:
    return re.sub(r"[\s_]", "", fold(name))


def _same(name: str) -> set[str]:
    return {_header(name)}


def _singulars(name: str) -> set[str]:
    """The header and what it may be the plural of."""
    name = _header(name)
    forms = {name}
    if len(name) > 3 and name.endswith("s") and not name.endswith("ss"):
        forms.add(name[:-1])
        if name.endswith("es"):
            forms.add(name[:-2])
        if name.endswith("ies"):
            forms.add(name[:-3] + "y")
    return forms


def _bare_singulars(name: str) -> set[str]:
    return _singulars(re.sub(r"\([^()]*\)\s*$", "", name))


def _rows_by_key(
    table: Table, keys: Sequence[int | None], columns: Sequence[int | None]
) -> dict[tuple[str, ...], list[str | None]]:
    """Canonical cells by canonical key, the first row of each; None for a missing column."""
    rows: dict[tuple[str, ...], list[str | None]] = {}
    for row in table.rows:
        key = tuple("" if column is None else canonical(row[column]) for column in keys)
        if key not in rows:
            rows[key] = [None if column is None else canonical(row[column]) for column in columns]
    return rows


def _score(
    items: int,
    rows: int,
    answer_rows: int,
    gold_rows: int,
    columns: int,
    *,
    columns_matched: int,
) -> TableScore:
    item_precision = items / (answer_rows * columns) if answer_rows else 0.0
    item_recall = items / (gold_rows * columns)
    row_precision = rows / answer_rows if answer_rows else 0.0
    row_recall = rows / gold_rows
    return TableScore(
        item_f1=_f1(item_precision, item_recall),
        item_precision=item_precision,
        item_recall=item_recall,
        row_f1=_f1(row_precision, row_recall),
        row_precision=row_precision,
        row_recall=row_recall,
        success=rows == answer_rows == gold_rows,
        columns_matched=columns_matched,
    )


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

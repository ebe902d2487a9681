"""Which subagent supplied each cell of a rollout's table, and what the table is worth without it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wideseek.grading.answer import Table
from wideseek.grading.table import match_columns
from wideseek.grading.value import canonical
from wideseek.runs.evidence import PageRead, find_sources
from wideseek.trajectory import Rollout, Trajectory

Suppliers = list[list[tuple[str, ...]]]
"""Of every cell, rows [R][C], the subagents whose report holds it, in the rollout's order."""


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Cells an agent supplied, alone or with others."""

    right: int
    wrong: int


def find_suppliers(table: Table, rollout: Rollout) -> Suppliers:
    """A report supplies a row's key, the first column, if it names it; another cell if it holds the
    value beside the key, or anywhere when the subtask was about the key.
    """
    suppliers: list[list[tuple[str, ...]]] = [[()] * len(table.columns) for _ in table.rows]
    for trajectory in rollout.trajectories:
        if trajectory.role != "sub":
            continue
        named = find_sources(table, [_as_page(trajectory, title="")])
        held = find_sources(table, [_as_page(trajectory, title=trajectory.task)])
        for r, row in enumerate(held):
            for c, source in enumerate(row):
                # A subtask names a key, but it is the lead who wrote it.
                if (named[r][0] if c == 0 else source) is not None:
                    suppliers[r][c] += (trajectory.agent_id,)
    return suppliers


def right_cells(
    table: Table,
    gold: Table,
    key: Sequence[str],
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> list[list[bool | None]]:
    """Whether `score_table` counts a cell as right, rows [R][C]; None in columns nobody asked for.

    Of rows with one key only the first can be right. `key` names columns of `gold`.
    """
    place = match_columns(table.columns, gold.columns, key, aliases or {})
    keys = [gold.columns.index(name) for name in key]
    expected: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in gold.rows:
        cells = tuple(canonical(cell) for cell in row)
        expected.setdefault(tuple(cells[c] for c in keys), cells)
    verdicts: list[list[bool | None]] = []
    for row in table.rows:
        found = ["" if column is None else canonical(row[column]) for column in place]
        own_key = tuple(found[c] for c in keys)
        wanted = expected.pop(own_key, None) if any(own_key) else None
        verdict: list[bool | None] = [None] * len(row)
        for c, column in enumerate(place):
            if column is not None:
                verdict[column] = wanted is not None and found[c] == wanted[c]
        verdicts.append(verdict)
    return verdicts


def count_cells(
    suppliers: Suppliers, verdicts: Sequence[Sequence[bool | None]]
) -> dict[str, CellCounts]:
    """Right and wrong cells by subagent; one that supplied nothing is not listed."""
    counts: dict[str, CellCounts] = {}
    for agents_of_row, verdicts_of_row in zip(suppliers, verdicts, strict=True):
        for agents, verdict in zip(agents_of_row, verdicts_of_row, strict=True):
            if verdict is None:
                continue
            for agent_id in agents:
                old = counts.get(agent_id, CellCounts(0, 0))
                counts[agent_id] = CellCounts(old.right + verdict, old.wrong + (not verdict))
    return counts


def rewards_without(
    table: Table, suppliers: Suppliers, rollout: Rollout, score: Callable[[Table], float]
) -> dict[str, float]:
    """By subagent, the reward of the table without the cells that it alone supplied.

    What a second report holds stays, and so does what the lead wrote without any.
    """
    return {
        trajectory.agent_id: score(table_without(table, suppliers, trajectory.agent_id))
        for trajectory in rollout.trajectories
        if trajectory.role == "sub"
    }


def table_without(table: Table, suppliers: Suppliers, agent_id: str) -> Table:
    """`table` with the cells emptied that `agent_id` alone supplied; without its key a row is gone."""
    rows = []
    for row, agents in zip(table.rows, suppliers, strict=True):
        if agents[0] != (agent_id,):
            rows.append(
                tuple(
                    "" if by == (agent_id,) else cell for cell, by in zip(row, agents, strict=True)
                )
            )
    return Table(table.columns, tuple(rows))


def _as_page(trajectory: Trajectory, title: str) -> PageRead:
    return PageRead(
        url="", title=title, text=trajectory.report, agent_id=trajectory.agent_id, ts=0.0
    )

"""results.jsonl: one line for each finished trial, written the moment it ends."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wideseek.grading.failure import Failure
from wideseek.grading.table import TableScore
from wideseek.runs.events import Event, EventType
from wideseek_eval.suites import EvalTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one trial at one task came to.

    rows: of the gold, 0 for a boxed question. answered: the text held a table, or a box, to grade.
    Exactly one of score and failure is set. agent_ends and tool_outcomes count by name.
    """

    task: str
    trial: int
    run: str
    kind: str
    rows: int
    answered: bool
    score: TableScore | None
    failure: str | None
    stop_reason: str
    subagents: int
    tokens: int
    tool_calls: int
    seconds: float
    agent_ends: dict[str, int]
    tool_outcomes: dict[str, int]

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Reads what `json.dumps(asdict(record))` wrote. ValueError for anything else."""
        try:
            fields = json.loads(line)
            score = fields["score"]
            return cls(**{**fields, "score": None if score is None else TableScore(**score)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a result, {error}") from None


def grade_run(task: EvalTask, trial: int, run: str, events: list[Event]) -> Record:
    """The Record of a run that ended, from its events alone."""
    end = events[-1].data
    usage: dict[str, Any] = end["usage"]
    answered, score = task.grade(end["answer"])
    states = (event.data for event in events if event.type is EventType.AGENT_STATE)
    results = (event.data for event in events if event.type is EventType.TOOL_RESULT)
    spawned = (event.data for event in events if event.type is EventType.AGENT_SPAWNED)
    return Record(
        task=task.id,
        trial=trial,
        run=run,
        kind=task.kind,
        rows=len(task.rows),
        answered=answered,
        score=None if isinstance(score, Failure) else score,
        failure=score.kind.value if isinstance(score, Failure) else None,
        stop_reason=end["stop_reason"],
        subagents=sum(data["role"] == "sub" for data in spawned),
        tokens=usage["prompt_tokens"] + usage["completion_tokens"],
        tool_calls=usage["tool_calls"],
        seconds=usage["seconds"],
        agent_ends=dict(Counter(str(data["end"]) for data in states if "end" in data)),
        tool_outcomes=dict(Counter(f"{data['name']} {data['status']}" for data in results)),
    )


class Results:
    """The trials of one evaluation: finished ones are read back, new ones appended.

    `config` is what all results of a folder have in common. ValueError for a folder that holds
    results of another config, or any results at all without `resume`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.records: dict[tuple[str, int], Record] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not resume:
            raise ValueError(f"{folder} holds results already: take another or --resume")
        self._read_back()
        self._check_config(folder / "config.json", config)
        self._file = self.path.open("ab", buffering=0)

    def _check_config(self, path: Path, config: dict[str, Any]) -> None:
        config = json.loads(json.dumps(config))
        if self.records and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            odd = [name for name in config if before.get(name) != config[name]]
            if odd:
                told = ", ".join(
                    f"{name} {before.get(name)!r} not {config[name]!r}" for name in odd
                )
                raise ValueError(f"{path.parent} was begun with {told}")
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    def _read_back(self) -> None:
        """Reads finished trials and cuts off a last line that was torn."""
        if not self.path.exists():
            return
        *lines, torn = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                record = Record.from_json(line.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{self.path} line {number}: {error}") from None
            self.records[record.task, record.trial] = record
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(self.path.stat().st_size - len(torn))

    def add(self, record: Record) -> None:
        """Append one finished trial; it must be new."""
        assert (record.task, record.trial) not in self.records, "a trial was done twice"
        line = json.dumps(asdict(record), ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "backslashreplace"))
        self.records[record.task, record.trial] = record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

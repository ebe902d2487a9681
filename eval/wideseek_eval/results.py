"""results.jsonl: one line for each finished trial, written the moment it ends."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wideseek.grading.qa import QAScore
from wideseek.grading.table import TableScore
from wideseek.grading.widesearch_figures import Figures
from wideseek.line_file import LineFile
from wideseek.runs.events import Event, EventType
from wideseek.runs.log import read_events
from wideseek_eval.grade import Grade, WideScore
from wideseek_eval.spending import Attempt, Spent, spent_in
from wideseek_eval.suites import EvalTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one trial at one task came to.

    rows: of the gold, 0 without a table. answered, score, wide, qa, judged and failure are those of
    its Grade; all but the first are None in a trial that is not graded. agent_ends and
    tool_outcomes count by name. tokens: of prompts and replies; reply_tokens are those of replies,
    cached_tokens those of prompts that were not computed again.
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
    group: str = ""
    qa: QAScore | None = None
    judged: bool | None = None
    wide: WideScore | None = None
    cached_tokens: int = 0
    reply_tokens: int = 0

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model."""
        return self.tokens - self.cached_tokens

    @property
    def is_table_score(self) -> bool:
        """Whether a table was scored, by exact rules or as WideSearch does."""
        return self.score is not None or self.wide is not None

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Reads what `json.dumps(asdict(record))` wrote. ValueError for anything else."""
        try:
            fields = json.loads(line)
            score, qa = fields["score"], fields.get("qa")
            fields["score"] = None if score is None else TableScore(**score)
            fields["qa"] = None if qa is None else QAScore(**qa)
            if (wide := fields.get("wide")) is not None:
                for name in ("official", "corrected"):
                    wide[name] = None if wide[name] is None else Figures(**wide[name])
                fields["wide"] = WideScore(**wide)
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a result, {error}") from None


def record_run(task: EvalTask, trial: int, run: str, events: list[Event], grade: Grade) -> Record:
    """The Record of a run that ended: what its events tell, and its grade."""
    end = events[-1].data
    usage: dict[str, Any] = end["usage"]
    states = (event.data for event in events if event.type is EventType.AGENT_STATE)
    results = (event.data for event in events if event.type is EventType.TOOL_RESULT)
    spawned = (event.data for event in events if event.type is EventType.AGENT_SPAWNED)
    return Record(
        task=task.id,
        trial=trial,
        run=run,
        kind=task.kind,
        rows=len(task.rows),
        answered=grade.answered,
        score=grade.score,
        failure=grade.failure,
        stop_reason=end["stop_reason"],
        subagents=sum(data["role"] == "sub" for data in spawned),
        tokens=usage["prompt_tokens"] + usage["completion_tokens"],
        tool_calls=usage["tool_calls"],
        seconds=usage["seconds"],
        agent_ends=dict(Counter(str(data["end"]) for data in states if "end" in data)),
        tool_outcomes=dict(Counter(f"{data['name']} {data['status']}" for data in results)),
        group=task.group,
        qa=grade.qa,
        judged=grade.judged,
        wide=grade.wide,
        cached_tokens=usage["cached_tokens"],
        reply_tokens=usage["completion_tokens"],
    )


class Results:
    """The trials of one evaluation: finished ones are read back, new ones appended.

    `config` is what all results of a folder have in common. ValueError for a folder that was begun
    with another config, or begun at all without `resume`. `anew` drops the results that are there:
    the runs they came from stay, and are graded once more. unscored: by folder, what runs cost that
    have no result, since they or their judge failed; those done again are kept in cut_short/.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], *, resume: bool, anew: bool = False
    ) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.runs = folder / "runs"
        self.cut_short = folder / "cut_short"
        self.records: dict[tuple[str, int], Record] = {}
        self.unscored: dict[Path, Attempt] = {}
        folder.mkdir(parents=True, exist_ok=True)
        begun = self.runs.exists() or (self.path.exists() and self.path.stat().st_size > 0)
        if begun and not resume:
            raise ValueError(f"{folder} holds results already: take another or --resume")
        graded = self.path.exists() and self.path.stat().st_size > 0 and not anew
        kept = self._check_config(config, begun=begun, graded=graded)
        if anew:  # before the config names another judge, whose these results would seem to be
            self.path.unlink(missing_ok=True)
        self._keep_config(kept)
        self._read_back()
        self._lines = LineFile(self.path)

    def _check_config(self, config: dict[str, Any], *, begun: bool, graded: bool) -> dict[str, Any]:
        """The config as JSON; ValueError if it is another one, or if what is there has none.

        Another judge is refused only where results of the first are kept.
        """
        config = json.loads(json.dumps(config))
        path = self.folder / "config.json"
        if begun:
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            names = [name for name in config | before if graded or name != "judge"]
            told = ", ".join(
                f"{name} {before.get(name)!r} not {config.get(name)!r}"
                for name in names
                if before.get(name) != config.get(name)
            )
            if told:
                raise ValueError(f"{self.folder} was begun with {told}")
        return config

    def _keep_config(self, config: dict[str, Any]) -> None:
        path = self.folder / "config.json"
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    def _read_back(self) -> None:
        """Reads finished trials, and what the runs of others cost."""
        *lines, _torn = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        for number, line in enumerate(lines, 1):
            try:
                record = Record.from_json(line.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{self.path} line {number}: {error}") from None
            self.records[record.task, record.trial] = record
        scored = {self.runs / record.run for record in self.records.values()}
        for log in sorted(self.folder.glob("*/*/events.jsonl")):
            if log.parent not in scored:
                self.unscored[log.parent] = spent_in(read_events(log.parent))

    def add(self, record: Record) -> None:
        """Append one finished trial; it must be new."""
        assert (record.task, record.trial) not in self.records, "a trial was done twice"
        self._lines.append(json.dumps(asdict(record), ensure_ascii=False))
        self.records[record.task, record.trial] = record
        self.unscored.pop(self.runs / record.run, None)

    def put_aside(self, run: Path) -> None:
        """Make room for another attempt at a run that was cut short; what it cost is kept."""
        self.cut_short.mkdir(exist_ok=True)
        places = (self.cut_short / f"{run.name}-{number}" for number in count(1))
        place = next(place for place in places if not place.exists())
        run.rename(place)
        if run in self.unscored:
            self.unscored[place] = self.unscored.pop(run)

    def spent(self) -> Iterator[Spent]:
        """What every attempt has cost, with a result or without."""
        return chain(self.records.values(), self.unscored.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()

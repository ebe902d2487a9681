"""A run's folder: events.jsonl, written once, line by line, and the pages its agents read.

The log is append-only and each line reaches the file before `emit` returns, so that a killed run
loses at most the line being written. Page texts are stored once each under pages/, named by their
SHA-256, and events refer to them by it.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wideseek.line_file import LineFile
from wideseek.runs.events import Event, EventType

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


def new_run_id() -> str:
    """A fresh id that sorts by time: date, time (UTC), six random hex digits."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3)


def run_folder(runs_dir: Path, run_id: str) -> Path:
    """Where a run lies. ValueError for a bad id or a folder that leads out of `runs_dir`."""
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"run id must be letters, digits, - and _, 64 at most, not {run_id!r}")
    folder = runs_dir / run_id
    if folder.resolve() != runs_dir.resolve() / run_id:
        raise ValueError(f"run {run_id!r} leads out of {runs_dir}")
    return folder


def make_runs_dir(runs_dir: Path) -> None:
    """Make the folder of all runs if it is missing; ValueError if it cannot be written to."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=runs_dir, prefix="."):
            pass
    except OSError as error:
        raise ValueError(f"--runs-dir {runs_dir}: {error.strerror}") from None


class LogFailedError(Exception):
    """The folder of a run that is under way can no longer be written to."""


def first_words(errors: BaseException) -> str:
    """What an error says, or the first of a group of them, in one line."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return " ".join(str(errors).split())


class RunLog:
    """Writes one new run; `emit` is the run's Emit. A context manager that closes the file.

    `watch` is shown every event after it is written. ValueError if the run already exists or its
    folder cannot be made; LogFailedError from `emit` when the disk is full or the folder gone.
    """

    def __init__(
        self,
        runs_dir: Path,
        run_id: str,
        *,
        watch: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run_id = run_id
        self.folder = run_folder(runs_dir, run_id)
        self._pages = self.folder / "pages"
        self._watch = watch
        self._clock = clock
        self._seq = 0
        try:
            self._pages.mkdir(parents=True)
            path = self.folder / "events.jsonl"
            path.touch(exist_ok=False)
            self._lines = LineFile(path)
        except FileExistsError:
            raise ValueError(f"run {run_id!r} already exists in {runs_dir}") from None
        except OSError as error:
            raise ValueError(f"run folder {self.folder}: {error.strerror}") from None

    def emit(
        self,
        type: EventType,
        data: Mapping[str, Any],
        *,
        agent_id: str | None = None,
        parent_id: str | None = None,
    ) -> None:
        """Append one event. A page in `data` is stored beside the log, its text becomes a hash."""
        with self.failing():
            event = self._write(type, dict(data), agent_id, parent_id)
        if self._watch is not None:
            self._watch(event)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Turn an OSError of what is written to the folder into a LogFailedError."""
        try:
            yield
        except OSError as error:
            raise LogFailedError(f"run folder {self.folder}: {error.strerror}") from error

    def _write(
        self, type: EventType, data: dict[str, Any], agent_id: str | None, parent_id: str | None
    ) -> Event:
        if "page" in data:
            data["page"] = self._store(data["page"])
        event = Event(
            run_id=self.run_id,
            seq=self._seq,
            ts=round(self._clock(), 3),
            agent_id=agent_id,
            parent_id=parent_id,
            type=type,
            data=data,
        )
        self._lines.append(event.to_json())
        self._seq += 1
        return event

    def _store(self, page: Mapping[str, Any]) -> dict[str, Any]:
        text = page["text"].encode("utf-8", "replace")
        sha256 = hashlib.sha256(text).hexdigest()
        target = self._pages / f"{sha256}.txt"
        if not target.exists():
            partial = target.with_suffix(".part")
            partial.write_bytes(text)
            partial.replace(target)
        return {name: value for name, value in page.items() if name != "text"} | {"sha256": sha256}

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


def read_events(folder: Path) -> list[Event]:
    """The events of a run in order. A last line without its end was torn and is left out.

    ValueError naming the line if any other is not an event or out of order.
    """
    path = folder / "events.jsonl"
    *lines, _torn = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines):
        try:
            event = Event.from_json(line.decode("utf-8"))
            if event.seq != number:
                raise ValueError(f"seq {event.seq} in place of {number}")
        except ValueError as error:
            raise ValueError(f"{path} line {number + 1}: {error}") from None
        events.append(event)
    return events


def read_page(folder: Path, sha256: str) -> str:
    """The text of a page that an event of the run refers to. ValueError if sha256 is no hash."""
    if not _HASH.fullmatch(sha256):
        raise ValueError(f"sha256 must be 64 hex digits, not {sha256!r}")
    return (folder / "pages" / f"{sha256}.txt").read_bytes().decode("utf-8")

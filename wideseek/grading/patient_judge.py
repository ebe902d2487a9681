"""Asking a judge model with patience: whatever it does costs time, and never a score.

Replies are kept by content, in memory and in a file, so that nothing is asked twice. A try that
fails is made again. After several failures in a row the judge is out: everyone waits, one prompt at
a time is tried with growing pauses, and everyone goes on when one is answered. Only when patience
ends is there a Failure, which leaves an answer unscored: a later session asks again.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from wideseek.grading.failure import Failure, FailureKind
from wideseek.line_file import LineFile

Ask = Callable[[str, int], Awaitable[str | Failure]]
"""One try at (prompt, attempt): a reply or why there is none. What attempt 0 was answered can not
be read when attempt is above 0, so later ones should be sampled otherwise."""

Read = Callable[[str], str | None]
"""What a reply says, in the form the scorer wants it; None for one that says nothing."""


def read_any(reply: str) -> str | None:
    """The reply as it is, if it holds anything."""
    return reply.strip() or None


_LONGEST_DEADLINE = 4
"""Times the deadline of a first try that a later one may take: a slow judge is no dead one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a judge is waited for; times in seconds.

    concurrency: prompts asked at once. tries: of one prompt, before replies that cannot be read, or
    failures at it alone, are taken as final. outage_after: failures in a row, at any prompts, that
    are an outage. total: what an outage may last.
    """

    concurrency: int = 16
    deadline: float = 120.0
    tries: int = 3
    outage_after: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    total: float = 1800.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be above 0, not {getattr(self, field.name)}")


class ReplyFile:
    """Replies by judge and prompt, append-only: {"judge", "prompt", "reply"}, a line each.

    What `judge` names must answer alike for as long as the file is used. A last line that was torn
    is cut off; ValueError for any other that is not a reply. The last reply to a prompt counts.
    """

    def __init__(self, path: Path, judge: str) -> None:
        self._judge = judge
        self._replies: dict[bytes, str] = {}
        if path.exists():
            self._read_back(path)
        self._lines = LineFile(path)

    def _read_back(self, path: Path) -> None:
        """Takes in the replies of this judge."""
        *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                match json.loads(line):
                    case {"judge": str(judge), "prompt": str(prompt), "reply": str(reply)}:
                        if judge == self._judge:
                            self._replies[_key(prompt)] = reply
                    case _:
                        raise ValueError("judge, prompt and reply must be texts")
            except ValueError as error:
                raise ValueError(f"{path} line {number} is not a reply: {error}") from None

    def get(self, prompt: str) -> str | None:
        """What was replied to this prompt before."""
        return self._replies.get(_key(prompt))

    def add(self, prompt: str, reply: str) -> None:
        """Keep a reply; it is in the file before this returns."""
        record = {"judge": self._judge, "prompt": prompt, "reply": reply}
        self._lines.append(json.dumps(record, ensure_ascii=False))
        self._replies[_key(prompt)] = reply

    def close(self) -> None:
        self._lines.close()


def _key(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


class PatientJudge:
    """A judge that is waited for. Not for threads: everyone who asks shares one event loop.

    `tell` is shown a line when an outage begins, goes on, and ends. A context manager that closes
    `replies`.
    """

    def __init__(
        self,
        ask: Ask,
        replies: ReplyFile,
        patience: Patience | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.patience = patience or Patience()
        self._ask = ask
        self._replies = replies
        self._tell = tell
        self._slots = asyncio.Semaphore(self.patience.concurrency)
        self._probing = asyncio.Lock()
        self._prompts: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._answers = 0
        self._failures = 0  # in a row
        self._failing_since = 0.0
        self._lost: Failure | None = None

    @property
    def is_out(self) -> bool:
        """Whether the last tries all failed, and it is asked one prompt at a time."""
        return self._failures >= self.patience.outage_after

    async def __call__(self, prompt: str, read: Read = read_any) -> str | Failure:
        """What `read` finds in the reply to `prompt`.

        Only replies that can be read are kept. Failure when patience has ended, when the judge
        refuses this prompt, or when none of its replies could be read.
        """
        lock = self._prompts.setdefault(prompt, asyncio.Lock())
        async with lock:  # who asks the same at the same time shares the reply
            before = self._replies.get(prompt)
            said = None if before is None else read(before)
            return await self._ask_until_read(prompt, read) if said is None else said

    async def _ask_until_read(self, prompt: str, read: Read) -> str | Failure:
        told = ""
        for attempt in range(self.patience.tries):
            reply = await self._answer(prompt, attempt)
            if isinstance(reply, Failure):
                return reply
            if (said := read(reply)) is not None:
                self._replies.add(prompt, reply)
                return said
            told = " ".join(reply[-400:].split())[-200:]
        return Failure(
            FailureKind.JUDGE_UNREADABLE, f"{self.patience.tries} replies, the last ends {told!r}"
        )

    async def _answer(self, prompt: str, attempt: int) -> str | Failure:
        """A reply, tried for until patience ends or the fault is seen to be the prompt's.

        It is once the judge answered others between `tries` failures at this prompt.
        """
        faults, answers = 0, -1
        for tried in count():
            reply = await self._try_in_turn(prompt, attempt, self._deadline(tried))
            if isinstance(reply, str) or reply.kind is not FailureKind.JUDGE_SILENT:
                return reply
            faults += self._answers != answers
            answers = self._answers
            if faults == self.patience.tries or self._lost is not None:
                return reply
            if not self.is_out:
                await asyncio.sleep(self._pause(tried))
        raise AssertionError("count() does not end")

    async def _try_in_turn(self, prompt: str, attempt: int, deadline: float) -> str | Failure:
        """One try: at once while the judge is well, after a pause and alone while it is out."""
        async with self._probing:
            if self._lost is not None:
                return self._lost
            if self.is_out:
                now = asyncio.get_running_loop().time()
                left = max(0.0, self._failing_since + self.patience.total - now)
                tried = self._failures - self.patience.outage_after
                await asyncio.sleep(min(left, self._pause(tried)))
                return await self._try(prompt, attempt, deadline)
        async with self._slots:
            return await self._try(prompt, attempt, deadline)

    def _pause(self, tried: int) -> float:
        """Seconds to wait after failures in a row."""
        return min(self.patience.first_pause * 2.0 ** min(tried, 60), self.patience.longest_pause)

    def _deadline(self, tried: int) -> float:
        """Seconds for the next try after failures at this prompt."""
        return self.patience.deadline * min(2.0 ** min(tried, 60), _LONGEST_DEADLINE)

    async def _try(self, prompt: str, attempt: int, deadline: float) -> str | Failure:
        try:
            async with asyncio.timeout(deadline):
                reply = await self._ask(prompt, attempt)
        except TimeoutError:
            reply = Failure(FailureKind.JUDGE_SILENT, f"no reply within {deadline:g} s")
        if isinstance(reply, Failure) and reply.kind is FailureKind.JUDGE_SILENT:
            self._count_failure(reply)
        else:
            self._count_answer()
        return reply

    def _count_failure(self, failure: Failure) -> None:
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        lasted = now - self._failing_since
        if not self.is_out or self._lost is not None:
            return
        if lasted >= self.patience.total:
            self._lost = Failure(
                FailureKind.JUDGE_SILENT, f"out for {lasted:.0f} s, at last: {failure.detail}"
            )
            self._tell(f"the judge was given up after {lasted:.0f} s ({failure.detail})")
        else:
            self._tell(f"the judge is out ({failure.detail}); waiting, {lasted:.0f} s so far")

    def _count_answer(self) -> None:
        if self.is_out:
            self._tell("the judge answers again")
        self._answers += 1
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._replies.close()

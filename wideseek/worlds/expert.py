"""The scripted expert: how a careful team would work on a world, in the exact texts a model is trained on.

Every pointer in these texts is an induction step: the token before a copied item also stands before its source. Items are
numbered everywhere, facts carry letters, and a report is the final table's row, so that the answer copies whole lines.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from wideseek.generation import Completion, Message, ModelFailure, Reply, Sampling, ToolSchema
from wideseek.model.dialogue import TokenDialogue
from wideseek.model.renderer import Renderer
from wideseek.worlds.tasks import Task

FACT_LETTERS = "abcdefgh"
FAILED = "\nNothing to show: "  # what the English prompts say of a search or page that failed
_WIDTH = re.compile(r"\[turn (\d+) of (\d+)(?:, up to (\d+) subagents a call)?\]\s*$")
_ITEM = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| (\d+) \| .+$", re.MULTILINE)
_FOUND = re.compile(r"^ \[(\w)\] (.+) \[\1\]$", re.MULTILINE)
_HIT = re.compile(r"^\d+ (https://\S+)\n([^\n]*)", re.MULTILINE)


def _call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class Hint:
    """What the end of a message says about the turn to come."""

    turn: int
    turns: int
    width: int

    @classmethod
    def read(cls, text: str) -> "Hint":
        found = _WIDTH.search(text)
        assert found is not None, f"no hint in {text[-80:]!r}"
        return cls(int(found[1]), int(found[2]), int(found[3] or 0))


def _columns(task: Task) -> list[str]:
    return list(task.columns) if task.kind == "table" else ["name", *task.phrasing.columns]


@dataclass(frozen=True, slots=True)
class _Aim:
    """What a question is about: a page found for it, or what the question calls it.

    items: those the question itself names, numbered; none when the list that span tells of must be found. mark: "[b] ", the
    letter of the page found for the list or for the only item, or nothing.
    """

    span: str
    items: dict[int, str]
    mark: str

    @classmethod
    def read(cls, task: Task, first: str) -> "_Aim":
        found = {title.casefold(): (letter, title) for letter, title in _FOUND.findall(first)}
        named = (task.phrasing.span,) if task.kind == "boxed" else task.phrasing.entities
        wanted = named[0] if len(named) == 1 else task.pages[0].title
        if len(named) > 1 or wanted.casefold() not in found:
            return cls(task.phrasing.span, dict(enumerate(named, 1)), "")
        letter, title = found[wanted.casefold()]
        return cls(title, {1: title} if named else {}, f"[{letter}] ")


def _lettered(facts: Sequence[str]) -> list[str]:
    """Facts marked "(a) capital", "(b) area", so that the next one is found by its letter."""
    return [f"({letter}) {fact}" for letter, fact in zip(FACT_LETTERS, facts, strict=False)]


def _plan(task: Task, aim: _Aim) -> str:
    """The first thought: what is looked for, and the columns, the facts among them lettered."""
    named = ", ".join(f"{k}. {name}" for k, name in aim.items.items())
    wanted = aim.mark + aim.span if aim.mark or not named else named
    key = task.phrasing.key_header or "name"
    columns = " ".join((key, *_lettered(task.phrasing.columns)))
    return f"<think>\nfind: {wanted}\ncolumns: {columns}\n</think>\n\n"


def _answer(task: Task, rows: dict[int, str]) -> str:
    if task.kind == "boxed":
        return f"\\boxed{{{rows[1].split(' | ')[-1].removesuffix(' |') if rows else 'unknown'}}}"
    header = " | ".join(["#", *_columns(task)])
    rule = " | ".join(["---"] * (len(_columns(task)) + 1))
    lines = [rows[k] for k in sorted(rows)]
    return "\n".join(["```markdown", f"| {header} |", f"| {rule} |", *lines, "```"])


def _closed(row: str) -> str:
    """A row that may have broken off, with its last bar."""
    return row if row.endswith(" |") else f"{row.rstrip('| ')} |"


class LeadExpert:
    """Find the list, then one subtask an item in waves as wide as allowed, then the table."""

    def __init__(self, task: Task, first: str) -> None:
        self.task = task
        self.hint = Hint.read(first)
        self.aim = _Aim.read(task, first)
        self.items = self.aim.items
        self.rows: dict[int, str] = {}
        self.started = False

    def see(self, tool_text: str) -> None:
        self.hint = Hint.read(tool_text)
        rows = {int(row[1]): _closed(row[0]) for row in _ROW.finditer(tool_text)}
        if not self.items:
            self.items = {int(k): name for k, name in _ITEM.findall(tool_text)}
            if len(self.task.columns) == 1:
                rows = {k: _row(k, name) for k, name in self.items.items()}
        self.rows |= rows

    def speak(self) -> str:
        if not self.started:
            self.started = True
            plan = _plan(self.task, self.aim)
            if self.items:
                return plan + self._spawn(self._prompts(1, min(self.hint.width, len(self.items))))
            return plan + self._spawn([f"list: {self.aim.span}"])
        total, done = len(self.items), max(self.rows, default=0)
        if done >= total or self.hint.turn >= self.hint.turns:
            return f"<think>\nitems: {total}, done\n</think>\n\n{_answer(self.task, self.rows)}"
        last = min(done + self.hint.width, total)
        thought = f"<think>\nitems: {total}, {done + 1} to {last}\n</think>\n\n"
        return thought + self._spawn(self._prompts(done + 1, last))

    def _prompts(self, first: int, last: int) -> list[str]:
        facts = " ".join(_lettered(self.task.phrasing.columns))
        return [f"{k}. {self.items[k]}: {facts}" for k in range(first, last + 1)]

    def _spawn(self, prompts: list[str]) -> str:
        entries = ", ".join(f'{{"prompt": "{_quote(p)}"}}' for p in prompts)
        return _call("create_sub_agents", f'{{"sub_agents": [{entries}]}}')


def _pick_url(results: str, wanted: str) -> str | None:
    """The hit whose title is what was wanted, else the first."""
    hits = _HIT.findall(results)
    for url, line in hits:
        if line.lower().startswith(wanted.lower() + ":"):
            return str(url)
    return str(hits[0][0]) if hits else None


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact as asked for, as the page labels it, and its value there; "unknown" twice where the page is silent."""

    asked: str
    label: str
    value: str


def _read_facts(task: Task, page: str) -> list[Fact]:
    """What a page says of each asked fact, in order."""
    stated = dict(line.split(": ", 1) for line in page.splitlines() if ": " in line)
    return [
        Fact(asked, label, stated[label]) if label in stated else Fact(asked, "unknown", "unknown")
        for asked, label in zip(task.phrasing.columns, task.labels, strict=True)
    ]


def _noted(number: int | str, name: str, facts: Sequence[Fact]) -> str:
    """What a page says, a line a fact, then all values in a line.

    " (a) capital city: (a)", then "capital [a] Lima": what was asked is repeated before the label is named, so that the two
    are compared side by side, and the letter ends the line, which is where the next look-up starts. The label begins a
    line as it does on the page, or its tokens would be others. The last line puts the cells of the row side by side,
    "7. Peru [a] Lima [b] 1,285,220 km²". Each step needs one look back only.
    """
    marked = list(zip(FACT_LETTERS, facts, strict=False))
    lines = [f" ({x}) {fact.asked}: ({x})\n{fact.label} [{x}] {fact.value}" for x, fact in marked]
    gathered = (f" [{x}] {fact.value}" for x, fact in marked)
    return "\n".join((*lines, f"{number}. {name}{''.join(gathered)}"))


def _row(number: int | str, name: str, facts: Sequence[Fact] = ()) -> str:
    """A row as the final table will hold it: "| 7 | Peru | Lima | 1,285,220 km² |"."""
    return f"| {' | '.join((str(number), name, *(fact.value for fact in facts)))} |"


class SubExpert:
    """Search, open, report: a list of items, or one row of facts. What fails is asked for again."""

    def __init__(self, task: Task, first: str) -> None:
        self.task = task
        self.subtask = _WIDTH.sub("", first).rsplit("Subtask: ", 1)[1].strip()
        self.seen: list[str] = []

    def see(self, tool_text: str) -> None:
        if FAILED not in tool_text:
            self.seen.append(tool_text)

    def speak(self) -> str:
        listing = self.subtask.startswith("list: ")
        number, _, rest = self.subtask.partition(". ")
        name = self.subtask.removeprefix("list: ") if listing else rest.rsplit(": (a) ", 1)[0]
        if not self.seen:
            return _call("search", f'{{"queries": [{{"query": "{_quote(name)}"}}]}}')
        if len(self.seen) == 1:
            url = _pick_url(self.seen[0], name)
            if url is not None:
                return _call(
                    "access", f'{{"urls": [{{"url": "{url}", "info_to_extract": "all"}}]}}'
                )
        page = _WIDTH.sub("", self.seen[-1]).strip()
        if listing:
            at = re.search(r"^items: \d+$", page, re.MULTILINE)
            return page[at.start() :] if at else "no list found"
        facts = _read_facts(self.task, page)
        thought = _noted(number, name, facts)
        return f"<think>\n{thought}\n</think>\n\n{_row(number, name, facts)}"


class SingleExpert:
    """The same work without a team: list, then search and read item after item."""

    def __init__(self, task: Task, first: str) -> None:
        self.task = task
        self.hint = Hint.read(first)
        self.aim = _Aim.read(task, first)
        self.items = self.aim.items
        self.rows: dict[int, str] = {}
        self.step = "plan"
        self.last = ""
        self.spoken = ""
        self.failed = False

    def see(self, tool_text: str) -> None:
        self.hint = Hint.read(tool_text)
        self.last = _WIDTH.sub("", tool_text).strip()
        self.failed = FAILED in tool_text

    def speak(self) -> str:
        """The next turn; after a failed call that call again, without the thought before it."""
        if self.failed and self.hint.turn < self.hint.turns:
            return self.spoken[self.spoken.index("<tool_call>") :]
        self.spoken = self._next()
        return self.spoken

    def _next(self) -> str:
        if self.step == "plan":
            self.step = "open"
            return _plan(self.task, self.aim) + self._search(self.items.get(1, self.aim.span))
        listing = not self.items
        name = self.aim.span if listing else self.items[len(self.rows) + 1]
        if self.step == "open":
            self.step = "read"
            url = _pick_url(self.last, name)
            if url is not None and self.hint.turn < self.hint.turns:
                return _call("access", f'{{"url": "{url}", "info_to_extract": "all"}}')
        thought = ""
        if listing:
            self.items = {int(k): item for k, item in _ITEM.findall(self.last)}
            if len(self.task.columns) == 1:
                self.rows = {k: _row(k, item) for k, item in self.items.items()}
        else:
            k = len(self.rows) + 1
            facts = _read_facts(self.task, self.last)
            self.rows[k] = _row(k, name, facts)
            thought = f"{_noted(k, name, facts)}\n{self.rows[k]}\n"
        total, done = len(self.items), len(self.rows)
        if done >= total or self.hint.turn >= self.hint.turns - 1:
            return f"<think>\n{thought}items: {total}, done\n</think>\n\n{_answer(self.task, self.rows)}"
        self.step = "open"
        follow = f"{thought}items: {total}, next {done + 1}. {self.items[done + 1]}"
        return f"<think>\n{follow}\n</think>\n\n{self._search(self.items[done + 1])}"

    def _search(self, query: str) -> str:
        return _call("search", f'{{"query": "{_quote(query)}"}}')


@dataclass
class ExpertDialogue:
    """A Dialogue whose replies come from the expert of its role; token ids are kept as for a model."""

    task: Task
    renderer: Renderer
    messages: Sequence[Message]
    tools: Sequence[ToolSchema]
    expert: LeadExpert | SubExpert | SingleExpert = field(init=False)
    dialogue: TokenDialogue = field(init=False)

    def __post_init__(self) -> None:
        names = {tool["function"]["name"] for tool in self.tools}
        first = self.messages[-1].content
        single = "queries" not in str(self.tools)
        role = LeadExpert if "create_sub_agents" in names else SingleExpert if single else SubExpert
        self.expert = role(self.task, first)
        self.dialogue = TokenDialogue(
            self.renderer, self._generate, self.messages, self.tools, max_model_len=1 << 20
        )

    @property
    def num_tokens(self) -> int:
        return self.dialogue.num_tokens

    @property
    def token_ids(self) -> Sequence[int]:
        return self.dialogue.token_ids

    def count_tool_tokens(self, text: str) -> int:
        return self.dialogue.count_tool_tokens(text)

    def add_tool(self, text: str) -> None:
        self.expert.see(text)
        self.dialogue.add_tool(text)

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        return await self.dialogue.reply(sampling, cancel)

    def speak(self) -> str:
        """The next turn's text."""
        return self.expert.speak()

    async def _generate(
        self, token_ids: Sequence[int], sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Completion:
        ids = (*self.renderer.encode(self.speak()), self.renderer.stop_token_ids[0])
        zeros = (0.0,) * len(ids)
        return Completion(
            token_ids=ids,
            logprobs=zeros,
            plain_logprobs=zeros,
            finish_reason="stop",
            weight_version=0,
            cached_tokens=0,
            prompt_tokens=len(token_ids),
        )

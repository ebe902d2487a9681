"""Sessions: whose turn a call is, so that an agent's KV is still there when its next turn comes.

A session's name is a path: a question, its lead agent, a subagent of it ("q7/lead/3"). Between two
calls a session holds the pages of its last one, and lets go of all of them or none. A lead agent
is silent while its wave runs: its pages stay as long as a call below it is under way.
"""

from collections import defaultdict
from collections.abc import Iterable

from wideseek.engine.page_pool import PagePool

MOST_HOLDING = 4096
"""Sessions, at most, that hold pages at the same time."""

FIRST_GAP, GAP_MEMORY = 16.0, 0.9
"""Steps that a tool call lasts while none is known, and what each new one leaves of older ones."""


class Lengths:
    """Mean length in tokens of replies, or of contexts."""

    __slots__ = ("_count", "_total")

    def __init__(self) -> None:
        self._count = self._total = 0

    def add(self, tokens: int) -> None:
        self._count += 1
        self._total += tokens

    @property
    def mean(self) -> int:
        """Rounded up; 0 if none is known."""
        return -(-self._total // self._count) if self._count else 0


class Session:
    """One agent's calls. `pages` [n] are held between them, `idle_since` counts steps.

    `number` tells who began first, `depth` how many names its path has. num_calls and
    num_calls_below wait or run now; its context had `num_tokens` after the last. A question is the
    first name of a path; `served` counts the tokens computed for all below it. The root is the
    nameless session.
    """

    __slots__ = (
        "children",
        "depth",
        "idle_since",
        "name",
        "num_calls",
        "num_calls_below",
        "num_tokens",
        "number",
        "pages",
        "parent",
        "replies",
        "replies_below",
        "served",
    )

    def __init__(self, parent: "Session | None", name: str, number: int = 0) -> None:
        self.parent = parent
        self.name = name
        self.number = number
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[str, Session] = {}
        self.pages: list[int] = []
        self.idle_since = 0
        self.num_calls = self.num_calls_below = self.num_tokens = self.served = 0
        self.replies, self.replies_below = Lengths(), Lengths()

    @property
    def question(self) -> "Session":
        session = self
        while session.parent is not None and session.parent.parent is not None:
            session = session.parent
        return session

    @property
    def is_pinned(self) -> bool:
        return self.num_calls + self.num_calls_below > 0

    def expected_reply(self) -> int:
        """Tokens of its next reply: as its own so far, else its siblings', else anyone's; or 0."""
        session, mean = self, self.replies.mean
        while not mean and session.parent is not None:
            session = session.parent
            mean = session.replies_below.mean
        return mean or session.replies.mean


class Sessions:
    """Every session that has a call under way, holds pages, or stands above such a one."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self.root = Session(None, "")
        self._holding: dict[Session, None] = {}  # idle for longest first
        self._gap = FIRST_GAP  # steps from a call of a session to its next
        self._num_begun = 0
        self._contexts = defaultdict[int, Lengths](Lengths)  # of sessions that ended, by depth
        self._longest = defaultdict[int, int](int)  # context so far, by depth

    @property
    def patience(self) -> int:
        """Steps after which an idle session is taken to have ended: several usual tool calls."""
        return 4 + int(4 * self._gap)

    def begin(self, path: str, step: int) -> Session:
        """A call of this session is under way; an agent that speaks again has done with its wave."""
        session = self.root
        for name in path.split("/") if path else ():
            session.num_calls_below += 1
            if name not in session.children:
                self._num_begun += 1
                session.children[name] = Session(session, name, self._num_begun)
            session = session.children[name]
        session.num_calls += 1
        if session.children and session is not self.root:
            self._let_go_below(session)
        elif session.pages:
            self._gap = GAP_MEMORY * self._gap + (1 - GAP_MEMORY) * (step - session.idle_since)
        return session

    def end(self, session: Session, num_reply: int = 0, num_tokens: int = 0) -> None:
        """A call is over; the tokens of its reply and of its context, if it came to its end."""
        session.num_calls -= 1
        if num_reply:
            session.replies.add(num_reply)
            session.num_tokens = num_tokens
            self._longest[session.depth] = max(self._longest[session.depth], num_tokens)
        above = session.parent
        while above is not None:
            above.num_calls_below -= 1
            if num_reply:
                above.replies_below.add(num_reply)
            above = above.parent
        self._forget_if_empty(session)

    def keep(self, session: Session, pages: Iterable[int], step: int) -> None:
        """Hold these pages, which another holds, until the session's next call begins."""
        assert session is not self.root and session.num_calls
        self.take(session)
        session.pages = list(pages)
        session.idle_since = step
        self._pool.hold(session.pages)
        self._holding[session] = None
        if len(self._holding) > MOST_HOLDING:
            self.let_go(step, 0)

    def take(self, session: Session) -> None:
        """Let go of a session's pages: its sequence has taken hold of them, or memory is short."""
        if session in self._holding:
            del self._holding[session]
            self._pool.release(session.pages)
            session.pages = []
            self._forget_if_empty(session)

    def let_go(self, before: int, younger_than: int | None = None) -> bool:
        """Let go of one session, the first there is of these; False if there is none.

        The one that is idle for longest, since before that step, with no call under way. The last
        that began after session number younger_than, if its call only waits.
        """
        for session in self._holding:
            if session.idle_since > before:
                break
            if not session.is_pinned:
                self._has_ended(session)
                return True
        younger = [
            session
            for session in self._holding
            if younger_than is not None
            and session.number > younger_than
            and not session.num_calls_below
        ]
        if younger:
            self.take(max(younger, key=lambda session: session.number))
        return bool(younger)

    def let_go_any(self) -> bool:
        """Let go of the session that began last, whoever waits for it; False if none holds a page."""
        if not self._holding:
            return False
        self.take(max(self._holding, key=lambda session: session.number))
        return True

    def clear(self) -> None:
        """Let go of all pages."""
        for session in list(self._holding):
            self.take(session)

    def expected_context(self, session: Session) -> int:
        """Tokens of its context when it ends, as far as those of its depth tell; 0 if none does."""
        if session is self.root:
            return 0
        return self._contexts[session.depth].mean or self._longest[session.depth]

    def holding(self) -> Iterable[Session]:
        """The sessions that hold pages now."""
        return self._holding

    def pages(self) -> list[int]:
        return [page for session in self._holding for page in session.pages]

    def __len__(self) -> int:
        """Sessions with a name."""
        stack, count = [self.root], -1
        while stack:
            count += 1
            stack += stack.pop().children.values()
        return count

    def _let_go_below(self, session: Session) -> None:
        for below in list(session.children.values()):
            self._let_go_below(below)
            if below.pages and not below.num_calls:
                self._has_ended(below)

    def _has_ended(self, session: Session) -> None:
        """Let go of a session that is taken to have ended: so long do contexts get."""
        self._contexts[session.depth].add(session.num_tokens)
        self.take(session)

    def _forget_if_empty(self, session: Session) -> None:
        while session.parent is not None and not (
            session.is_pinned or session.pages or session.children
        ):
            session.parent.children.pop(session.name, None)
            session = session.parent

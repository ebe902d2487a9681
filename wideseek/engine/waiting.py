"""Waiting: the sequences that do not run yet, and whose turn it is."""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from wideseek.engine.sequence import Sequence
from wideseek.engine.sessions import Session


class Waiting:
    """First who was put first, then whose session holds its KV, then who has to begin.

    Sessions go on in the order in which they began, so that the oldest come to their end and make
    room. To begin, the question that got least so far is next, and of a question the sequence that
    has longest to go, so that no wave waits for one that began last. Nameless sequences are one
    question and keep their order.
    """

    def __init__(self) -> None:
        self._first: dict[Sequence, None] = {}
        self._of_question: dict[Session, dict[Sequence, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._first) + self._count

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._first
        for waiting in self._of_question.values():
            yield from waiting

    def add(self, sequence: Sequence) -> None:
        """A new one; a question that had nothing to do begins level with the others."""
        question = sequence.session.question
        if question not in self._of_question:
            least = min((other.served for other in self._of_question), default=0)
            question.served = max(question.served, least)
        self._of_question.setdefault(question, {})[sequence] = None
        self._count += 1

    def put_first(self, sequence: Sequence) -> None:
        """One that does not wait yet, before all others."""
        self._first = {sequence: None, **self._first}

    def is_first(self, sequence: Sequence) -> bool:
        return sequence in self._first

    def remove(self, sequence: Sequence) -> None:
        if sequence in self._first:
            del self._first[sequence]
            return
        question = sequence.session.question
        del self._of_question[question][sequence]
        self._count -= 1
        if not self._of_question[question]:
            del self._of_question[question]

    def clear(self) -> None:
        self._first.clear()
        self._of_question.clear()
        self._count = 0

    def next_to_begin(self) -> list[Sequence]:
        """Of each question the sequence that would begin next, if one is to begin."""
        heads = (_to_begin(question, waiting) for question, waiting in self._of_question.items())
        return [chosen[0] for chosen in heads if chosen]

    def in_order(self) -> Iterator[Sequence]:
        """Whose turn it is, as long as it is asked; what was yielded may be removed."""
        yield from list(self._first)
        going_on = [
            sequence
            for question, waiting in self._of_question.items()
            if question.parent is not None
            for sequence in waiting
            if sequence.session.pages
        ]
        yield from sorted(going_on, key=lambda sequence: sequence.session.number)
        turns = [
            (question.served, number, question, iter(_to_begin(question, waiting)))
            for number, (question, waiting) in enumerate(self._of_question.items())
        ]
        heapify(turns)
        while turns:
            _, number, question, rest = heappop(turns)
            sequence = next(rest, None)
            if sequence is not None:
                yield sequence
                heappush(turns, (question.served, number, question, rest))


def _to_begin(question: Session, waiting: Iterable[Sequence]) -> list[Sequence]:
    """Those whose session holds no pages: who is expected to say most first, then the oldest;
    of the nameless, which have no sessions, the oldest first."""
    if question.parent is None:
        return list(waiting)
    chosen = [sequence for sequence in waiting if not sequence.session.pages]
    return sorted(chosen, key=lambda sequence: -sequence.expected_tokens)

"""PagePool: pages are conserved whatever is taken, shared and released."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wideseek.engine.page_pool import PagePool


def test_a_page_is_free_again_only_after_its_last_holder_let_go() -> None:
    pool = PagePool(2)
    (page,) = pool.take(1)
    pool.hold([page])
    pool.release([page])
    assert pool.num_free == 1 and pool.num_holders(page) == 1
    pool.release([page])
    assert pool.num_free == 2 and pool.num_holders(page) == 0


def test_more_pages_than_are_free_cannot_be_taken() -> None:
    pool = PagePool(2)
    pool.take(2)
    with pytest.raises(AssertionError):
        pool.take(1)


def test_a_free_page_can_be_neither_shared_nor_released() -> None:
    pool = PagePool(1)
    with pytest.raises(AssertionError):
        pool.hold([0])
    with pytest.raises(AssertionError):
        pool.release([0])


def test_check_sees_a_lost_and_a_doubled_page() -> None:
    pool = PagePool(3)
    pool._free.pop()
    with pytest.raises(AssertionError):
        pool.check()
    pool._free[:] = [0, 0, 1, 2]
    with pytest.raises(AssertionError):
        pool.check()


class PoolMachine(RuleBasedStateMachine):
    """Against a plain list of (page) holds."""

    @initialize(num_pages=st.integers(1, 8))
    def start(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.holds: list[int] = []

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.pool.num_free))
        pages = self.pool.take(count)
        assert len(set(pages)) == count
        assert not set(pages) & set(self.holds), "a held page was handed out"
        self.holds += pages

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(self.holds))
        self.pool.hold([page])
        self.holds.append(page)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(self.holds))
        self.pool.release([page])
        self.holds.remove(page)

    @invariant()
    def conserved(self) -> None:
        self.pool.check()
        assert self.pool.num_free + len(set(self.holds)) == self.pool.num_pages
        for page in range(self.pool.num_pages):
            assert self.pool.num_holders(page) == self.holds.count(page)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)

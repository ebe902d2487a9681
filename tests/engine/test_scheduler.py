"""Scheduler with a fake model: nothing is lost, nothing shared wrongly, everyone finishes."""

from .world import World, always_draft, expect_short_replies, tokens_of


def test_prompts_are_computed_in_chunks_beside_decodes() -> None:
    world = World(20, 4, max_seqs=4, max_tokens=6)
    world.submit([1, 2], 8)
    world.step()
    world.submit([2] * 12, 4)
    step = world.step()
    assert step is not None and step.num_tokens == [1, 5]
    step = world.step()
    assert step is not None and step.num_tokens == [1, 5]
    step = world.step()
    assert step is not None and step.num_tokens == [1, 2]


def test_a_step_computes_no_more_tokens_than_its_budget() -> None:
    world = World(20, 4, max_seqs=4, max_tokens=6)
    for first in range(3):
        world.submit([first] * 8, 3)
    taken = []
    while (step := world.step()) is not None:
        taken.append(step.num_tokens)
    assert taken[:4] == [[6], [2, 4], [1, 4, 1], [1, 1, 4]]


def test_several_contexts_are_prefilled_in_one_forward() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    for first in range(5):
        world.submit([first, 1, 2, first, 5, 6], 2)
    step = world.step()
    assert step is not None and step.num_tokens == [6] * 5


def test_identical_prompts_submitted_together_compute_their_prefix_once() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    prompt = [1, 2, 0, 1, 1, 0, 2, 2, 1, 0]
    sequences = [world.submit(prompt, 3) for _ in range(6)]
    world.drain()
    # Each computes the last token for its logits.
    assert world.scheduler.counters.prefill_tokens_computed == 10 + 5
    assert world.scheduler.counters.prefix_hit_tokens == 5 * 9
    assert [s.cached_tokens for s in sequences] == [0] + [9] * 5
    assert len({tuple(tokens_of(s)) for s in sequences}) == 1


def test_a_sequence_whose_prefix_is_under_way_waits_but_others_pass() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    first = world.submit([1] * 9, 3)
    same = world.submit([1] * 9, 3)
    other = world.submit([2] * 9, 3)
    step = world.step()
    assert step is not None and step.sequences == [first, other]
    assert list(world.scheduler.waiting) == [same]
    step = world.step()
    assert step is not None and same in step.sequences


def test_equal_prompts_of_whole_pages_wait_once_and_then_start_together() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    sequences = [world.submit([1, 2, 0, 1, 2, 2, 1, 0], 3) for _ in range(5)]
    world.step()
    step = world.step()
    # Their last token cannot be reused: it gives the logits of each.
    assert step is not None and step.num_tokens == [1, 1, 1, 1, 1] and len(step.copies) == 4
    world.drain()
    assert [s.cached_tokens for s in sequences] == [0] + [7] * 4


def test_who_is_passed_over_keeps_the_place_in_the_queue() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    sequences = [world.submit([1] * (8 + n), 3) for n in range(4)]
    world.step()
    assert list(world.scheduler.waiting) == sequences[1:]


def test_who_is_preempted_goes_to_the_head_of_the_queue() -> None:
    world = World(6, 2, max_seqs=2, max_tokens=16, cached=False)
    expect_short_replies(world)
    first, second, third = (world.submit([i, 1], 10) for i in range(3))
    while world.scheduler.counters.preemptions == 0:
        assert world.step() is not None
    assert first in world.scheduler.running
    assert list(world.scheduler.waiting) == [second, third]


def test_what_was_generated_is_reused_by_the_next_turn() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=32)
    turn = world.submit([1, 2, 0], 8)
    world.drain()
    following = world.submit([*tokens_of(turn), 1, 1], 2)
    world.drain()
    assert following.cached_tokens == 10  # nothing has followed from the last token yet


def test_the_youngest_is_preempted_and_still_says_the_same() -> None:
    world = World(6, 2, max_seqs=3, max_tokens=16)
    expect_short_replies(world)
    sequences = [world.submit([i, 1, 2], 8) for i in range(2)]
    world.drain()
    assert world.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        alone = World(6, 2, max_seqs=1, max_tokens=16)
        said = alone.submit([i, 1, 2], 8)
        alone.drain()
        assert tokens_of(sequence) == tokens_of(said)


def test_a_cancelled_sequence_frees_its_pages() -> None:
    world = World(8, 2, max_seqs=2, max_tokens=16, cached=False)
    running, waiting = world.submit([1, 2, 3], 8), world.submit([1] * 9, 4)
    world.step()
    waits = world.submit([2], 4)
    world.scheduler.cancel(running)
    world.scheduler.cancel(waits)
    assert running.finish_reason == waits.finish_reason == "cancelled"
    world.drain()
    assert waiting.finish_reason == "length"
    assert world.pool.num_free == world.pool.num_pages


def test_new_weights_recompute_what_is_under_way() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=16)
    sequence = world.submit([1, 2, 0, 1, 1], 6)
    world.step()
    world.step()
    said = tokens_of(sequence)
    world.new_weights()
    world.scheduler.check()
    assert world.pool.num_free == world.pool.num_pages
    world.drain()
    assert tokens_of(sequence)[: len(said)] == said and sequence.finish_reason == "length"


def test_kept_kv_costs_no_page_and_no_token() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=16)
    sequence = world.submit([1, 2, 0, 1, 1], 6)
    world.step()
    world.new_weights(keep_kv=True)
    assert world.scheduler.running == [sequence]
    world.drain()
    assert world.scheduler.counters.prefill_tokens_computed == 5
    assert sequence.weight_versions == [0] + [1] * 5


def test_scores_come_in_chunks_from_the_first_wanted_token_on() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=5)
    sequence = world.score([1, 2, 0, 1, 1, 2, 2, 0, 1, 2, 1, 0], 3)
    rows = []
    while (step := world.step()) is not None:
        rows.append((step.num_tokens, step.num_rows))
    assert rows == [([5], [3]), ([5], [5]), ([1], [1])]
    assert sequence.plain_logprobs == [float(position) for position in range(2, 11)]
    assert sequence.finish_reason == "length"


def test_scores_reuse_what_stands_before_them_and_nothing_else() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=32)
    ids = [1, 2, 0, 1, 1, 2, 2, 0, 1, 2, 1, 0]
    world.submit(ids, 1)
    world.drain()
    late, early = world.score(ids, 9), world.score(ids, 4)
    world.drain()
    assert (late.cached_tokens, early.cached_tokens) == (8, 3)
    assert late.plain_logprobs == [8.0, 9.0, 10.0] and len(early.plain_logprobs) == 8


def test_a_score_interrupted_by_new_weights_comes_from_these_alone() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=4)
    sequence = world.score([1, 2, 0, 1, 1, 2, 2, 0, 1], 1)
    world.step()
    assert len(sequence.plain_logprobs) == 4
    world.new_weights()
    world.drain()
    assert sequence.weight_versions == [1] * 8
    assert sequence.plain_logprobs == [float(position) for position in range(8)]


def test_guesses_come_true_without_changing_what_is_said() -> None:
    plain = World(40, 4, max_seqs=2, max_tokens=16)
    drafting = always_draft(World(40, 4, max_seqs=2, max_tokens=16, drafts=5))
    said = [world.submit([1, 2, 0, 1, 1], 40) for world in (plain, drafting)]
    steps = [world.drain() for world in (plain, drafting)]
    assert tokens_of(said[0]) == tokens_of(said[1])
    assert steps[1] < steps[0] - 5
    counters = drafting.scheduler.counters
    assert counters.generated_tokens == 40
    assert counters.accepted_tokens == steps[0] - steps[1] <= counters.draft_tokens
    assert counters.prefill_tokens_computed == 5


def test_guesses_take_what_the_budget_leaves() -> None:
    world = always_draft(World(60, 4, max_seqs=3, max_tokens=6, drafts=5))
    world.submit([1] * 6, 30)
    world.step()
    world.submit([2] * 12, 4)
    for _ in range(2):
        step = world.step()
        assert step is not None and step.num_drafts[0] == 0 and step.num_tokens[1] == 5


def test_a_guess_takes_no_page_that_another_may_need() -> None:
    world = always_draft(World(5, 4, max_seqs=2, max_tokens=16, drafts=7))
    sequence = world.submit([0] * 6, 9)
    world.step()
    world.pool.take(world.pool.num_free - 1)
    step = world.scheduler.schedule()
    assert step is not None and step.num_tokens == [2]
    assert sequence.num_pages == 2

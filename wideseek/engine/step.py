"""Step: one forward of the model, as the Scheduler asks for it and the ModelRunner answers it."""

from dataclasses import dataclass, field

from wideseek.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """One forward: `num_tokens[i]` uncomputed tokens of `sequences[i]`, whose pages are in place.

    The last `num_drafts[i]` of them are guesses that stand behind the known tokens. What follows
    each of the last `num_rows[i]` is wanted: a sampled token, or a given one's log-probability.
    Before anything is written, each page (from, to) of `copies` is copied, all at once.
    """

    sequences: list[Sequence] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_drafts: list[int] = field(default_factory=list)
    num_rows: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)

    def add(self, sequence: Sequence, count: int) -> None:
        """Compute the next `count` known tokens of a sequence."""
        end = sequence.num_computed + count
        rows = int(end == sequence.num_tokens)
        if sequence.is_scored:
            rows = max(0, min(count, end + 1 - sequence.num_prompt))
        self.sequences.append(sequence)
        self.num_tokens.append(count)
        self.num_drafts.append(0)
        self.num_rows.append(rows)

    def add_drafts(self, index: int, count: int) -> None:
        """Compute `count` guesses behind the last known token of sequence `index` as well."""
        self.num_tokens[index] += count
        self.num_drafts[index] += count
        self.num_rows[index] += count


@dataclass(frozen=True, slots=True)
class Sampled:
    """What follows each wanted row of a Step, with the log-probs of `generation.Completion`."""

    token_ids: list[int]
    logprobs: list[float]
    plain_logprobs: list[float]


@dataclass(slots=True)
class Counters:
    """Running totals; what is computed or found again after a preemption counts again.

    draft_tokens were guessed, accepted_tokens of them came true. preemptions are for want of pages.
    """

    prefix_hit_tokens: int = 0
    prefill_tokens_computed: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0

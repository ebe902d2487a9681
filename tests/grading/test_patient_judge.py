"""A judge that times out, answers junk, answers late or dies costs nothing but time."""

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grading.virtual_time import now, run
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.patient_judge import Ask, Patience, PatientJudge, ReplyFile

NEVER = float("inf")
SILENT = Failure(FailureKind.JUDGE_SILENT, "connection refused")
PATIENCE = Patience(
    concurrency=4,
    deadline=10.0,
    tries=3,
    outage_after=5,
    first_pause=1.0,
    longest_pause=30.0,
    total=600.0,
)


def truth(prompt: str) -> str:
    return f"verdict on {prompt}"


def read(reply: str) -> str | None:
    return reply if reply.startswith("verdict") else None


class Model:
    """Takes a second to say the truth, unless `fault(prompt, n)` is something else.

    n counts tries from 0. A fault is a Failure, a junk text, or seconds to take.
    """

    def __init__(self, fault: Callable[[str, int], Failure | str | float | None]) -> None:
        self.fault = fault
        self.tries: list[tuple[float, str, int]] = []
        self.busy = self.most_busy = 0

    async def __call__(self, prompt: str, attempt: int) -> str | Failure:
        fault = self.fault(prompt, len(self.tries))
        self.tries.append((now(), prompt, attempt))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            if fault == NEVER:
                await asyncio.Event().wait()
            await asyncio.sleep(fault if isinstance(fault, float) else 1.0)
        finally:
            self.busy -= 1
        return fault if isinstance(fault, str | Failure) else truth(prompt)


def well(prompt: str, n: int) -> None:
    return None


def ask_all(
    model: Ask,
    prompts: Sequence[str],
    path: Path,
    patience: Patience = PATIENCE,
    told: list[str] | None = None,
    judge_name: str = "model",
) -> tuple[list[str | Failure], float]:
    """The verdicts of a new judge with the replies at `path`, and the seconds they took."""

    async def ask() -> tuple[list[str | Failure], float]:
        tell = (lambda line: None) if told is None else told.append
        with PatientJudge(model, ReplyFile(path, judge_name), patience, tell) as judge:
            verdicts = await asyncio.gather(*(judge(prompt, read) for prompt in prompts))
        return list(verdicts), now()

    return run(ask())


PROMPTS = [f"p{number}" for number in range(20)]
TRUTH = [truth(prompt) for prompt in PROMPTS]


def test_nothing_is_asked_twice_even_by_a_rerun(tmp_path: Path) -> None:
    model = Model(well)
    assert ask_all(model, PROMPTS * 2, tmp_path / "r")[0] == TRUTH * 2
    assert len(model.tries) == 20
    again = Model(well)
    assert ask_all(again, PROMPTS, tmp_path / "r") == (TRUTH, 0.0)
    assert again.tries == []
    ask_all(again, PROMPTS[:3], tmp_path / "r", judge_name="another model")
    assert len(again.tries) == 3, "a reply counts for the judge that gave it"


def test_a_healthy_judge_is_asked_as_many_at_once_as_allowed(tmp_path: Path) -> None:
    model = Model(well)
    assert ask_all(model, PROMPTS, tmp_path / "r") == (TRUTH, 5.0)  # 20 of 1 s, 4 at once
    assert model.most_busy == 4


def test_a_judge_that_times_out_is_asked_again(tmp_path: Path) -> None:
    model = Model(lambda prompt, n: NEVER if n < 2 else None)
    verdicts, seconds = ask_all(model, ["p"], tmp_path / "r")
    assert verdicts == [truth("p")]
    # Deadlines of 10 and 20 s, pauses of 1 and 2 s, a second for the answer.
    assert seconds == pytest.approx(34.0)


def test_a_judge_that_answers_late_is_given_longer_and_never_mixed_up(tmp_path: Path) -> None:
    model = Model(lambda prompt, n: 15.0)
    verdicts, _ = ask_all(model, PROMPTS, tmp_path / "r")
    assert verdicts == TRUTH
    lines = (tmp_path / "r").read_text().splitlines()
    kept = {record["prompt"]: record["reply"] for record in map(json.loads, lines)}
    assert kept == dict(zip(PROMPTS, TRUTH, strict=True))


def test_junk_is_asked_again_otherwise_and_never_kept(tmp_path: Path) -> None:
    model = Model(lambda prompt, n: "well, it depends" if n < 2 else None)
    assert ask_all(model, ["p"], tmp_path / "r")[0] == [truth("p")]
    assert [attempt for _, _, attempt in model.tries] == [0, 1, 2]
    lines = (tmp_path / "r").read_text().splitlines()
    assert [json.loads(line)["reply"] for line in lines] == [truth("p")]


def test_nothing_but_junk_is_a_failure_and_no_zero(tmp_path: Path) -> None:
    model = Model(lambda prompt, n: "ERROR 42")
    (verdict,), _ = ask_all(model, ["p"], tmp_path / "r")
    assert isinstance(verdict, Failure) and verdict.kind is FailureKind.JUDGE_UNREADABLE
    assert "ERROR 42" in verdict.detail and len(model.tries) == 3
    assert (tmp_path / "r").read_bytes() == b""


def test_a_judge_that_dies_in_the_middle_costs_only_time(tmp_path: Path) -> None:
    def dies(prompt: str, n: int) -> Failure | None:
        return SILENT if 3.0 <= now() < 200.0 else None

    model, told = Model(dies), list[str]()
    verdicts, seconds = ask_all(model, PROMPTS, tmp_path / "r", told=told)
    assert verdicts == TRUTH
    assert 200.0 < seconds < 200.0 + PATIENCE.longest_pause + 10.0
    during = [at for at, _, _ in model.tries if 15.0 <= at < 200.0]
    assert all(later - at >= 2.0 for at, later in pairwise(during))
    assert len(during) < 15, "an outage is probed, not hammered"
    assert "is out" in told[0] and told[-1] == "the judge answers again"


def test_patience_ends_in_failures_that_a_rerun_makes_good(tmp_path: Path) -> None:
    model, told = Model(lambda prompt, n: SILENT if now() >= 2.0 else None), list[str]()
    verdicts, seconds = ask_all(model, PROMPTS, tmp_path / "r", told=told)
    scored = [verdict for verdict in verdicts if not isinstance(verdict, Failure)]
    lost = [verdict for verdict in verdicts if isinstance(verdict, Failure)]
    assert len(scored) == 8 and len(lost) == 12, "what was judged before stays judged"
    assert {failure.kind for failure in lost} == {FailureKind.JUDGE_SILENT}
    assert PATIENCE.total <= seconds < PATIENCE.total + 10.0
    assert [line for line in told if "given up" in line] == told[-1:]
    again = Model(well)
    assert ask_all(again, PROMPTS, tmp_path / "r")[0] == TRUTH
    assert len(again.tries) == 12


def test_once_given_up_a_judge_is_not_asked_again(tmp_path: Path) -> None:
    async def ask() -> tuple[object, float, int]:
        model = Model(lambda prompt, n: SILENT)
        with PatientJudge(model, ReplyFile(tmp_path / "r", "model"), PATIENCE) as judge:
            await judge("p", read)
            before, tries = now(), len(model.tries)
            return await judge("q", read), now() - before, len(model.tries) - tries

    verdict, seconds, tries = run(ask())
    assert isinstance(verdict, Failure) and (seconds, tries) == (0.0, 0)


def test_a_prompt_that_kills_its_try_is_no_outage(tmp_path: Path) -> None:
    async def ask() -> tuple[list[str | Failure], bool]:
        model = Model(lambda prompt, n: SILENT if prompt == "poison" else None)
        with PatientJudge(model, ReplyFile(tmp_path / "r", "model"), PATIENCE) as judge:
            poisoned = asyncio.ensure_future(judge("poison", read))
            verdicts = [await judge(prompt, read) for prompt in PROMPTS]
            return [await poisoned, *verdicts], judge.is_out

    (poison, *others), is_out = run(ask())
    assert isinstance(poison, Failure) and poison.kind is FailureKind.JUDGE_SILENT
    assert others == TRUTH and not is_out


def test_a_refusal_is_final_and_not_an_outage(tmp_path: Path) -> None:
    refusal = Failure(FailureKind.JUDGE_REFUSED, "the prompt is too long")
    model = Model(lambda prompt, n: refusal if prompt == "p0" else None)
    verdicts, _ = ask_all(model, PROMPTS, tmp_path / "r")
    assert verdicts == [refusal, *TRUTH[1:]]
    assert len(model.tries) == 20


def test_who_gives_up_waiting_takes_nothing_from_others(tmp_path: Path) -> None:
    async def ask() -> tuple[str | Failure, int]:
        model = Model(well)
        with PatientJudge(model, ReplyFile(tmp_path / "r", "model"), PATIENCE) as judge:
            first, second = (asyncio.ensure_future(judge("p", read)) for _ in range(2))
            await asyncio.sleep(0.5)
            first.cancel()
            return await second, len(model.tries)

    assert run(ask()) == (truth("p"), 2)


def test_a_torn_line_is_asked_again_and_a_foreign_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ask_all(Model(well), ["p", "q"], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    model = Model(well)
    ask_all(model, ["p", "q"], path)
    assert [prompt for _, prompt, _ in model.tries] == ["q"] and path.read_bytes() == whole
    for line in ("{}", "[1]", "junk", '{"judge": "a", "prompt": "b", "reply": null}'):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1 is not a reply"):
            ReplyFile(path, "model")


def test_half_a_surrogate_pair_does_no_harm(tmp_path: Path) -> None:
    ask_all(Model(well), ["\ud800"], tmp_path / "r")
    again = Model(well)
    assert ask_all(again, ["\ud800"], tmp_path / "r")[0] == [truth("\ud800")]
    assert again.tries == []


@pytest.mark.parametrize("field", ["deadline", "tries", "total", "concurrency"])
def test_patience_must_be_above_zero(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be above 0, not 0"):
        Patience(**{field: 0})


FAULTS = st.sampled_from([None, SILENT, NEVER, 12.0, "junk", "it is not correct"])


@settings(max_examples=60, deadline=None)
@given(st.lists(FAULTS, max_size=40), st.integers(1, 5))
def test_whatever_a_judge_does_no_verdict_is_wrong_and_a_rerun_completes(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[Failure | str | float | None],
    at_once: int,
) -> None:
    path = tmp_path_factory.mktemp("judge") / "r"
    patience = Patience(
        concurrency=at_once, deadline=10.0, tries=2, outage_after=3, total=120.0, longest_pause=20.0
    )
    model = Model(lambda prompt, n: faults[n] if n < len(faults) else None)
    verdicts, _ = ask_all(model, PROMPTS[:8], path, patience)
    for verdict, right in zip(verdicts, TRUTH, strict=False):
        assert verdict == right or isinstance(verdict, Failure)
    missing = sum(isinstance(verdict, Failure) for verdict in verdicts)
    again = Model(well)
    assert ask_all(again, PROMPTS[:8], path, patience)[0] == TRUTH[:8]
    assert len(again.tries) == missing

"""bench/main.py engine and steps: the trace is obeyed, the figures are of what happened."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))  # as for a script there

import engine_trace  # noqa: E402
from wide_trace import distinct_tokens, fingerprint, read_trace, replay_in_steps  # noqa: E402


def small_trace() -> dict[str, Any]:
    """A lead that asks three subagents, and goes on when they are done."""
    rng = random.Random(0)

    def segment(length: int) -> list[int]:
        return [rng.randrange(4096) for _ in range(length)]

    segments = {
        "system": segment(90),
        "sub": segment(70),
        "user": segment(9),
        "report": segment(40),
    }
    contexts: list[dict[str, Any]] = []
    for number in range(3):
        segments |= {f"task{number}": segment(20), f"tool{number}": segment(30)}
        contexts.append(
            {
                "id": f"s{number}",
                "task": 0,
                "role": "sub",
                "turns": [
                    {"append": ["sub", f"task{number}"], "generate": 6, "after": [["lead", 0]]},
                    {"append": [f"tool{number}"], "generate": 6, "after": []},
                ],
            }
        )
    waits = [[f"s{number}", 1] for number in range(3)]
    lead = [
        {"append": ["system", "user"], "generate": 5, "after": []},
        {"append": ["report"], "generate": 8, "after": waits},
    ]
    contexts.insert(0, {"id": "lead", "task": 0, "role": "lead", "turns": lead})
    return {"schema": "wide-trace/1", "segments": segments, "contexts": contexts}


GENERATED = 5 + 8 + 3 * 2 * 6
DISTINCT = 90 + 9 + 40 + 70 + 3 * (20 + 30)


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(small_trace()), encoding="utf-8")
    return path


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "main.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_a_turn_starts_when_all_that_it_comes_after_are_finished() -> None:
    under_way: dict[str, list[int]] = {}
    ended: list[tuple[str, int]] = []
    turns: dict[str, int] = {}

    def submit(name: str, ids: list[int], count: int) -> None:
        turn = next(c for c in trace["contexts"] if c["id"] == name)["turns"][turns.get(name, 0)]
        assert {(other, number) for other, number in turn["after"]} <= set(ended)
        assert count == turn["generate"]
        under_way[name] = [len(ids)] * count

    def step() -> list[tuple[str, list[int]]]:
        name = max(under_way)  # one at a time, in an order that nobody expects
        ended.append((name, turns.get(name, 0)))
        turns[name] = turns.get(name, 0) + 1
        return [(name, under_way.pop(name))]

    trace = small_trace()
    said = replay_in_steps(trace, submit, step)
    assert turns == {"lead": 2, "s0": 2, "s1": 2, "s2": 2}
    # Replies stand in the context of the next turn: 99 + 5 + 40 tokens.
    assert said["lead"] == [[99] * 5, [144] * 8] and said["s1"][1] == [90 + 6 + 30] * 6


def test_a_reply_of_the_wrong_length_is_refused() -> None:
    asked: list[str] = []
    with pytest.raises(ValueError, match="lead said 1 tokens instead of 5"):
        replay_in_steps(
            small_trace(), lambda name, *_: asked.append(name), lambda: [(asked.pop(), [0])]
        )


def test_distinct_tokens_are_those_no_cache_could_have_spared() -> None:
    trace = small_trace()
    said = {c["id"]: [[1] * turn["generate"] for turn in c["turns"]] for c in trace["contexts"]}
    assert distinct_tokens(trace, said) == DISTINCT
    same = fingerprint(said)
    said["s2"][1][0] = 2
    assert distinct_tokens(trace, said) == DISTINCT and fingerprint(said) != same


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"schema": "other"}, "not of the schema"),
        ({"segments": {}}, "names unknown"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused(
    tmp_path: Path, broken: dict[str, Any], message: str
) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(small_trace() | broken), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_trace(path)


def test_sessions_are_the_tasks_their_leads_and_subagents() -> None:
    contexts = small_trace()["contexts"]
    assert [engine_trace.session_of(c) for c in contexts[:2]] == ["task0/lead", "task0/lead/s0"]


def test_ratios_are_of_medians_and_of_the_worst_to_the_best() -> None:
    rates = {"engine": [10.0, 30.0, 20.0], "vllm": [5.0, 4.0, 40.0], "absent": []}
    runs = {name: [{"tokens_per_second": r} for r in own] for name, own in rates.items()}
    assert engine_trace.ratios(runs) == {"vllm": {"median": 4.0, "worst": 0.25}}


def test_the_engine_and_a_peer_replay_the_same_trace_in_turns(
    trace_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    output = tmp_path / "figures.json"
    ended = bench(
        *("engine", "--trace", trace_file, "--repeats", 2, "--threads", 1, "--output", output),
        *("--peer", f"transformers={sys.executable}", "--peer", f"vllm={sys.executable}"),
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(output.read_text())
    ours, theirs = figures["runs"]["engine"], figures["runs"]["transformers"]
    assert len(ours) == len(theirs) == 2
    for row in ours:
        assert row["generated_tokens"] == GENERATED and row["prefill_distinct"] == DISTINCT
        assert row["prefill_naive"] > row["prefill_computed"] >= DISTINCT
        # Each turn but a context's first computes its last sampled token; siblings may overlap by
        # a quarter of a page.
        assert row["prefill_computed"] <= DISTINCT + 4 + 2 * 16
    # float32 and greedy: whoever replays the trace says the same.
    assert len({row["fingerprint"] for row in ours + theirs}) == 1
    assert figures["ratios"].keys() == {"transformers"}
    assert figures["ratios"]["transformers"]["median"] > 0
    lines = [line.split(":")[0].split(" ")[0] for line in ended.stdout.splitlines()]
    assert lines == ["engine", "transformers"] * 2 + ["engine"]
    assert ended.stderr.count("vllm: not installed") == 2


def test_a_model_may_be_a_folder(trace_file: Path, tmp_path: Path) -> None:
    with engine_trace.folder_of("random:tiny", "float32") as folder:
        output = tmp_path / "figures.json"
        ended = bench(
            "engine", "--trace", trace_file, "--model", folder, "--output", output, "--threads", 1
        )
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(output.read_text())["runs"]["engine"]
    assert row["generated_tokens"] == GENERATED


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "random:huge"], "the random ones are tiny, small"),
        (["--peer", "vllm"], "'vllm' is not NAME=PYTHON"),
        (["--peer", "nonsense=python"], "peer 'nonsense' is none of transformers"),
        (["--model", "nowhere"], "no model at nowhere"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_says_why(
    trace_file: Path, flags: list[str], message: str
) -> None:
    ended = bench("engine", "--trace", trace_file, *flags)
    assert ended.returncode == 2 and message in ended.stderr


def test_a_peer_that_fails_ends_with_2_and_what_it_said(trace_file: Path) -> None:
    peer = f"transformers={sys.executable}:nowhere"
    ended = bench("engine", "--trace", trace_file, "--peer", peer)
    assert ended.returncode == 2 and f"peer {peer} failed: " in ended.stderr
    assert "no model at nowhere" in ended.stderr


def test_steps_are_split_into_their_parts(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    flags = ["--batch", 4, "--context", 40, "--steps", 12, "--repeats", 2, "--threads", 1]
    ended = bench("steps", *flags, "--output", output)
    assert ended.returncode == 0, ended.stderr
    for row in json.loads(output.read_text())["runs"]:
        assert row["steps"] == 12  # all four in each
        parts = [row[part] for part in ("schedule", "prepare", "model", "sample", "commit")]
        assert all(part > 0 for part in parts) and sum(parts) <= row["wall"]
        assert row["host"] == pytest.approx(row["wall"] - row["model"] - row["sample"])
        assert row["host"] >= row["schedule"] + row["prepare"] + row["commit"]


def test_shapes_measures_every_part_that_fits_and_names_the_one_that_does_not(
    tmp_path: Path,
) -> None:
    """Three pages hold 192 tokens, of which one mix wants 224."""
    output = tmp_path / "shapes.json"
    small = ("--shrink", 64, "--steps", 3, "--repeats", 1, "--kv-memory-gb", 0.0002)
    done = bench("shapes", "--model", "tiny", "--device", "cpu", *small, "--output", output)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    assert len(results) == 5
    (failed,) = [result for result in results if "error" in result]
    assert failed["name"] == "decode 8 x 8 x (12k shared + 2k)" and failed["name"] in done.stderr
    assert all(
        (result.get("step_ms") or result["ms"]) > 0 for result in results if result is not failed
    )

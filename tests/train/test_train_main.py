"""train/main.py as a person meets it: killed and started again, its folders, its exports, and what it refuses."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from wideseek_train.metrics import METRICS, STEP, read_metrics

from tests.train.start import WORDS, load_script, lone_rank, write_start
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def main() -> ModuleType:
    return load_script()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(autouse=True)
def no_process_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def command(start: Path, out: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "train" / "main.py"), "mini_cpu"),
        *(f"model={start}", f"out={out}", "steps=4", "save_steps=1", *WORDS, *words),
    ]


def environment() -> dict[str, str]:
    path = ":".join(str(ROOT / part) for part in ("", "kernels", "train"))
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), timeout=280
    )


def run_until_killed(start: Path, out: Path, *, in_step: int) -> None:
    """Kill -9 in the middle of a step's rollouts."""
    process = subprocess.Popen(
        command(start, out), env=environment(), stderr=subprocess.PIPE, text=True
    )
    trace = out / "traces" / f"step-{in_step:06d}-rank0.jsonl"
    deadline = time.monotonic() + 240
    while not (trace.exists() and trace.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def without_times(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without what depends on when things happened; how much an engine finds again does, too."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("timing_s/", "perf/", "engine/"))}
        for line in lines
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resume_is_bitwise(tmp_path: Path, start: Path, main: ModuleType) -> None:
    """Four steps in one go, and four with a kill -9 in the third: same weights, moments and numbers to the bit."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = run(start, straight)
    assert done.returncode == 0, done.stderr
    run_until_killed(start, killed, in_step=2)
    lines = read_metrics(killed / "metrics.jsonl")
    assert [line[STEP] for line in lines] == [1, 2]
    done = run(start, killed)
    assert done.returncode == 0, done.stderr

    ours, theirs = (read_metrics(out / "metrics.jsonl") for out in (killed, straight))
    assert [line[STEP] for line in ours] == [1, 2, 3, 4]
    assert without_times(ours) == without_times(theirs)
    # A step in which no group's attempts differ has no gradient, and which do is up to the last bits.
    assert any(line.get("actor/grad_norm", 0.0) > 0 for line in ours)
    with lone_rank():
        mine, expected = (read_checkpoint(main, start, out) for out in (killed, straight))
    assert mine.keys() == expected.keys() and len(mine) == 4 * 24
    for name, tensor in expected.items():
        assert torch.equal(mine[name], tensor), name
    kept = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert kept == ["step-000003", "step-000004"]


def read_checkpoint(main: ModuleType, start: Path, out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's newest checkpoint."""
    words = [f"model={start}", f"out={out}", "steps=4", "save_steps=1", *WORDS]
    config = main.load_settings(main.RlConfig, words, main.read_preset(main.PRESETS, "mini_cpu"))
    model, _ = main.load_weights(config, start)
    trainer = main.Trainer(model, config.trainer, config.loss, steps=config.steps)
    checkpoint = main.latest_checkpoint(out / "checkpoints")
    main.load_checkpoint(trainer, checkpoint, json.loads((out / "config.json").read_text()))
    return {
        f"{kind}/{name}": tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for kind, tensors in trainer.state().items()
        for name, tensor in tensors.items()
    }


def call(main: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    main.main()


def test_a_run_evaluates_keeps_the_best_and_exports(
    tmp_path: Path, start: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, exported = tmp_path / "run", tmp_path / "exported"
    words = (f"model={start}", f"out={out}", *WORDS, "steps=2", "eval_steps=1", "eval_tasks=2")
    call(main, monkeypatch, "mini_cpu", *words)
    lines = read_metrics(out / "metrics.jsonl")
    assert [line[STEP] for line in lines] == [0, 1, 2]
    assert all("val-core/worlds/item_f1/mean@1" in line for line in lines)
    assert all(line.keys() <= METRICS.keys() for line in lines)
    assert lines[1]["weight/lead"] == pytest.approx(lines[1]["critic/groups/with_signal"] / 2)
    assert lines[1]["mismatch/max"] < 2e-5
    assert lines[1]["engine/generated_tokens"] >= lines[1]["actor/tokens"] > 0
    assert lines[1]["engine/throughput"] > 0 and 0 < lines[1]["engine/prefix_hit_rate"] < 1
    best = load_model(out / "best")  # nothing beats the start's 0
    for ours, theirs in zip(best.parameters(), load_model(start).parameters(), strict=True):
        assert torch.equal(ours, theirs)

    call(main, monkeypatch, "mini_cpu", *words, "--export", str(exported))
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(load_model(exported).parameters(), best.parameters(), strict=True)
    ]
    assert any(moved)
    assert Renderer.load(exported).stop_token_ids == Renderer.load(start).stop_token_ids
    with pytest.raises(SystemExit) as ended:
        call(main, monkeypatch, "mini_cpu", *words, "--export", str(exported))
    assert ended.value.code == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_under_torchrun_do_what_one_does(
    tmp_path: Path, start: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts, questions, loss and evaluation, with weights split between the ranks."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = ("steps=2", "eval_steps=2", "eval_tasks=3", "collect.questions=3")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *torchrun, *command(start, two, *words)[1:]],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    call(main, monkeypatch, *command(start, one, *words)[2:])
    ours, theirs = (read_metrics(out / "metrics.jsonl") for out in (one, two))
    assert [line[STEP] for line in theirs] == [0, 1, 2]
    for mine, other in zip(without_times(ours), without_times(theirs), strict=True):
        for line in (mine, other):
            for name in ("actor/micro_batches", "actor/computed_tokens"):
                line.pop(name, None)  # an equal number of passes on each rank, some of them empty
        assert other == pytest.approx(mine, rel=1e-4, abs=1e-5)
    ranks = {path.name.split("-")[2] for path in (two / "traces").iterdir()}
    assert ranks == {"rank0.jsonl", "rank1.jsonl"}


@pytest.mark.slow
def test_it_learns_to_be_brief(
    tmp_path: Path, start: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy paid for short turns alone shortens them: the whole loop, with the sign of its gradient, in fifteen steps."""
    words = (f"model={start}", f"out={tmp_path}", *WORDS, "steps=15", "save_steps=15")
    more = ("collect.questions=3", "collect.group_size=8", "trainer.learning_rate=1e-2")
    call(main, monkeypatch, "mini_cpu", *words, *more, "trainer.token_budget=4096")
    lines = read_metrics(tmp_path / "metrics.jsonl")
    rewards = [line["critic/rewards/mean"] for line in lines]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3, rewards
    lengths = [line["response_length/mean"] for line in lines]
    assert sum(lengths[-3:]) < 0.75 * sum(lengths[:3]), lengths


BAD_INPUT = {
    "unknown preset": (("huge",), "unknown preset 'huge'; known: mini_1xh200, mini_cpu"),
    "unknown key": (("mini_cpu", "stepz=3"), "unknown setting 'stepz'"),
    "unknown key of a table": (("mini_cpu", "loss.clip=3"), "unknown setting 'loss.clip'"),
    "no value": (("mini_cpu", "steps"), "key=value"),
    "wrong type": (("mini_cpu", "steps=two"), "steps must be int"),
    "out of range": (
        ("mini_cpu", "collect.group_size=1"),
        "collect: group_size must be at least 2",
    ),
    "not a choice": (("mini_cpu", "share=all"), "share must be one of outcome, role, subagent"),
    "no model": (("mini_cpu", "model=/nowhere"), "no model folder at /nowhere"),
    "micro-batch too small": (("mini_cpu", "trainer.token_budget=100"), "token_budget 100"),
    "nothing to export": (("mini_cpu", *WORDS, "--export", "x"), "no checkpoint yet"),
    "no wandb": (("mini_cpu", *WORDS, "wandb=true"), "wandb"),
    "a model without a role": (("mini_cpu", "frozen_model=x"), "needs a frozen role"),
    "ranks": (("mini_cpu", *WORDS, "trainer.shard_ranks=3"), "torchrun --nproc-per-node 3"),
    "ranks that cannot hold it": (
        ("mini_cpu", *WORDS, "engine.num_pages=none", "engine.kv_memory_gb=1e6"),
        "1 rank cannot hold this model: each needs 1000000.0 GiB and has",
    ),
    "no data set": (("mini_cpu", *WORDS, "data=nowhere.jsonl:0.5"), "cannot read nowhere.jsonl"),
    "no share": (("mini_cpu", *WORDS, "data=nowhere.jsonl"), "needs a share in (0, 1]"),
    "no time": (("mini_cpu", "rollout_seconds=0"), "rollout_seconds must be above 0"),
    "offload to nowhere": (
        ("mini_cpu", *WORDS, "trainer.offload=true"),
        "trainer.offload true needs a GPU",
    ),
    "a corpus for nothing": (("mini_cpu", *WORDS, "corpus=x.sqlite"), "needs data to be looked up"),
    "a bound that is none": (("mini_cpu", "collapse.max_broken=-1"), "collapse: max_broken"),
    "a frozen model": (
        ("mini_cpu", *WORDS, "frozen=sub", "frozen_model=/nowhere"),
        "no model folder at /nowhere",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str,
    tmp_path: Path,
    start: Path,
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, told = BAD_INPUT[case]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = (f"model={start}",) if case != "no model" else ()
    with pytest.raises(SystemExit) as ended:
        call(main, monkeypatch, words[0], *own, f"out={tmp_path / 'run'}", *words[1:])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and told in line
    if case != "no wandb":
        assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_as_it_was_begun(
    tmp_path: Path,
    start: Path,
    main: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other settings, or a model folder that now holds another network, are refused and nothing is touched."""
    model, out = write_start(tmp_path / "model"), tmp_path / "run"
    words = (f"model={model}", f"out={out}", *WORDS, "steps=1")
    call(main, monkeypatch, "mini_cpu", *words)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def refuse(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            call(main, monkeypatch, "mini_cpu", *words, *more)
        if dist.is_initialized():
            dist.destroy_process_group()
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("train: ")]
        assert ended.value.code == 2
        return line

    capsys.readouterr()
    told = refuse("trainer.learning_rate=0.5")
    assert "was begun with trainer.learning_rate 0.001, not 0.5: choose another out" in told
    write_start(tmp_path / "model", layers=1)
    assert "another model, with num_hidden_layers 2, not 1" in refuse()
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_presets_load(main: ModuleType) -> None:
    names = sorted(path.stem for path in (ROOT / "train" / "presets").glob("*.toml"))
    assert names == ["mini_1xh200", "mini_cpu", "multi_node", "qwen3_4b_1xh200", "qwen3_4b_8xh100"]
    for name in names:
        assert main.load_settings(main.RlConfig, [], main.read_preset(main.PRESETS, name)).steps > 0

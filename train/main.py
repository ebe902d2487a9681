"""Multi-agent RL: `torchrun --nproc-per-node N train/main.py PRESET [key=value ...] [--export FOLDER]`.

Every rank answers its share of the questions on an engine of its own, all of them take one optimizer step together, and
the new weights go back into the engines. One process needs no torchrun. A run that was killed goes on where it stopped
when started again with the same settings; with --export its newest weights become a Hugging Face folder instead.

In `out`: config.json, metrics.jsonl, traces/ (every rollout), checkpoints/ and best/, a folder any engine here serves.
Not done here: judge models, data sets, two policies trained at once, tree packing.
"""

import faulthandler
import json
import os
import resource
import sys
import time
import tomllib
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from wideseek_train.batch import make_batch
from wideseek_train.checkpoint import (
    export,
    first_difference,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from wideseek_train.collect import CollectConfig, Collector, Counters
from wideseek_train.config import load_settings
from wideseek_train.graded import Baseline, Frozen, Share, Turns, assign_advantages
from wideseek_train.loss import LossConfig
from wideseek_train.measure import (
    failed_share,
    max_over_ranks,
    measure_evaluation,
    measure_rollouts,
    measure_step,
)
from wideseek_train.metrics import STEP, MetricsLog
from wideseek_train.traces import drop_traces_after
from wideseek_train.trainer import Trainer, TrainerConfig
from wideseek_train.weight_sync import weight_sync

from wideseek.agents.limits import Limits
from wideseek.backends import LocalModel, OneLineParser, find_model_folder, name_of
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.grading.credit import CreditConfig
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model
from wideseek.worlds.tasks import make_tasks

PRESETS = Path(__file__).parent / "presets"
STDERR = 2
MOST_FAILED = 0.5
"""A step of which a larger share of rollouts failed for no fault of the policy ends the run: something is down."""


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """Everything a run depends on; saved with it."""

    model: str = ""  # folder or hub id; empty: the bundled mini model
    out: str = ""  # empty: runs/PRESET
    seed: int = 0
    steps: int = 100
    save_steps: int = 10
    eval_steps: int = 10  # 0: never
    eval_tasks: int = 24  # held-out worlds, always the same
    baseline: Baseline = "normalized"
    share: Share = "outcome"
    turns: Turns = "all"  # "reference": those its rules train, with the rewards they pay
    frozen: Frozen = "none"  # a role that frozen_model plays and nobody trains
    frozen_model: str = ""
    wandb: bool = False
    step_seconds: float = 14400.0  # a rank whose step takes longer tells where it stands and ends
    collect: CollectConfig = field(default_factory=CollectConfig)
    limits: Limits = field(default_factory=Limits)
    credit: CreditConfig = field(default_factory=CreditConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("save_steps", 1), ("eval_steps", 0), ("eval_tasks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.frozen_model and self.frozen == "none":
            raise ValueError(f"frozen_model {self.frozen_model!r} needs a frozen role, lead or sub")
        if not self.step_seconds > 0:
            raise ValueError(f"step_seconds must be above 0, not {self.step_seconds}")
        if self.trainer.token_budget < self.limits.seq_length:
            raise ValueError(
                f"trainer.token_budget {self.trainer.token_budget} must hold "
                f"limits.seq_length {self.limits.seq_length} tokens"
            )


def read_preset(name: str) -> dict[str, Any]:
    """A preset by name, or a TOML file by path."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
        raise ValueError(f"unknown preset {name!r}; known: {known}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def join_ranks() -> Counters:
    """Make the process group of all ranks that torchrun started, or of this process alone; returns their store."""
    store, rank, ranks = HashStore(), 0, 1
    if "RANK" in os.environ:
        store, rank, ranks = next(rendezvous("env://"))
    backends = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backends += ",cuda:nccl"
    elif ranks > 1:
        torch.set_num_threads(1)  # ranks share a machine better than threads
    dist.init_process_group(
        backends, store=PrefixStore("group", store), rank=rank, world_size=ranks
    )
    questions: Counters = PrefixStore("questions", store)
    return questions


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a run in its folder. ValueError if it was begun with others."""
    path = out / "config.json"
    if path.exists():
        begun = json.loads(path.read_text())
        if begun != settings:
            raise ValueError(
                f"{out} was begun with {first_difference(begun, settings)}: choose another out"
            )
    dist.barrier()
    if dist.get_rank() == 0 and not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.replace(path)


def build_trainer(config: RlConfig, folder: Path) -> Trainer:
    """The weights of a folder, sharded over the ranks."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    needs_reference = config.loss.kl_coefficient > 0
    return Trainer(
        load_model(folder, torch.float32, device),
        config.trainer,
        config.loss,
        steps=config.steps,
        reference=load_model(folder, torch.float32, device) if needs_reference else None,
    )


def open_frozen(config: RlConfig) -> LocalModel | None:
    """The model that plays the frozen role, on an engine of its own."""
    if config.frozen == "none":
        return None
    name = config.frozen_model or None
    return LocalModel.load(find_model_folder(name), config.engine, name_of(name))


def peak_memory_gb() -> float:
    """Most memory this rank has held, in GiB: of its GPU where it has one, else of its process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Stopwatch:
    """Seconds of the phases of a step, by their registered names."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """The phase that now ends took all the time since the one before."""
        now = time.monotonic()
        self.seconds[f"timing_s/{phase}"] = now - self._last
        self.seconds["timing_s/step"] = now - self._began
        self._last = now


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, from one rank, and an exit code: 2 for what was asked, 1 for what went wrong later."""
    if os.environ.get("RANK", "0") == "0":
        print(f"train: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def main() -> None:
    parser = OneLineParser(prog="train", description=__doc__.splitlines()[0])
    parser.add_argument("preset", metavar="PRESET")
    parser.add_argument("words", metavar="key=value", nargs="*")
    parser.add_argument("--export", metavar="FOLDER", type=Path)
    options = parser.parse_intermixed_args()
    try:
        config = load_settings(RlConfig, options.words, read_preset(options.preset))
        folder = find_model_folder(config.model or None)
        renderer = Renderer.load(folder)
        store = join_ranks()
        rank, ranks = dist.get_rank(), dist.get_world_size()
        out = Path(config.out or f"runs/{Path(options.preset).stem}")
        settings = {k: v for k, v in asdict(config).items() if k not in ("out", "wandb")}
        claim_folder(out, settings)
        trainer, best_f1 = build_trainer(config, folder), -1.0
        checkpoint = latest_checkpoint(out / "checkpoints")
        if checkpoint is not None:
            best_f1 = load_checkpoint(trainer, checkpoint, settings).best_f1
        if options.export is not None:
            if checkpoint is None or options.export.exists():
                reason = "no checkpoint yet" if checkpoint is None else f"{options.export} exists"
                raise ValueError(f"nothing to export from {out}: {reason}")
            export(trainer, folder, options.export)
            return
        engine = Engine.load(folder, config.engine)
        policy = LocalModel(name_of(config.model or None), renderer, engine)
        other = open_frozen(config)
        log = None
        if rank == 0:
            log = MetricsLog(out, trainer.steps_done, settings, wandb=config.wandb)
    except (ValueError, OSError) as error:
        fail(str(error))

    collector = Collector(
        config=config.collect,
        limits=config.limits,
        credit=config.credit,
        turns=config.turns,
        lead=other if other and config.frozen == "lead" else policy,
        sub=other if other and config.frozen == "sub" else policy,
        store=store,
        traces=out / "traces",
        seed=config.seed,
        rank=rank,
        num_ranks=ranks,
    )
    rows = (config.collect.min_rows, config.collect.max_rows)
    held_out = make_tasks("test", config.eval_tasks, 0, rows)
    if rank == 0:
        drop_traces_after(collector.traces, trainer.steps_done)
    dist.barrier()
    weight_sync(trainer, engine)

    def evaluate() -> dict[str, float]:
        """Scores on the held-out worlds; the best weights so far are kept as a folder."""
        nonlocal best_f1
        scores = measure_evaluation(collector.evaluate(held_out))
        if (item_f1 := scores["val-core/worlds/item_f1/mean@1"]) > best_f1:
            best_f1 = item_f1
            export(trainer, folder, out / "best")
        return scores

    def record(values: dict[str, float]) -> None:
        values = {STEP: trainer.steps_done} | values
        values["perf/max_memory_gb"] = max_over_ranks(peak_memory_gb())
        if log is not None:
            log.write(values)
            shown = ("critic/rewards/mean", "actor/grad_norm", "val-core/worlds/item_f1/mean@1")
            told = ", ".join(f"{name} {values[name]:.4g}" for name in shown if name in values)
            print(f"step {trainer.steps_done}: {told}", file=sys.stderr, flush=True)

    if config.eval_steps and trainer.steps_done == 0:
        watch = Stopwatch()
        scores = evaluate()
        watch.lap("testing")
        record(scores | watch.seconds)
    while trainer.steps_done < config.steps:
        step, watch = trainer.steps_done, Stopwatch()
        faulthandler.dump_traceback_later(config.step_seconds, exit=True, file=STDERR)
        groups = collector.collect(step)
        engine.sleep(drop_weights=True)
        if other is not None:
            other.engine.sleep()
        watch.lap("gen")
        samples = assign_advantages(
            groups,
            baseline=config.baseline,
            share=config.share,
            num_rollouts=config.collect.num_rollouts,
            credit=config.credit,
            turns=config.turns,
            frozen=config.frozen,
        )
        batch = make_batch(
            samples,
            token_budget=config.trainer.token_budget,
            hidden_size=trainer.model_config.hidden_size,
        )
        report = trainer.step(batch)
        watch.lap("update_actor")
        synced = weight_sync(trainer, engine)
        if other is not None:
            other.engine.wake()
        watch.lap("update_weights")
        values = measure_rollouts(groups, samples) | measure_step(report, synced, batch.num_samples)
        if failed_share(values) > MOST_FAILED:
            fail(
                f"step {step}: {failed_share(values):.0%} of rollouts got no reward; see traces", 1
            )
        if config.eval_steps and trainer.steps_done % config.eval_steps == 0:
            values |= evaluate()
            watch.lap("testing")
        values["perf/throughput"] = report.tokens / watch.seconds["timing_s/step"]
        record(values | watch.seconds)
        if trainer.steps_done % config.save_steps == 0 or trainer.steps_done == config.steps:
            save_checkpoint(trainer, out / "checkpoints", settings, best_f1)
    faulthandler.cancel_dump_traceback_later()
    engine.close()
    if other is not None:
        other.engine.close()
    if log is not None:
        log.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    main()

"""Multi-agent RL: `torchrun --nproc-per-node N train/main.py PRESET [key=value ...] [--export FOLDER]`.

Every rank answers its share of the questions on an engine of its own, all of them take one optimizer step together, and
the new weights go back into the engines. One process needs no torchrun. A run that was killed goes on where it stopped
when started again with the same settings; with --export its newest weights become a Hugging Face folder instead.
Questions are worlds, and with data=FILE:SHARE,... so large shares of them rows of published data sets (`tasks.py`).

In `out`: config.json, metrics.jsonl, rollouts.jsonl, report.html, traces/ (every rollout), checkpoints/, best/, a folder
any engine here serves, and collapsed/, a snapshot of a run that was stopped because its policy collapsed.
Exit codes: 1 what went wrong on the way, 2 what was asked. Not done here: judge models, two policies trained at once.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from wideseek_train.batch import make_batch
from wideseek_train.capacity import check_memory, check_ranks, rank_memory_gb
from wideseek_train.checkpoint import (
    check_checkpoint,
    check_folder,
    claim_folder,
    export,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from wideseek_train.collapse import CollapseConfig, find_collapse
from wideseek_train.collect import CollectConfig, Collector
from wideseek_train.config import load_settings, read_preset
from wideseek_train.graded import Baseline, Frozen, GradedGroup, Share, Turns, assign_advantages
from wideseek_train.loss import LossConfig
from wideseek_train.measure import (
    ITEM_F1,
    SCORED,
    Stopwatch,
    failed_share,
    measure_engine,
    measure_evaluation,
    measure_rollouts,
    measure_step,
    peak_memory_gb,
)
from wideseek_train.metrics import STEP, MetricsLog, read_metrics
from wideseek_train.ranks import Ranks, join, max_over_ranks, meet
from wideseek_train.report import write_report
from wideseek_train.rollout_table import Row, sample_rollouts
from wideseek_train.sample import Sample
from wideseek_train.tasks import TaskSource, TrainTask, from_world, read_mixture
from wideseek_train.traces import drop_traces_after, weights_sha256
from wideseek_train.trainer import Trainer, TrainerConfig
from wideseek_train.weight_sync import SyncReport, weight_sync

from wideseek.agents.limits import Limits
from wideseek.backends import LocalModel, OneLineParser, find_model_folder, name_of
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.grading.credit import CreditConfig
from wideseek.model.config import load_config
from wideseek.model.qwen3 import Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model
from wideseek.worlds.tasks import make_tasks

PRESETS = Path(__file__).parent / "presets"
MOST_FAILED = 0.5
"""A step of which a larger share of rollouts failed for no fault of the policy ends the run: something is down."""
GRACE_SECONDS = 60.0
"""A collective waits so much longer than `step_seconds`: the rank that lags tells where it stands first."""


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
    data: str = ""  # FILE:SHARE,... of questions from data sets; the others are worlds
    corpus: str = (
        ""  # what these are looked up in, a .sqlite or .sqlite.xz file; empty: the bundled corpus
    )
    baseline: Baseline = "normalized"
    share: Share = "outcome"
    turns: Turns = "all"  # "reference": those its rules train, with the rewards they pay
    frozen: Frozen = "none"  # a role that frozen_model plays and nobody trains
    frozen_model: str = ""
    wandb: bool = False
    rollout_seconds: float = 1800.0  # a rollout that takes longer ends with what it has
    step_seconds: float = 14400.0  # a rank whose step takes longer tells where it stands and ends
    collect: CollectConfig = field(default_factory=CollectConfig)
    limits: Limits = field(default_factory=Limits)
    credit: CreditConfig = field(default_factory=CreditConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("save_steps", 1), ("eval_steps", 0), ("eval_tasks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.frozen_model and self.frozen == "none":
            raise ValueError(f"frozen_model {self.frozen_model!r} needs a frozen role, lead or sub")
        if self.corpus and not self.data:
            raise ValueError(f"corpus {self.corpus!r} needs data to be looked up in it")
        for name in ("rollout_seconds", "step_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.trainer.token_budget < self.limits.seq_length:
            raise ValueError(
                f"trainer.token_budget {self.trainer.token_budget} must hold "
                f"limits.seq_length {self.limits.seq_length} tokens"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is to be, read and checked before anything is written. settings: what must stay to go on with it."""

    config: RlConfig
    settings: dict[str, Any]
    out: Path
    start: Path
    renderer: Renderer
    tasks: TaskSource
    checkpoint: Path | None


@dataclass(kw_only=True)
class Run:
    """A run that is under way on this rank; `log` is None on all but the first.

    other: the model of a frozen role. history: the lines of metrics.jsonl so far. cursor: how far data sets were read.
    saved_weights: hash of the weights at the last checkpoint or start.
    """

    plan: Plan
    ranks: Ranks
    trainer: Trainer
    engine: Engine
    other: LocalModel | None
    collector: Collector
    held_out: list[TrainTask]
    log: MetricsLog | None
    history: list[dict[str, float]]
    cursor: Mapping[str, int]
    best_f1: float
    saved_weights: str

    def collect(self) -> list[GradedGroup]:
        """This rank's groups of the next step; the engines sleep when all ranks have theirs."""
        step = self.trainer.steps_done
        groups = self.collector.collect(step, self.cursor, self.saved_weights)
        self.engine.sleep(drop_weights=True)
        if self.other is not None:
            self.other.engine.sleep()
        return groups

    def check(
        self, groups: list[GradedGroup], samples: dict[int, list[Sample]]
    ) -> dict[str, float]:
        """What the rollouts were like; the run ends, before a step is taken, where too many failed."""
        values = measure_rollouts(groups, samples)
        if (failed := failed_share(values)) > MOST_FAILED:
            self.ranks.stop(
                f"step {self.trainer.steps_done}: {failed:.0%} of rollouts got no reward; see traces"
            )
        drawn = int(values["critic/groups/drawn"])
        self.cursor = self.collector.tasks.advance(self.trainer.steps_done, drawn, self.cursor)
        return values

    def sync(self) -> SyncReport:
        """New weights to this rank's engine, and all engines awake."""
        synced = weight_sync(self.trainer, self.engine)
        if self.other is not None:
            self.other.engine.wake()
        return synced

    def evaluate(self) -> dict[str, float]:
        """Scores on the held-out worlds. The best weights are kept, as a folder, among those scored on all of them."""
        scores = measure_evaluation(self.collector.evaluate(self.held_out))
        if scores[SCORED] == len(self.held_out) and scores[ITEM_F1] > self.best_f1:
            self.best_f1 = scores[ITEM_F1]
            export(self.trainer, self.plan.start, self.plan.out / "best")
        return scores

    def record(self, values: Mapping[str, float], rollouts: Sequence[Row] = ()) -> None:
        """A line of metrics.jsonl, and one for who watches."""
        line = {STEP: self.trainer.steps_done, **values}
        line["perf/max_memory_gb"] = max_over_ranks(peak_memory_gb())
        self.history.append(line)
        if self.log is not None:
            self.log.write(line, rollouts)
            shown = ("critic/rewards/mean", "actor/grad_norm", ITEM_F1)
            told = ", ".join(f"{name} {line[name]:.4g}" for name in shown if name in line)
            print(f"step {self.trainer.steps_done}: {told}", file=sys.stderr, flush=True)

    def save(self, folder: str) -> Path:
        """A checkpoint; traces name the weights of the last one."""
        self.saved_weights = weights_sha256(self.engine.model)
        target = self.plan.out / folder
        return save_checkpoint(self.trainer, target, self.plan.settings, self.best_f1, self.cursor)

    def watch_for_collapse(self) -> None:
        """Keep a snapshot and end the run once a monitor has tripped."""
        if collapse := find_collapse(self.plan.config.collapse, self.history):
            snapshot = self.save("collapsed")
            self.report()
            self.ranks.stop(f"step {self.trainer.steps_done}: collapse, {collapse}; see {snapshot}")

    def report(self) -> None:
        if self.log is not None:
            write_report(self.plan.out)

    def close(self) -> None:
        self.engine.close()
        if self.other is not None:
            self.other.engine.close()
        if self.log is not None:
            self.log.close()
        torch.distributed.destroy_process_group()


def read_plan(options: argparse.Namespace, ranks: Ranks) -> Plan:
    """From the command line to a Plan; ValueError for all that is wrong with what was asked."""
    config = load_settings(RlConfig, options.words, read_preset(PRESETS, options.preset))
    check_ranks(config.trainer, ranks.count, int(os.environ.get("LOCAL_RANK", "0")))
    start = find_model_folder(config.model or None)
    shape = load_config(start)
    memory = rank_memory_gb(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    check_memory(shape, config.trainer, config.engine, ranks.count, memory)
    data = read_mixture(config.data, Path(config.corpus) if config.corpus else None)
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "wandb")}
    settings["data_sha256"] = {one.name: one.sha256 for one in data}
    out = Path(config.out or f"runs/{Path(options.preset).stem}")
    check_folder(out, settings)
    if (checkpoint := latest_checkpoint(out / "checkpoints")) is not None:
        check_checkpoint(checkpoint, settings, shape)
    if options.export is not None and (checkpoint is None or options.export.exists()):
        reason = "no checkpoint yet" if checkpoint is None else f"{options.export} exists"
        raise ValueError(f"nothing to export from {out}: {reason}")
    worlds = (config.collect.min_rows, config.collect.max_rows)
    return Plan(
        config=config,
        settings=settings,
        out=out,
        start=start,
        renderer=Renderer.load(start),
        tasks=TaskSource(seed=config.seed, rows=worlds, data=data),
        checkpoint=checkpoint,
    )


def load_weights(config: RlConfig, folder: Path) -> tuple[Qwen3, Qwen3 | None]:
    """The weights of a folder in fp32, and once more where the KL term needs a reference."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    needs_reference = config.loss.kl_coefficient > 0
    model = load_model(folder, torch.float32, device)
    return model, load_model(folder, torch.float32, device) if needs_reference else None


def open_trainer(plan: Plan, ranks: Ranks) -> tuple[Trainer, float, dict[str, int]]:
    """The trainer where the run stands, with its best score and the cursor of its data sets; joins the ranks."""
    config = plan.config
    join(ranks, config.step_seconds + GRACE_SECONDS)
    model, reference = ranks.together("weights", lambda: load_weights(config, plan.start))
    trainer = Trainer(model, config.trainer, config.loss, steps=config.steps, reference=reference)
    if plan.checkpoint is None:
        return trainer, -1.0, {}
    state = load_checkpoint(trainer, plan.checkpoint, plan.settings)
    return trainer, state.best_f1, state.cursor


def open_models(plan: Plan) -> tuple[LocalModel, LocalModel | None]:
    """This rank's engine of the policy, and one of the model that plays the frozen role."""
    config = plan.config
    engine = Engine.load(plan.start, config.engine)
    policy = LocalModel(name_of(config.model or None), plan.renderer, engine)
    if config.frozen == "none":
        return policy, None
    name = config.frozen_model or None
    return policy, LocalModel.load(find_model_folder(name), config.engine, name_of(name))


def open_run(plan: Plan, ranks: Ranks) -> Run:
    """Everything a run works with, where it stopped; a rank that cannot open its part ends all of them."""
    config, out = plan.config, plan.out
    trainer, best_f1, cursor = open_trainer(plan, ranks)
    policy, other = ranks.together("engine", lambda: open_models(plan))
    weight_sync(trainer, policy.engine)
    weights = weights_sha256(policy.engine.model)

    def open_folder() -> MetricsLog | None:
        if ranks.rank > 0:
            return None
        claim_folder(out, plan.settings)
        drop_traces_after(out / "traces", trainer.steps_done, weights)
        return MetricsLog(out, trainer.steps_done, plan.settings, wandb=config.wandb)

    log = ranks.together("folder", open_folder)
    history = read_metrics(out / "metrics.jsonl")
    if trainer.steps_done == 0 and history and history[0].get(SCORED) == config.eval_tasks:
        best_f1 = history[0][ITEM_F1]
    return Run(
        plan=plan,
        ranks=ranks,
        trainer=trainer,
        engine=policy.engine,
        other=other,
        collector=Collector(
            config=config.collect,
            tasks=plan.tasks,
            limits=config.limits,
            credit=config.credit,
            turns=config.turns,
            lead=other if other and config.frozen == "lead" else policy,
            sub=other if other and config.frozen == "sub" else policy,
            store=PrefixStore("questions", ranks.store),
            traces=out / "traces",
            rollout_seconds=config.rollout_seconds,
            rank=ranks.rank,
            num_ranks=ranks.count,
        ),
        held_out=[from_world(w) for w in make_tasks("test", config.eval_tasks, 0, plan.tasks.rows)],
        log=log,
        history=history,
        cursor=cursor,
        best_f1=best_f1,
        saved_weights=weights,
    )


def train(run: Run) -> None:
    """All steps that are left: collect, assign advantages, pack, step, sync."""
    config, trainer = run.plan.config, run.trainer
    if config.eval_steps and trainer.steps_done == 0 and not run.history:
        watch = Stopwatch(config.step_seconds)
        scores = run.evaluate()
        watch.lap("testing")
        watch.stop()
        run.record(scores | watch.seconds)
    while trainer.steps_done < config.steps:
        watch = Stopwatch(config.step_seconds)
        idle = run.engine.stats()
        groups = run.collect()
        watch.lap("gen")
        served = measure_engine(idle, run.engine.stats(), watch.seconds["timing_s/gen"])
        samples = assign_advantages(
            groups,
            baseline=config.baseline,
            share=config.share,
            num_rollouts=config.collect.num_rollouts,
            credit=config.credit,
            turns=config.turns,
            frozen=config.frozen,
        )
        values = served | run.check(groups, samples)
        batch = make_batch(
            samples,
            token_budget=config.trainer.token_budget,
            hidden_size=trainer.model_config.hidden_size,
        )
        report = trainer.step(batch)
        watch.lap("update_actor")
        synced = run.sync()
        watch.lap("update_weights")
        values |= measure_step(report, synced, batch.num_samples)
        if config.eval_steps and trainer.steps_done % config.eval_steps == 0:
            values |= run.evaluate()
            watch.lap("testing")
        values["perf/throughput"] = report.tokens / watch.seconds["timing_s/step"]
        run.record(values | watch.seconds, sample_rollouts(groups))
        run.watch_for_collapse()
        if trainer.steps_done % config.save_steps == 0 or trainer.steps_done == config.steps:
            run.save("checkpoints")
        watch.stop()
    run.report()


def main() -> None:
    parser = OneLineParser(prog="train", description=__doc__.splitlines()[0])
    parser.add_argument("preset", metavar="PRESET")
    parser.add_argument("words", metavar="key=value", nargs="*")
    parser.add_argument("--export", metavar="FOLDER", type=Path)
    options = parser.parse_intermixed_args()
    ranks = meet()
    plan = ranks.together("settings", lambda: read_plan(options, ranks))
    try:
        if options.export is not None:
            export(open_trainer(plan, ranks)[0], plan.start, options.export)
            return
        run = open_run(plan, ranks)
        train(run)
        run.close()
    except (ValueError, OSError) as error:
        ranks.fail(str(error), 1)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    main()

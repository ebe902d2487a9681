"""What a step is measured by: names with units in one table, and the log that takes nothing else.

metrics.jsonl is the record, a line a step, rollouts.jsonl a few rollouts of each; Weights & Biases mirrors both. Words
are those of verl and RLinf. A number that is not finite is null in the record, and NaN again when read.
"""

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wideseek_train.batch import ROLES

STEP = "training/global_step"

METRICS = {
    STEP: "optimizer steps done",
    "critic/rewards/mean": "reward a scored rollout",
    "critic/score/mean": "item F1 a scored rollout",
    "critic/score/row_f1": "row F1 a scored rollout",
    "critic/groups/with_signal": "questions whose attempts differed in reward",
    "critic/groups/drawn": "questions asked",
    "actor/pg_loss": "nats, weighted sum",
    "actor/kl_loss": "nats, weighted sum of k3 to the reference model",
    "actor/entropy": "nats a token",
    "actor/ratio": "new to old probability, mean over tokens",
    "actor/pg_clipfrac": "share of tokens the clip held",
    "actor/ppo_kl": "nats a token, old minus new log-probability",
    "actor/grad_norm": "before clipping; null in metrics.jsonl if not finite",
    **{f"actor/grad_norm/{role}": "of the part its turns gave, before clipping" for role in ROLES},
    "actor/lr": "learning rate",
    "actor/skipped": "1 if the gradient was not finite and nothing moved",
    "actor/tokens": "trained tokens",
    "actor/computed_tokens": "rows through the model, a shared prefix once, empty passes too",
    "actor/samples": "trained trajectories",
    "actor/micro_batches": "passes of each rank",
    "mismatch/mean": "nats a token, |trainer - engine| log-probability",
    "mismatch/p99_9": "nats, the largest of any rank's",
    "mismatch/max": "nats",
    "mismatch/kl": "nats a token, from engine to trainer",
    "rollouts/scored": "rollouts with a reward",
    "rollouts/failed": "rollouts without one, for no fault of the policy",
    "rollouts/answered": "share of scored rollouts with an answer of the right form",
    "rollouts/overlong": "mean penalty for an overlong turn",
    "rollouts/repeating": "share of turns that mostly say what they have said before",
    "response_length/mean": "sampled tokens a turn",
    "response_length/max": "sampled tokens",
    "wideseek_r1/traj/mean/subtask": "subagents asked for, a rollout",
    "wideseek_r1/traj/mean/search": "searches, a rollout",
    "wideseek_r1/traj/mean/access": "pages opened, a rollout",
    "wideseek_r1/avg_num_subagents_per_traj": "subagents run, a rollout",
    **{f"tools/failed/{role}": "share of its tool calls that gave nothing" for role in ROLES},
    **{f"critic/rewards/{role}": "reward of its rollout, mean over agents" for role in ROLES},
    **{f"num_turns/{role}": "turns an agent" for role in ROLES},
    **{f"tokens/{role}": "sampled tokens an agent" for role in ROLES},
    **{f"weight/{role}": "sum of token weights" for role in ROLES},
    **{f"credit/{role}": "sum of token weights times |advantage|" for role in ROLES},
    **{f"ended/{role}": "share of agents that ended with an answer" for role in ROLES},
    "val-core/worlds/scored": "held-out questions with a score",
    "val-core/worlds/item_f1/mean@1": "greedy, on unseen worlds",
    "val-core/worlds/row_f1/mean@1": "greedy, on unseen worlds",
    "engine/generated_tokens": "tokens sampled by all ranks' engines, evaluation excepted",
    "engine/throughput": "sampled tokens a second of rollouts",
    "engine/prefill_tokens": "prompt tokens computed",
    "engine/prefix_hit_rate": "share of the prefill that was found instead of computed",
    "engine/acceptance": "share of guessed tokens that came true",
    "engine/preemptions": "sequences sent back for want of pages",
    "engine/inter_token_p99": "seconds from one token to the next, the slowest rank's",
    "timing_s/gen": "seconds of rollouts",
    "timing_s/update_actor": "seconds of the optimizer step, packing included",
    "timing_s/update_weights": "seconds of weight sync",
    "timing_s/testing": "seconds of evaluation",
    "timing_s/step": "seconds in all",
    "perf/sync_gb_per_s": "gigabytes a second into the engine",
    "perf/throughput": "trained tokens a second of the step",
    "perf/max_memory_gb": "largest memory of a rank, of its GPU or else of its process, in GiB",
}
"""Name -> unit and meaning of every number a run may log."""


class MetricsLog:
    """metrics.jsonl and rollouts.jsonl of a run, and their mirror. Only rank 0 keeps one."""

    def __init__(
        self, out: Path, steps_done: int, config: Mapping[str, Any], *, wandb: bool
    ) -> None:
        """Goes on after `steps_done` steps: lines of later ones, which a kill undid, are dropped.

        ValueError if wandb is asked for and cannot be had.
        """
        self._numbers, self._rollouts = out / "metrics.jsonl", out / "rollouts.jsonl"
        for path, step in ((self._numbers, STEP), (self._rollouts, "step")):
            kept = [line for line in read_lines(path) if line[step] <= steps_done]
            partial = path.with_suffix(".part")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            partial.replace(path)
        self._mirror = _open_wandb(out, config) if wandb else None

    def write(
        self, values: Mapping[str, float], rollouts: Sequence[Mapping[str, str | float]] = ()
    ) -> None:
        """One step, and rows of its table of rollouts. KeyError for a name that is not registered."""
        line = {name: values[name] for name in METRICS if name in values}
        if unknown := values.keys() - line.keys():
            raise KeyError(f"unregistered metrics: {', '.join(sorted(unknown))}")
        record = {name: value if math.isfinite(value) else None for name, value in line.items()}
        _append(self._rollouts, rollouts)
        _append(self._numbers, [record])
        if self._mirror is not None:
            shown: dict[str, Any] = dict(line)
            if rollouts:
                shown["rollouts"] = self._table(rollouts)
            self._mirror.log(shown)

    def close(self) -> None:
        if self._mirror is not None:
            self._mirror.finish()

    def _table(self, rollouts: Sequence[Mapping[str, str | float]]) -> Any:
        rows = [list(row.values()) for row in rollouts]
        return importlib.import_module("wandb").Table(columns=list(rollouts[0]), data=rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, without one that was torn; none where there is no file."""
    return [
        {name: math.nan if value is None else value for name, value in line.items()}
        for line in read_lines(path)
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; none where there is no file."""
    *lines, _torn = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines]


def _append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def _open_wandb(out: Path, config: Mapping[str, Any]) -> Any:
    """A W&B run, offline unless WANDB_MODE says otherwise; it goes on under the name of the folder.

    ValueError if the package is missing or its server cannot be reached.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("wandb true needs the package wandb, which is not installed")
    wandb = importlib.import_module("wandb")
    try:
        run = wandb.init(
            id=out.resolve().name,
            resume="allow",
            dir=str(out),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
    except wandb.Error as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"W&B: {first}; WANDB_MODE=offline needs no server") from None
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run

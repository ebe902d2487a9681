"""Traces: one JSON line a finished rollout, from which its optimizer step can be computed again without tools.

Files are `step-000012-rank3.jsonl`. Token ids and log-probabilities come back bit for bit; a line that a kill tore is
cut off. Every line names the weights it was sampled from, as `weights_sha256` tells them, with the steps taken since.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from wideseek.generation import Completion
from wideseek.line_file import LineFile
from wideseek.trajectory import End, Rollout, ToolCall, Trajectory, Turn
from wideseek_train.graded import Graded, Reward, Unscored


class TraceFile:
    """Where one rank streams the rollouts of one step; kept open while they run."""

    def __init__(self, folder: Path, step: int, rank: int, weights: str = "") -> None:
        self._weights = weights
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = LineFile(folder / f"step-{step:06d}-rank{rank}.jsonl")

    def write(self, graded: Graded) -> None:
        """Append one rollout; OSError where it does not go on the disk whole."""
        record = {"weights": self._weights} | asdict(graded)
        self._lines.append(json.dumps(record, allow_nan=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self._lines.close()


def read_traces(folder: Path, step: int) -> dict[tuple[int, int], Graded]:
    """The rollouts of a step that any rank has finished, by (question, attempt).

    ValueError names the file and line of what is not a trace.
    """
    found: dict[tuple[int, int], Graded] = {}
    for path in sorted(folder.glob(f"step-{step:06d}-rank*.jsonl")):
        *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            graded = _read_line(path, number, line)
            found[graded.question, graded.attempt] = graded
    return found


def read_trace_heads(folder: Path, count: int) -> list[Graded]:
    """The first rollouts of the newest step that has any, at most `count` of each rank's; errors as above."""
    steps = {int(path.name.split("-")[1]) for path in folder.glob("step-*-rank*.jsonl")}
    for step in sorted(steps, reverse=True):
        found = []
        for path in sorted(folder.glob(f"step-{step:06d}-rank*.jsonl")):
            with path.open("rb") as file:
                lines = [line for line in islice(file, count) if line.endswith(b"\n")]
            found += [_read_line(path, number, line) for number, line in enumerate(lines, 1)]
        if found:
            return found
    return []


def drop_traces_after(folder: Path, step: int, weights: str = "") -> None:
    """Delete the traces of steps beyond `step`: the weights they were sampled from are lost.

    Of `step` itself, which goes on, those that other weights than `weights` sampled, and those without a reward: what
    was down then is asked again.
    """
    for path in folder.glob("step-*-rank*.jsonl"):
        if int(path.name.split("-")[1]) > step:
            path.unlink()
        elif int(path.name.split("-")[1]) == step:
            *lines, _torn = path.read_bytes().split(b"\n")
            kept = [line + b"\n" for line in lines if _is_of_use(path, line, weights)]
            partial = path.with_suffix(".part")
            partial.write_bytes(b"".join(kept))
            partial.replace(path)


def _read_line(path: Path, number: int, line: bytes) -> Graded:
    try:
        return _read_graded(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} line {number}: not a trace, {error!r}") from None


def _is_of_use(path: Path, line: bytes, weights: str) -> bool:
    try:
        record = json.loads(line)
        return "value" in record["reward"] and record["weights"] == weights
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a trace, {error!r}") from None


def weights_sha256(model: nn.Module) -> str:
    """Hash of a model's parameters as they are held, the same on every machine and any number of ranks."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_graded(record: dict[str, Any]) -> Graded:
    reward = record["reward"]
    own = {name: value for name, value in record.items() if name != "weights"}
    return Graded(
        **own
        | {
            "reward": Reward(**reward) if "value" in reward else Unscored(**reward),
            "rollout": read_rollout(record["rollout"]),
        }
    )


def read_rollout(record: Mapping[str, Any]) -> Rollout:
    """The Rollout of which `asdict` gave this record."""
    trajectories = tuple(_read_trajectory(part) for part in record["trajectories"])
    return Rollout(**{**record, "trajectories": trajectories})


def _read_trajectory(record: Mapping[str, Any]) -> Trajectory:
    return Trajectory(
        **{
            **record,
            "prompt_token_ids": tuple(record["prompt_token_ids"]),
            "turns": tuple(_read_turn(turn) for turn in record["turns"]),
            "end": End(record["end"]),
        }
    )


def _read_turn(record: Mapping[str, Any]) -> Turn:
    completion = record["completion"]
    if completion is not None:
        values: dict[str, Any] = dict(completion)
        values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        completion = Completion(**values)
    return Turn(
        **{
            **record,
            "completion": completion,
            "calls": tuple(ToolCall(**call) for call in record["calls"]),
            "tool_token_ids": tuple(record["tool_token_ids"]),
        }
    )

"""Checkpoints: `step-000010/` holds sharded weights and moments (torch.distributed.checkpoint) and `state.json`.

A folder appears whole or not at all. It says all that a run goes on from: the schedule follows from the step, the next
questions from the step and the cursor of the data sets, and every draw from the seed and the step, so that no
generator's state is worth keeping. Ranks may be more or fewer on the next start.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from wideseek.model.config import ModelConfig
from wideseek.model.renderer import copy_tokenizer
from wideseek.model.weights import save_model
from wideseek_train.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Beside weights and moments: steps done, the settings they were done with, the model's shape, the best evaluation.

    best_f1 is -1 before the first evaluation. cursor: how far each data set was read.
    """

    steps_done: int
    config: dict[str, Any]
    config_sha256: str
    model: dict[str, Any]
    best_f1: float
    cursor: dict[str, int] = field(default_factory=dict)


def sha256_of(config: Mapping[str, Any]) -> str:
    """Hash of resolved settings."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    trainer: Trainer,
    folder: Path,
    config: dict[str, Any],
    best_f1: float,
    cursor: Mapping[str, int] | None = None,
    keep: int = 2,
) -> Path:
    """Write `folder`/step-N; the newest `keep` stay. A collective call on a folder that all ranks see."""
    target = folder / f"step-{trainer.steps_done:06d}"
    partial = target.with_suffix(".part")
    if dist.get_rank() == 0 and partial.exists():
        shutil.rmtree(partial)
    dist.barrier()
    save(trainer.state(), checkpoint_id=partial)
    if dist.get_rank() == 0:
        state = RunState(
            steps_done=trainer.steps_done,
            config=config,
            config_sha256=sha256_of(config),
            model=trainer.model_config.to_dict(),
            best_f1=best_f1,
            cursor=dict(cursor or {}),
        )
        (partial / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the most steps."""
    return next(reversed(_checkpoints(folder)), None)


def load_checkpoint(trainer: Trainer, checkpoint: Path, config: Mapping[str, Any]) -> RunState:
    """Put weights, moments and step back into `trainer`; a collective call. Errors as of `check_checkpoint`."""
    state = check_checkpoint(checkpoint, config, trainer.model_config)
    load(trainer.state(), checkpoint_id=checkpoint)
    trainer.steps_done = state.steps_done
    return state


def check_checkpoint(checkpoint: Path, config: Mapping[str, Any], model: ModelConfig) -> RunState:
    """What a checkpoint is of. ValueError for other settings than the checkpoint's or another model."""
    state = read_state(checkpoint)
    if state.config_sha256 != sha256_of(config):
        raise ValueError(f"{checkpoint} was made with {first_difference(state.config, config)}")
    if state.model != model.to_dict():
        raise ValueError(
            f"{checkpoint} holds another model, with {first_difference(state.model, model.to_dict())}"
        )
    return state


def check_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """ValueError if a run was begun in `out` with other settings; nothing is written."""
    path = out / "config.json"
    if path.exists() and (begun := json.loads(path.read_text())) != settings:
        raise ValueError(
            f"{out} was begun with {first_difference(begun, settings)}: choose another out"
        )


def claim_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in its folder, once."""
    path = out / "config.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.replace(path)


def read_state(checkpoint: Path) -> RunState:
    """ValueError names a file that is not a checkpoint's."""
    try:
        return RunState(**json.loads((checkpoint / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{checkpoint / 'state.json'} cannot be read: {error}") from None


def export(trainer: Trainer, start: Path, folder: Path) -> None:
    """Write the trainer's weights as a Hugging Face folder with the tokenizer of `start`; a collective call.

    Weights keep the number format that config.json of `start` names. The folder appears whole, and one that it replaces
    goes after that.
    """
    whole = trainer.whole_model()
    if whole is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: what lies beside the folder belongs to somebody.
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            made, old = Path(place) / "new", Path(place) / "old"
            save_model(whole, made, getattr(torch, trainer.model_config.dtype))
            copy_tokenizer(start, made)
            if folder.exists():
                folder.rename(old)
            made.rename(folder)
    dist.barrier()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if not path.suffix)


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first name whose values differ, both named; tables are looked into."""
    for name in sorted(theirs.keys() | ours.keys()):
        old, new = theirs.get(name), ours.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old != new:
            return f"{name}.{first_difference(old, new)}"
        if old != new:
            return f"{name} {old!r}, not {new!r}"
    return "the same settings, but its hash differs"

"""New weights from the trainer to the engine of the same process, a block at a time."""

import time
from dataclasses import dataclass

import torch

from wideseek.engine.engine import Engine
from wideseek_train.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncReport:
    """What one transfer took: wall seconds, and bytes as the engine holds them."""

    seconds: float
    num_bytes: int

    @property
    def gigabytes_per_second(self) -> float:
        return self.num_bytes / 1e9 / max(self.seconds, 1e-9)


def weight_sync(trainer: Trainer, engine: Engine) -> SyncReport:
    """Make the trainer's weights the engine's next version, and wake it if it sleeps; a collective call.

    One gather a block. For a moment there are two copies of the engine's weights: it takes over all or nothing.
    """
    began = time.perf_counter()
    engine.wake(trainer.whole_tensors())
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()  # else only the launches were timed
    num_bytes = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    return SyncReport(seconds=time.perf_counter() - began, num_bytes=num_bytes)

"""Tensor parallelism: one Engine whose model, too large for one device, is split over the ranks of torchrun."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.model_runner import ModelRunner, kv_pages_that_fit, placement
from wideseek.engine.rank_group import Command, RankGroup
from wideseek.engine.step_inputs import StepInputs
from wideseek.engine.stop_text import Decode
from wideseek.engine.weight_swap import WeightSwap
from wideseek.model.qwen3 import Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.shard import Shard, sum_over_ranks
from wideseek.model.weights import load_model

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another: they need not have read their weights at the same moment."""


def load_over_ranks(
    path: str | Path, config: EngineConfig | None = None, timeout: timedelta = TIMEOUT
) -> Engine | None:
    """Serve a Hugging Face folder with all ranks of a process group, each with its part of every layer.

    Every rank calls it with the same arguments. On rank 0 it returns the Engine, which schedules, samples and answers;
    on the others it computes along and returns None once that Engine is closed. kv_memory_gb is what each rank takes.
    ValueError as in `Engine.load`, and for a model that cannot be split into so many parts. RuntimeError, on rank 0 in
    every call of the Engine, when another rank is lost, at the latest after `timeout`.
    """
    config = config or EngineConfig()
    device, dtype = placement(config)
    with ExitStack() as leaving:
        group = RankGroup(device, timeout)
        leaving.callback(group.leave)  # or the others would wait for a rank that failed
        shard = Shard(group.rank, group.size)
        model = load_model(path, dtype, group.device, shard)
        sum_over_ranks(model, group.sum)
        context = config.max_model_len or model.config.max_positions
        num_pages = group.least(kv_pages_that_fit(model, config, context))
        config = replace(config, num_pages=num_pages, kv_memory_gb=None)
        if group.rank > 0:
            runner = RankRunner(model, config, num_pages)
            _follow(group, runner, RankWeights(model, group))
            return None
        engine = LeadingEngine(model, group, config, Renderer.load(path).decode)
        leaving.pop_all()  # the Engine leaves when it is closed
        return engine


class RankRunner(ModelRunner):
    """The ModelRunner of one rank, with the keys and values of its own heads.

    Without CUDA graphs: ranks would have to capture the same ones at the same step, sums between them included.
    """

    def _new_graphs(self) -> None:
        return None


class LeadingRunner(RankRunner):
    """Rank 0's: whatever it does, the others do as well. Logits and sampling are its own."""

    def __init__(
        self, model: Qwen3, group: RankGroup, config: EngineConfig, num_pages: int
    ) -> None:
        super().__init__(model, config, num_pages)
        self._group = group

    def forward(self, inputs: StepInputs) -> Tensor:
        with self._group.command(Command.FORWARD, inputs.packed()):
            return super().forward(inputs)

    def clear(self) -> None:
        with self._group.command(Command.CLEAR):
            super().clear()

    def free_kv(self) -> None:
        with self._group.command(Command.FREE_KV):
            super().free_kv()

    def restore_kv(self) -> None:
        with self._group.command(Command.RESTORE_KV):
            super().restore_kv()


class RankWeights(WeightSwap):
    """The parameters of one rank, replaced by its parts of whole tensors that rank 0 has staged.

    Nothing is sent before all are checked. Until then rank 0 holds them in host memory; then they pass one at a time
    through every rank's device.
    """

    def __init__(self, model: Qwen3, group: RankGroup) -> None:
        super().__init__(model)
        self._group, self._shard = group, Shard(group.rank, group.size)
        self._shapes = {
            name: torch.Size(self._shard.whole_shape(name, shape))
            for name, shape in self._shapes.items()
        }

    def swap(self, staged: Mapping[str, Tensor]) -> None:
        """Take over the parts of what rank 0 staged; the others have nothing to give."""
        self._fill((name, self._part(name, staged.get(name))) for name in self._parameters)

    def _stageable(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        return tensor.detach().to("cpu", parameter.dtype)

    def _part(self, name: str, staged: Tensor | None) -> Tensor:
        shape = self._shapes[name]
        whole = self._parameters[name].new_empty(shape)
        if staged is not None:
            whole.copy_(staged)
        self._group.share(whole)
        return whole[self._shard.index(name, shape)]


class LeadingWeights(RankWeights):
    """Rank 0's: the others swap and drop with it."""

    def swap(self, staged: Mapping[str, Tensor]) -> None:
        with self._group.command(Command.SWAP):
            super().swap(staged)

    def drop(self) -> None:
        with self._group.command(Command.DROP):
            super().drop()


class LeadingEngine(Engine):
    """An Engine whose model the other ranks of `group` hold parts of."""

    def __init__(
        self, model: Qwen3, group: RankGroup, config: EngineConfig, decode: Decode
    ) -> None:
        self._group = group
        super().__init__(model, config, decode)
        group.keep_alive()

    def close(self) -> None:
        """Stop after the running step, calls still waiting fail, and the other ranks return."""
        super().close()
        self._group.close()

    def _parts(
        self, model: Qwen3, config: EngineConfig, num_pages: int
    ) -> tuple[ModelRunner, WeightSwap]:
        runner = LeadingRunner(model, self._group, config, num_pages)
        return runner, LeadingWeights(model, self._group)


def _follow(group: RankGroup, runner: RankRunner, weights: RankWeights) -> None:
    """Do what rank 0 does, until it closes; RuntimeError if it is lost."""
    while True:
        command, payload = group.heard()
        match command:
            case Command.BEAT:
                pass
            case Command.FORWARD:
                runner.forward(StepInputs.unpacked(payload))
            case Command.CLEAR:
                runner.clear()
            case Command.FREE_KV:
                runner.free_kv()
            case Command.RESTORE_KV:
                runner.restore_kv()
            case Command.SWAP:
                weights.swap({})
            case Command.DROP:
                weights.drop()
            case Command.CLOSE:
                return

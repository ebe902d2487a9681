"""Muon: close to torch's own, and the same steps however many ranks share the work."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from wideseek_train.muon import Muon, orthogonalize

SHAPES = ((24, 40), (40, 24), (24, 40), (16, 16))


def test_singular_values_end_near_one() -> None:
    for shape in ((2, 64, 48), (3, 48, 64)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(matrices))
        assert values.min() > 0.5 and values.max() < 1.3


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def three_steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    for step in range(3):
        for parameter, grad in zip(parameters, gradients(step), strict=True):
            parameter.grad = grad
        optimizer.step()


def start() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(weight) for weight in gradients(99)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_torch_within_bf16(dtype: torch.dtype) -> None:
    ours, theirs = start(), start()
    three_steps(Muon(ours, lr=0.02, dtype=dtype), ours)
    options = {"weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    three_steps(torch.optim.Muon(theirs, lr=0.02, **options), theirs)  # type: ignore[arg-type]
    for a, b, first in zip(ours, theirs, start(), strict=True):
        moved = (b - first).norm()
        assert (a - b).norm() < 0.02 * moved and moved > 0.1


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="params must be matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def on_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    parameters = start()
    three_steps(Muon(parameters, lr=0.02), parameters)
    torch.save([p.detach() for p in parameters], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_work_and_agree(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.spawn(on_rank, (port, str(tmp_path)), nprocs=2)
    alone = start()
    three_steps(Muon(alone, lr=0.02), alone)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for a, b in zip(alone, shared, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=1e-5, atol=1e-6)

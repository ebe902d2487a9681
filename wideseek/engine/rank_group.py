"""RankGroup: the processes that compute one model, what rank 0 tells the others, and what all add up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

BEATS = 4
"""Signs of life of an idle rank 0 within the time after which the others give it up."""


class Command(IntEnum):
    """What every rank is to do next."""

    BEAT = 0  # nothing: rank 0 lives
    FORWARD = 1
    CLEAR = 2
    FREE_KV = 3
    RESTORE_KV = 4
    SWAP = 5
    DROP = 6
    CLOSE = 7


class RankGroup:
    """Rank 0 commands, from any thread and one command at a time; the others hear commands in order.

    Commands are integers and travel through gloo, no pickles; tensors of a CUDA device through NCCL. A rank that waits
    for another longer than `timeout`, or finds its connection closed, gets a RuntimeError and must leave. So does rank
    0 after a command that it could not finish: nobody knows any more what the others are doing.
    """

    def __init__(self, device: str, timeout: timedelta) -> None:
        """Join the default process group, or begin the one that torchrun's environment describes.

        On CUDA this rank takes, and makes current, the device of its number on this machine.
        """
        on_cuda = torch.device(device).type == "cuda"
        self._began = not dist.is_initialized()
        if self._began:
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        if on_cuda:
            self.device = f"cuda:{dist.get_node_local_rank(fallback_rank=self.rank)}"
            torch.cuda.set_device(self.device)
        self._timeout = timeout
        self._group = dist.new_group(timeout=timeout)
        self._lock = threading.Lock()
        self._in_step = True
        self._left = threading.Event()

    def sum(self, x: Tensor) -> None:
        """Put the sum over all ranks into x, the same bits on each."""
        dist.all_reduce(x, group=self._group)

    def least(self, value: int) -> int:
        """The smallest of what the ranks have."""
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self._group)
        return int(found)

    def share(self, x: Tensor) -> None:
        """Overwrite x, of one shape and dtype everywhere, with what rank 0 has."""
        dist.broadcast(x, group=self._group, group_src=0)

    @contextmanager
    def command(
        self, command: Command, payload: npt.NDArray[np.int64] | None = None
    ) -> Iterator[None]:
        """Have the others do what the body does here. RuntimeError if a rank is lost."""
        payload = np.empty(0, np.int64) if payload is None else payload
        with self._lock:
            if not self._in_step:
                raise RuntimeError("a rank of the model is lost")
            self._in_step = False  # until the command has been carried out
            self.share(torch.tensor([command, len(payload)]))
            if len(payload):
                self.share(torch.from_numpy(payload))
            yield
            self._in_step = True

    def heard(self) -> tuple[Command, npt.NDArray[np.int64]]:
        """Rank 0's next command, waited for, and its payload."""
        header = torch.empty(2, dtype=torch.int64)
        self.share(header)
        payload = torch.empty(int(header[1]), dtype=torch.int64)
        if len(payload):
            self.share(payload)
        return Command(int(header[0])), payload.numpy()

    def keep_alive(self) -> None:
        """On rank 0: let the others know from now on, whenever there is nothing to do, that it lives."""
        threading.Thread(target=self._beat, name="rank group", daemon=True).start()

    def _beat(self) -> None:
        while not self._left.wait(self._timeout.total_seconds() / BEATS):
            # Whoever gives the next command hears of a lost rank.
            with suppress(RuntimeError), self.command(Command.BEAT):
                pass

    def leave(self) -> None:
        """Close the connections; on a rank that still waits for this one that is an error, at once."""
        if self._left.is_set():
            return
        self._left.set()
        with self._lock:
            self._in_step = False
            dist.destroy_process_group(self._group)
            del self._group  # its connections close with the last reference
            if self._began:
                dist.destroy_process_group()

    def close(self) -> None:
        """On rank 0: send the others home, then leave."""
        with suppress(RuntimeError), self.command(Command.CLOSE):
            pass
        self.leave()

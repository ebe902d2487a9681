"""Shard: the part of every layer that one of several ranks holds (tensor parallelism).

Attention is split by heads and the MLP by its intermediate size, so a layer needs two sums over the ranks: of what
o_proj and of what down_proj give (Shoeybi et al. 2019, arXiv 1909.08053). Embedding, norms and head stand whole on
every rank: that costs vocab_size x hidden_size numbers a rank (twice without a tied head), and saves a gather.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Linear layers of which a rank holds some outputs: rows of the weight, and of the bias."""
COLUMNS = ("o_proj", "down_proj")
"""Linear layers of which a rank holds some inputs, so that their outputs must be added up."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `rank` of `num_ranks` equal ones; tensors go by their Hugging Face names."""

    rank: int
    num_ranks: int

    def config_of(self, config: ModelConfig) -> ModelConfig:
        """The shape of the part; ValueError for what cannot be split into so many."""
        split = ("num_heads", "num_kv_heads", "intermediate_size")
        for name in split:
            if getattr(config, name) % self.num_ranks:
                raise ValueError(
                    f"{name} {getattr(config, name)} cannot be split over {self.num_ranks} ranks"
                )
        return replace(config, **{name: getattr(config, name) // self.num_ranks for name in split})

    def index(self, name: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Where the part lies in the whole tensor of this name and shape."""
        index = [slice(None)] * len(shape)
        dim = _split_dim(name)
        if dim is not None:
            size = shape[dim] // self.num_ranks
            index[dim] = slice(self.rank * size, (self.rank + 1) * size)
        return tuple(index)

    def whole_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the whole tensor whose part has `shape`."""
        dim = _split_dim(name)
        return tuple(n * self.num_ranks if i == dim else n for i, n in enumerate(shape))


WHOLE = Shard(0, 1)
"""All of a model."""


def sum_over_ranks(model: Qwen3, all_reduce: Callable[[Tensor], None]) -> None:
    """Make `model`, a part, compute what the whole does: all_reduce adds up a tensor [T, C] in place."""

    def add_up(_module: object, _inputs: object, output: Tensor) -> None:
        all_reduce(output)

    for name, module in model.named_modules():
        if name.endswith(COLUMNS):
            module.register_forward_hook(add_up)


def _split_dim(name: str) -> int | None:
    """The dimension of a tensor that ranks share out, None for what all of them hold."""
    layer = name.rsplit(".", 2)[-2]
    return 0 if layer in ROWS else 1 if layer in COLUMNS else None

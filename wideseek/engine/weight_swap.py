"""WeightSwap: the parameters of one model as a set that is replaced whole or not at all."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from wideseek.model.qwen3 import Qwen3

SHOWN = 5
"""Names an error lists before it only counts."""


class WeightSwap:
    """Replaces all parameters of `model` in two steps: whatever can fail is done by `stage`.

    `swap` then copies into the same addresses, which a captured CUDA graph goes on reading. After
    `drop` the parameters are empty until the next `swap`.
    """

    def __init__(self, model: Qwen3) -> None:
        self.dropped = False
        self._tied_head = model.config.tied_head
        self._parameters = dict(model.named_parameters())
        self._shapes = {name: p.shape for name, p in self._parameters.items()}

    @torch.no_grad()
    def stage(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors in the model's dtype and on its device, copied only where they were not.

        A tied head's second copy is left out. ValueError for a name that is missing, unknown or
        given twice, and for what is not a tensor of floats in the parameter's shape.
        """
        staged: dict[str, Tensor] = {}
        for name, tensor in tensors:
            if self._tied_head and name == "lm_head.weight":
                continue
            if name in staged:
                raise ValueError(f"{name} is given twice")
            parameter = self._parameters.get(name)
            if parameter is None:
                raise ValueError(f"the model has no tensor {name}")
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_meta:
                what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"{name} is not a tensor of floats but {what}")
            if tensor.shape != self._shapes[name]:
                shape = tuple(self._shapes[name])
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the model {shape}")
            staged[name] = self._stageable(tensor, parameter)
        missing = sorted(self._shapes.keys() - staged.keys())
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise ValueError(f"missing tensors: {', '.join(missing[:SHOWN])}{more}")
        return staged

    def swap(self, staged: Mapping[str, Tensor]) -> None:
        """Take over what `stage` returned."""
        self._fill(staged.items())

    def drop(self) -> None:
        """Let go of the weights' memory."""
        for parameter in self._parameters.values():
            parameter.data = parameter.data.new_empty(0)
        self.dropped = True

    def _stageable(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """A checked tensor, as it is kept until the swap."""
        return tensor.detach().to(parameter.device, parameter.dtype)

    @torch.no_grad()
    def _fill(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy into the parameters, after `drop` into new memory."""
        for name, tensor in tensors:
            parameter = self._parameters[name]
            if self.dropped:
                parameter.data = parameter.data.new_empty(tensor.shape)
            parameter.copy_(tensor)
        self.dropped = False

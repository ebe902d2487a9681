"""Muon in the precision the machine is good at, the work shared by all ranks.

torch's own orthogonalises in bfloat16, which a CPU without bf16 products emulates at a fiftieth of its speed, and does all
of it on every rank.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

# Quintic Newton-Schulz coefficients of Jordan et al. 2024, "Muon: an optimizer for hidden layers".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: [N, R, C] -> the same shape and dtype; singular values end in 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices [R, C]; steps are scaled so that a rate made for AdamW fits.

    Gradients must be equal on all ranks of the default process group; each rank orthogonalises its share, with products in
    `dtype`. Mutates the parameters. Source: Jordan et al. 2024; the scale 0.2 sqrt(max(R, C)) from Liu et al. 2025,
    arXiv 2502.16982, eq. 4.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | list[dict[str, object]],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"params must be matrices, not of shape {tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients at hand; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter, update in zip(parameters, self._updates(parameters, group), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(parameter.shape) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)

    def _updates(self, parameters: list[Tensor], group: dict[str, float]) -> list[Tensor]:
        """Orthogonalised Nesterov momentum of each parameter, gathered from all ranks."""
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        sizes = [p.numel() for p in parameters]
        flat = torch.zeros(sum(sizes), dtype=torch.float32, device=parameters[0].device)
        updates = [u.view_as(p) for u, p in zip(torch.split(flat, sizes), parameters, strict=True)]
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for index, parameter in enumerate(parameters):
            state, grad = self.state[parameter], parameter.grad
            assert grad is not None
            buffer = state.setdefault("momentum", torch.zeros_like(grad))
            buffer.lerp_(grad, 1 - group["momentum"])
            if index % ranks == rank:
                updates[index].copy_(grad.lerp(buffer, group["momentum"]))
                by_shape[parameter.shape].append(index)
        for indices in by_shape.values():
            for index, update in zip(
                indices,
                orthogonalize(torch.stack([updates[i] for i in indices]).to(self.dtype)),
                strict=True,
            ):
                updates[index].copy_(update)
        if ranks > 1:
            dist.all_reduce(flat)
        return updates

"""Bad input to an op is a ValueError that names the argument; a kernel's further wishes too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from wideseek_kernels import border
from wideseek_kernels.kv_copy import kv_copy
from wideseek_kernels.kv_gather import kv_gather
from wideseek_kernels.kv_write import norm_rotary_kv_write
from wideseek_kernels.rms_norm import add_rms_norm, rms_norm
from wideseek_kernels.sample import sample
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.token_logprob import token_logprob


def ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


OPS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (rms_norm, {"x": torch.ones(3, 8), "weight": torch.ones(8), "eps": 1e-6}),
    (
        add_rms_norm,
        {
            "x": torch.ones(3, 8),
            "residual": torch.ones(3, 8),
            "weight": torch.ones(8),
            "eps": 1e-6,
        },
    ),
    (swiglu, {"gate": torch.ones(3, 8), "up": torch.ones(3, 8)}),
    (
        token_logprob,
        {"hidden": torch.ones(3, 8), "weight": torch.ones(5, 8), "ids": ints(3)},
    ),
    (
        sample,
        {
            "logits": torch.ones(3, 8),
            "temperature": torch.ones(3),
            "top_k": ints(3),
            "top_p": torch.ones(3),
            "min_p": torch.zeros(3),
            "seeds": ints(3),
            "positions": ints(3),
        },
    ),
    (
        kv_copy,
        {
            "k_cache": torch.ones(3, 2, 4, 8),
            "v_cache": torch.ones(3, 2, 4, 8),
            "sources": ints(2),
            "targets": torch.tensor([1, 2]),
        },
    ),
    (
        kv_gather,
        {
            "k_cache": torch.ones(2, 2, 4, 8),
            "v_cache": torch.ones(2, 2, 4, 8),
            "slots": ints(3),
        },
    ),
    (
        norm_rotary_kv_write,
        {
            "q": torch.ones(3, 4, 8),
            "k": torch.ones(3, 2, 8),
            "v": torch.ones(3, 2, 8),
            "q_weight": torch.ones(8),
            "k_weight": torch.ones(8),
            "eps": 1e-6,
            "cos": torch.ones(3, 8),
            "sin": torch.ones(3, 8),
            "k_cache": torch.ones(2, 2, 4, 8),
            "v_cache": torch.ones(2, 2, 4, 8),
            "slots": torch.arange(3),
        },
    ),
]


def cases(*free: str) -> list[Any]:
    """Each op with each of its tensors, good ones, but those named and, for "first", what others are held to."""
    return [
        pytest.param(op, arguments, name, id=f"{op.__name__}-{name}")
        for op, arguments in OPS
        for index, (name, x) in enumerate(arguments.items())
        if isinstance(x, Tensor) and name not in free and not (index == 0 and "first" in free)
    ]


def refused(op: Callable[..., Any], arguments: dict[str, Any], name: str, bad: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        op(**arguments | {name: bad})


@pytest.mark.parametrize(("op", "arguments"), OPS)
def test_good_input_passes(op: Callable[..., Any], arguments: dict[str, Any]) -> None:
    op(**arguments)


@pytest.mark.parametrize(("op", "arguments", "name"), cases("first", "k_cache", "slots", "sources"))
def test_a_wrong_shape_is_named(
    op: Callable[..., Any], arguments: dict[str, Any], name: str
) -> None:
    x = arguments[name]
    refused(op, arguments, name, torch.cat((x, x), -1)[..., : x.shape[-1] + 1])
    refused(op, arguments, name, x[None])


@pytest.mark.parametrize(("op", "arguments", "name"), cases("x", "gate", "hidden", "q"))
def test_a_wrong_dtype_is_named(
    op: Callable[..., Any], arguments: dict[str, Any], name: str
) -> None:
    refused(op, arguments, name, arguments[name].to(torch.int16))


@pytest.mark.parametrize(("op", "arguments", "name"), cases("first"))
def test_a_wrong_device_is_named(
    op: Callable[..., Any], arguments: dict[str, Any], name: str
) -> None:
    refused(op, arguments, name, arguments[name].to("meta"))


@pytest.mark.parametrize(("op", "arguments", "name"), cases())
def test_a_kernel_refuses_what_is_not_contiguous(
    op: Callable[..., Any],
    arguments: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(border, "INTERPRETED", True)
    x = arguments[name]
    refused(op, arguments, name, x.repeat_interleave(2, -1)[..., ::2])


def test_a_kernel_refuses_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "INTERPRETED", True)
    x = torch.ones(3, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"gate is torch\.float64"):
        swiglu(x, x)


def test_queries_are_a_multiple_of_the_key_heads_and_norms_come_in_pairs() -> None:
    _, arguments = OPS[-1]
    with pytest.raises(ValueError, match="q has 3 heads, expected a multiple of 2"):
        norm_rotary_kv_write(**arguments | {"q": torch.ones(3, 3, 8)})
    with pytest.raises(ValueError, match="k_weight"):
        norm_rotary_kv_write(**arguments | {"k_weight": None})
    with pytest.raises(ValueError, match="slots has length 4"):
        norm_rotary_kv_write(**arguments | {"slots": torch.arange(4)})

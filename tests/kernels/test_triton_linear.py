"""Products whose bits do not depend on the number of rows: the kernel against fp64, and against itself.

On a CUDA device, or in Triton's interpreter as test_triton_ops.py, whose fixture fills with NaN what a kernel allocates.
"""

import pytest
import torch
from torch import Tensor
from wideseek_kernels.exact_linear import exact_linear

from tests.kernels.test_triton_ops import (
    DEVICE,
    DTYPES,
    INTERPRETED,
    close,
    drawn,
    exact,
    poison,  # noqa: F401 - a fixture
)
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3, lay_side_by_side

pytestmark = (
    []
    if INTERPRETED
    else [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "size", "columns"), [(1, 1, 1), (19, 99, 130), (99, 2500, 40), (70, 1024, 129)]
)
def test_exact_linear(rows: int, size: int, columns: int, dtype: torch.dtype) -> None:
    x, weight = drawn(rows, size, dtype=dtype), drawn(columns, size, seed=1, dtype=dtype)
    scale = size**0.5
    close(exact_linear(x, weight) / scale, (exact(x) @ exact(weight).T) / scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_linear_has_the_same_bits_for_any_number_of_rows(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, among others, at another place, and whether a tile's chunks go to one program or to several."""
    x, weight = drawn(150, 2500, dtype=dtype), drawn(140, 2500, seed=1, dtype=dtype)
    whole = exact_linear(x, weight)
    for part in (slice(0, 1), slice(149, 150), slice(60, 130), slice(3, 67)):
        assert torch.equal(exact_linear(x[part], weight), whole[part])
    monkeypatch.setattr("wideseek_kernels.on_triton.exact_linear.PROGRAMS", 0)  # all in one
    for part in (slice(0, 1), slice(0, 150)):
        assert torch.equal(exact_linear(x[part], weight), whole[part])


def test_exact_linear_of_nothing_is_nothing() -> None:
    assert exact_linear(drawn(0, 5), drawn(3, 5)).shape == (0, 3)
    assert exact_linear(drawn(4, 5), drawn(0, 5)).shape == (4, 0)


def test_an_exact_model_gives_a_token_the_same_bits_among_any_others() -> None:
    """All of a network but its attention; torch's own products add up otherwise for one row."""
    model = Qwen3(
        ModelConfig(
            architecture="Qwen2ForCausalLM",  # with biases
            vocab_size=50,
            hidden_size=40,
            intermediate_size=70,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=10,
            max_position_embeddings=100,
        )
    )
    model.init_weights(3)
    model.to(DEVICE).set_product(exact_linear)
    lay_side_by_side(model)

    def own_values(layer: int, q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
        return v.repeat_interleave(2, dim=1) + q

    with torch.no_grad():
        ids, places = torch.arange(19, device=DEVICE), torch.arange(19, device=DEVICE)
        hidden = model(ids, places, own_values)
        logits = model.logits(hidden)
        for row in (slice(0, 1), slice(3, 8), slice(18, 19)):
            alone = model(ids[row], places[row], own_values)
            assert torch.equal(alone, hidden[row])
            assert torch.equal(model.logits(alone), logits[row])

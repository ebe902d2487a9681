"""The induction start copies before it has learned anything; spellings of a stem start alike."""

import pytest
import torch
from wideseek_train.induction import init_induction, spelling_of, stem_ids

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "architecture": "Qwen3ForCausalLM",
        "vocab_size": 2048,
        "hidden_size": 320,
        "intermediate_size": 128,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "rope_theta": 1e8,
    }
    return ModelConfig(**(values | changes))  # type: ignore[arg-type]


def copy_accuracy(model: Qwen3, length: int) -> float:
    """Share of a repeated random sequence predicted right the second time."""
    once = torch.randint(0, 2048, (length,), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([once, once])
    with torch.no_grad():
        hidden = model(
            ids, torch.arange(2 * length), PackedAttention(torch.tensor([0, 2 * length]))
        )
        predicted = model.logits(hidden).argmax(-1)
    return (predicted[length + 1 : -1] == ids[length + 2 :]).float().mean().item()


def test_induction_start_copies_at_step_zero() -> None:
    model = Qwen3(config())
    model.init_weights(0)
    assert copy_accuracy(model, 100) < 0.05
    init_induction(model, 0, [(i, 0) for i in range(2048)])
    assert copy_accuracy(model, 100) > 0.9


def test_longest_match_wins_where_tokens_repeat() -> None:
    """With 14 different tokens nearly every pair occurs more than once: what follows is told by longer contexts only."""
    model = Qwen3(config())
    init_induction(model, 0, [(i, 0) for i in range(2048)])
    once = torch.randint(0, 14, (300,), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([once, once])
    with torch.no_grad():
        hidden = model(ids, torch.arange(600), PackedAttention(torch.tensor([0, 600])))
        predicted = model.logits(hidden).argmax(-1)
    right = (predicted[305:-1] == ids[306:]).float().mean().item()
    pairs = [tuple(ids[i : i + 2].tolist()) for i in range(300)]
    newest = {pair: int(ids[i + 2]) for i, pair in enumerate(pairs)}
    by_pairs = [newest[pairs[i]] == int(ids[i + 2]) for i in range(5, 298)]
    assert right > 0.9 > sum(by_pairs) / len(by_pairs)


def test_spellings_start_as_near_copies() -> None:
    model = Qwen3(config())
    stems = [(i // 4, i % 4) for i in range(2048)]
    init_induction(model, 0, stems)
    content = model.model.embed_tokens.weight[:, :56]
    assert (content[0] @ content[3]).item() > 0.6
    assert abs((content[0] @ content[4]).item()) < 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_heads": 2},
        {"head_dim": 32},
        {"tied_head": False},
        {"num_layers": 1},
        {"hidden_size": 256},
    ],
)
def test_shapes_it_cannot_start_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="induction start"):
        init_induction(Qwen3(config(**changes)), 0, [(i, 0) for i in range(2048)])


@pytest.mark.parametrize(
    ("token", "stem", "spelling"),
    [("Ġthe", "the", 1), ("The", "the", 2), ("ĠThe", "the", 3), ("the", "the", 0), ("Ġ", "Ġ", 0)],
)
def test_spelling_of(token: str, stem: str, spelling: int) -> None:
    assert spelling_of(token) == (stem, spelling)


def test_ids_without_a_token_get_stems_of_their_own() -> None:
    ids = stem_ids({"a": 0, "Ġa": 1, "b": 3}, 5)
    assert ids[0][0] == ids[1][0] and len({stem for stem, _ in ids}) == 4

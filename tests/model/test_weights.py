"""Weights move between folders and models by name; every mismatch is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.weights import copy_weights, load_model, save_model

CONFIG = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=30,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_position_embeddings=64,
    tied_head=False,
)


def model(seed: int = 0, **changes: object) -> Qwen3:
    made = Qwen3(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    made.init_weights(seed)
    return made


def assert_same(left: Qwen3, right: Qwen3) -> None:
    for (name, a), (other, b) in zip(
        left.named_parameters(), right.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b), name


def shard(folder: Path) -> dict[str, str]:
    """Split model.safetensors over two files; returns the weight map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::2]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_saved_models_load_bit_for_bit(tmp_path: Path, tied: bool, architecture: str) -> None:
    saved = model(tied_head=tied, architecture=architecture)
    save_model(saved, tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    assert_same(saved, loaded)
    assert loaded.config == saved.config
    held = load_file(tmp_path / "new" / "folder" / "model.safetensors")
    assert ("lm_head.weight" in held) == (not tied)


def test_dtype_of_file_and_of_model_are_separate(tmp_path: Path) -> None:
    saved = model()
    save_model(saved, tmp_path, torch.bfloat16)
    half = load_model(tmp_path, torch.bfloat16)
    assert half.config.dtype == "bfloat16"
    assert_same(saved.bfloat16(), half)
    assert load_model(tmp_path).model.norm.weight.dtype == torch.float32


def test_sharded_folders_load_the_same(tmp_path: Path) -> None:
    saved = model()
    save_model(saved, tmp_path)
    shard(tmp_path)
    assert_same(saved, load_model(tmp_path))


def test_a_tied_head_stored_once_more_is_ignored(tmp_path: Path) -> None:
    saved = model(tied_head=True)
    save_model(saved, tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "lm_head.weight": torch.zeros(30, 16)}, file)
    assert_same(saved, load_model(tmp_path))


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_model(model(), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    bias = "model.layers.0.self_attn.q_proj.bias"
    without_head = {n: t for n, t in tensors.items() if n != "lm_head.weight"}
    narrow = {**tensors, "model.layers.1.mlp.up_proj.weight": torch.zeros(24, 15)}
    for changed, message in (
        (without_head, r"missing tensors: lm_head\.weight"),
        ({**tensors, bias: torch.zeros(16)}, rf"unknown tensors: {bias}"),
        (narrow, r"layers\.1\.mlp\.up_proj\.weight has shape \(24, 15\).*\(24, 16\)"),
    ):
        save_file(changed, file)
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    save_model(model(), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-100], b"", b"not a safetensors file"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
            load_model(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="no weights in"):
        load_model(tmp_path)


def test_indexes_that_lie_are_named(tmp_path: Path) -> None:
    save_model(model(), tmp_path)
    weight_map = shard(tmp_path)
    name = "model.norm.weight"
    other = next(file for file in weight_map.values() if file != weight_map[name])
    for lie, message in (
        ({**weight_map, name: other}, rf"{other} does not hold the tensor {name}"),
        ({**weight_map, name: "gone.safetensors"}, r"gone\.safetensors does not exist"),
        ({**weight_map, name: "../model.safetensors"}, name),
        ([], "weight_map"),
    ):
        write_index(tmp_path, lie)
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json cannot be read"):
        load_model(tmp_path)


def test_copy_weights_overwrites_in_place() -> None:
    net, source = model(0), model(1)
    addresses = [p.data_ptr() for p in net.parameters()]
    copy_weights(net, ((n, p.bfloat16().float()) for n, p in source.named_parameters()))
    assert_same(net, source.bfloat16().float())
    assert addresses == [p.data_ptr() for p in net.parameters()]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("model.norm.bias", torch.zeros(16)), "no tensor model.norm.bias"),
        (("model.norm.weight", torch.zeros(17)), r"model.norm.weight has shape \(17,\)"),
    ],
)
def test_copy_weights_changes_nothing_when_it_refuses(
    bad: tuple[str, torch.Tensor], message: str
) -> None:
    net = model()
    good = ("model.embed_tokens.weight", torch.ones(30, 16))
    with pytest.raises(ValueError, match=message):
        copy_weights(net, [good, bad])
    assert_same(net, model())

"""Weights from and to a Hugging Face folder of safetensors; every mismatch is refused by name."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wideseek.model.config import load_config
from wideseek.model.qwen3 import Qwen3
from wideseek.model.shard import WHOLE, Shard

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_model(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
) -> Qwen3:
    """Build the model that `folder` describes, or a part of it, and fill it, one tensor at a time.

    Of a part nothing else is read. ValueError names a missing or unreadable file, a missing, unknown
    or wrongly shaped tensor, and what cannot be split.
    """
    folder = Path(folder)
    config = load_config(folder)
    files = _tensor_files(folder)
    with torch.device("meta"):
        model, whole = Qwen3(shard.config_of(config)), Qwen3(config)
    shapes = {name: tuple(p.shape) for name, p in whole.named_parameters()}
    if config.tied_head:
        # Some checkpoints store the tied head once more; the embedding is the one that counts.
        files.pop("lm_head.weight", None)
    _refuse_names(folder, missing=shapes.keys() - files.keys(), extra=files.keys() - shapes.keys())
    model = model.to(dtype).to_empty(device=device)
    parameters = dict(model.named_parameters())
    for path in sorted(set(files.values())):
        with _open(path) as tensors:
            held = set(tensors.keys())
            for name in sorted(n for n, file in files.items() if file == path):
                if name not in held:
                    raise ValueError(f"{path} does not hold the tensor {name} its index promises")
                stored = tensors.get_slice(name)
                shape = tuple(stored.get_shape())
                if shape != shapes[name]:
                    raise ValueError(
                        f"{path}: {name} has shape {shape}, config.json asks {shapes[name]}"
                    )
                with torch.no_grad():
                    parameters[name].copy_(stored[shard.index(name, shape)])
    return model


def save_model(model: Qwen3, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors, loadable here and by transformers, into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.config, dtype=str(dtype).removeprefix("torch."))
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
    }
    # A file half written must never take the place of a whole one.
    partial = folder / f"{SINGLE}.part"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / SINGLE)


@torch.no_grad()
def copy_weights(model: Qwen3, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Overwrite parameters of `model` in place, cast to their dtype and device; the others stay.

    ValueError for an unknown name or a wrong shape, before anything is changed.
    """
    parameters = dict(model.named_parameters())
    incoming = dict(tensors)
    if model.config.tied_head:
        incoming.pop("lm_head.weight", None)
    for name, tensor in incoming.items():
        if name not in parameters:
            raise ValueError(f"the model has no tensor {name}")
        if tensor.shape != parameters[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the model {tuple(parameters[name].shape)}"
            )
    for name, tensor in incoming.items():
        parameters[name].copy_(tensor)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    if (folder / SINGLE).is_file():
        with _open(folder / SINGLE) as tensors:
            return dict.fromkeys(tensors.keys(), folder / SINGLE)
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"no weights in {folder}: neither {SINGLE} nor {INDEX} exists")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index} cannot be read: {error!r}") from None
    if not isinstance(weight_map, Mapping):
        raise ValueError(f"{index}: weight_map must be an object")
    files = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{index}: {name} is said to be in {file!r}, not a file of the folder")
        files[name] = folder / file
    return files


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _refuse_names(folder: Path, *, missing: Iterable[str], extra: Iterable[str]) -> None:
    for kind, names in (("missing", sorted(missing)), ("unknown", sorted(extra))):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ValueError(f"{folder}: {kind} tensors: {shown}")

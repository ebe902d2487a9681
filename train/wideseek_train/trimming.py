"""Make a trained network smaller: whole layers, heads of every layer, and neurons whose work the others take over.

Layers and heads are taken out where the loss rises least. Neurons go one by one, and what the rest writes is corrected each
time by least squares (optimal brain surgeon, Hassibi and Stork 1993, with the inputs' and the gradients' second moments in
place of the whole Hessian).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wideseek.model.qwen3 import DecoderLayer, PackedAttention, Qwen3
from wideseek_train.demonstrations import Example


def said_loss(model: Qwen3, example: Example) -> Tensor:
    """Mean nats of the tokens that the expert said."""
    ids = torch.from_numpy(example.token_ids).long()
    at = torch.from_numpy(example.said).nonzero()[:, 0]
    bounds = torch.tensor([0, len(ids)])
    hidden = model(ids, torch.arange(len(ids)), PackedAttention(bounds))
    return F.cross_entropy(model.logits(hidden[at - 1]), ids[at])


@torch.inference_mode()
def mean_loss(model: Qwen3, examples: Sequence[Example]) -> float:
    return sum(said_loss(model, example).item() for example in examples) / len(examples)


def layers_of(model: Qwen3) -> list[DecoderLayer]:
    layers = list(model.model.layers)
    assert all(isinstance(layer, DecoderLayer) for layer in layers)
    return layers  # type: ignore[return-value]  # a ModuleList does not know what it holds


@torch.no_grad()
def drop_layers(model: Qwen3, count: int, examples: Sequence[Example]) -> Qwen3:
    """The network with `count` layers, each time without the one that is missed least."""
    while model.config.num_layers > count:
        smaller = (_without_layer(model, index) for index in range(model.config.num_layers))
        model = min(smaller, key=lambda candidate: mean_loss(candidate, examples))
    return model


def _without_layer(model: Qwen3, index: int) -> Qwen3:
    smaller = Qwen3(replace(model.config, num_layers=model.config.num_layers - 1))
    kept = [layer for number, layer in enumerate(layers_of(model)) if number != index]
    _copy_outside(model, smaller)
    for new, old in zip(layers_of(smaller), kept, strict=True):
        new.load_state_dict(old.state_dict())
    return smaller


def _copy_outside(model: Qwen3, smaller: Qwen3) -> None:
    """All that belongs to no layer."""
    for name, parameter in smaller.named_parameters():
        if ".layers." not in name:
            parameter.copy_(model.get_parameter(name))


@torch.no_grad()
def drop_heads(model: Qwen3, count: int, examples: Sequence[Example]) -> Qwen3:
    """The network with `count` heads a layer; in each, one by one, the head goes that is missed least.

    ValueError where heads share keys.
    """
    config = model.config
    if count == config.num_heads:
        return model
    if config.num_kv_heads != config.num_heads:
        raise ValueError(
            f"heads can be dropped where each has its own keys, not {config.num_kv_heads} for {config.num_heads}"
        )
    size = config.head_dim
    model = copy.deepcopy(model)  # heads are silenced in it, one after the other
    kept: list[list[int]] = []
    for layer in layers_of(model):
        output = layer.self_attn.o_proj.weight
        heads = list(range(config.num_heads))
        while len(heads) > count:
            losses = {}
            for head in heads:
                columns = output[:, head * size : (head + 1) * size]
                saved = columns.clone()
                columns.zero_()
                losses[head] = mean_loss(model, examples)
                columns.copy_(saved)
            least = min(heads, key=losses.__getitem__)
            output[:, least * size : (least + 1) * size] = 0
            heads.remove(least)
        kept.append(heads)
    smaller = Qwen3(replace(config, num_heads=count, num_kv_heads=count))
    _copy_outside(model, smaller)
    for new, old, heads in zip(layers_of(smaller), layers_of(model), kept, strict=True):
        rows = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads])
        state = old.state_dict()
        for name in state:
            if name.startswith(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")):
                state[name] = state[name][rows]
        state["self_attn.o_proj.weight"] = state["self_attn.o_proj.weight"][:, rows]
        new.load_state_dict(state)
    return smaller


def drop_neurons(model: Qwen3, count: int, examples: Sequence[Example]) -> Qwen3:
    """The network with `count` neurons in each MLP."""
    moments = _moments(model, examples)
    smaller = Qwen3(replace(model.config, intermediate_size=count))
    with torch.no_grad():
        _copy_outside(model, smaller)
        for new, old, (inputs, gradients) in zip(
            layers_of(smaller), layers_of(model), moments, strict=True
        ):
            kept, down = _surgeon(old.mlp.down_proj.weight, count, inputs, gradients)
            state = old.state_dict()
            for name in ("gate", "up"):
                state[f"mlp.{name}_proj.weight"] = state[f"mlp.{name}_proj.weight"][kept]
            state["mlp.down_proj.weight"] = down[:, kept]
            new.load_state_dict(state)
    return smaller


def _moments(model: Qwen3, examples: Sequence[Example]) -> list[tuple[Tensor, Tensor]]:
    """Of each layer's down projection the second moments of its inputs [I, I] and of its output's gradient [D, D], fp64.

    Inputs count by how much the loss feels their token, within a hundred times: by the first power, as few tokens would else
    decide alone.
    """
    config = model.config
    wide, narrow = config.intermediate_size, config.hidden_size
    sums = [
        (torch.zeros(wide, wide).double(), torch.zeros(narrow, narrow).double())
        for _ in layers_of(model)
    ]
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_: torch.nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        seen.append((args[0].detach(), out))

    handles = [layer.mlp.down_proj.register_forward_hook(keep) for layer in layers_of(model)]
    for example in examples:
        seen.clear()
        loss = said_loss(model, example)
        found = torch.autograd.grad(loss, [out for _, out in seen])
        for (inputs, gradients), (x, _), slope in zip(sums, seen, found, strict=True):
            gradient = slope.double()
            felt = gradient.norm(dim=1, keepdim=True)
            felt = (felt / felt.mean()).clamp(0.1, 10)
            weighed = x.double() * felt.sqrt()
            inputs += weighed.T @ weighed
            gradients += gradient.T @ gradient
    for handle in handles:
        handle.remove()
    return sums


def _surgeon(
    weight: Tensor, count: int, inputs: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """The `count` columns of `weight` [D, I] that stay, and all columns corrected for those that go."""
    size = weight.shape[1]
    corrected = weight.double().clone()
    inverse = torch.linalg.inv(inputs + torch.eye(size) * inputs.diagonal().mean() * 1e-4)
    felt = gradients / gradients.diagonal().mean() + 0.1 * torch.eye(len(gradients))
    alive = torch.ones(size, dtype=torch.bool)
    for _ in range(size - count):
        cost = (felt @ corrected * corrected).sum(0) / inverse.diagonal()
        cost[~alive] = torch.inf
        least = int(cost.argmin())
        alive[least] = False
        column = inverse[:, least] / inverse[least, least]
        corrected -= torch.outer(corrected[:, least], column)
        inverse -= torch.outer(column, inverse[least].clone())
        inverse[least, least] = 1.0  # what is gone takes no more part
    return alive.nonzero()[:, 0], corrected.to(weight.dtype)

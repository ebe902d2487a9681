"""Make a trained network smaller: `python train/trim.py FOLDER OUT [key=value ...]`; train on with `sft.py OUT2 start=OUT`.

What goes is chosen on the expert's work in training worlds.
"""

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from wideseek_train.config import load_settings
from wideseek_train.demonstrations import draw_examples
from wideseek_train.trimming import drop_heads, drop_layers, drop_neurons, mean_loss

from wideseek.model.renderer import Renderer, copy_tokenizer
from wideseek.model.weights import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """The size to reach, and on what the choice is made."""

    num_layers: int = 5
    num_heads: int = 5
    intermediate_size: int = 384
    examples: int = 100  # neurons are chosen on all of them, layers and heads on a third
    max_length: int = 3500
    seed: int = 0


def main() -> None:
    if len(sys.argv) < 3 or any("=" in word for word in sys.argv[1:3]):
        sys.exit("usage: python train/trim.py FOLDER OUT [key=value ...]")
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        config = load_settings(TrimConfig, sys.argv[3:])
        renderer, model = Renderer.load(folder), load_model(folder)
        for name in ("num_layers", "num_heads", "intermediate_size"):
            size, has = getattr(config, name), getattr(model.config, name)
            if not 1 <= size <= has:
                raise ValueError(f"{name} must be from 1 to the {has} it has, not {size}")
    except (ValueError, OSError) as error:
        sys.exit(f"trim: {error}")
    torch.manual_seed(config.seed)
    drawn = draw_examples(config.seed, renderer, config.max_length, plans=4, reports=2)
    examples = list(islice(drawn, config.examples))
    few = examples[::3]
    print(f"{'':24}{'nats a said token':>18}\n{'as it was':24}{mean_loss(model, few):18.5f}")
    try:
        model = drop_layers(model, config.num_layers, few)
        print(f"{f'{config.num_layers} layers':24}{mean_loss(model, few):18.5f}")
        model = drop_heads(model, config.num_heads, few)
        print(f"{f'{config.num_heads} heads a layer':24}{mean_loss(model, few):18.5f}")
    except ValueError as error:
        sys.exit(f"trim: {error}")
    model = drop_neurons(model, config.intermediate_size, examples)
    print(f"{f'{config.intermediate_size} neurons a layer':24}{mean_loss(model, few):18.5f}")
    copy_tokenizer(folder, out)
    save_model(model, out, torch.bfloat16)


if __name__ == "__main__":
    main()

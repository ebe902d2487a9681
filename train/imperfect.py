"""A start that has something to learn: `python train/imperfect.py OUT [key=value ...]`.

Goes on training a model, the bundled one by default, for some steps on rollouts of an expert with bad habits
(`wideseek_train.bad_habits`), and writes a Hugging Face folder. `train/main.py mini_cpu model=OUT` repairs it.
"""

import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sft import (
    SftConfig,
    batch_loss,
    bf16_is_faster,
    draw_batch,
    make_optimizers,
    mean_losses,
    rate_at,
)
from wideseek_train.bad_habits import Habits, draw_hasty_examples
from wideseek_train.config import load_settings
from wideseek_train.demonstrations import Example

from wideseek.backends import find_model_folder
from wideseek.model.renderer import Renderer, copy_tokenizer
from wideseek.model.weights import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class ImperfectConfig:
    """Which habits, how deep; saved beside the weights."""

    start: str = ""  # a folder; empty: the bundled model
    few: float = 0.6  # share of leads that plan for the first two items only
    guess: float = 0.85  # share of subagents that guess instead of opening the page
    min_rows: int = 3
    max_rows: int = 6
    found_count: int = 5  # titles found for the question that leads begin with
    steps: int = 100
    tokens_per_step: int = 2560
    learning_rate: float = 3e-4  # a higher one costs the right way, too
    seed: int = 0


def main() -> None:
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python train/imperfect.py OUT [key=value ...]")
    out = Path(sys.argv[1])
    try:
        config = load_settings(ImperfectConfig, sys.argv[2:])
        start = find_model_folder(config.start or None)
        habits = Habits(few=config.few, guess=config.guess)
        renderer, model = Renderer.load(start), load_model(start)
    except ValueError as error:
        print(f"imperfect: {error}", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)
    examples = draw_hasty_examples(
        config.seed, renderer, habits, (config.min_rows, config.max_rows), config.found_count
    )
    schedule = SftConfig(
        steps=config.steps, learning_rate=config.learning_rate, warmup_steps=5, decay_share=0.5
    )
    bf16 = bf16_is_faster()
    optimizers = make_optimizers(model, schedule, bf16=bf16)
    rng = torch.Generator().manual_seed(config.seed)
    carry: list[Example] = []
    for step in range(config.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate_at(step, schedule) * group["initial_lr"]
        batch = draw_batch(examples, carry, config.tokens_per_step)
        loss, by_role = batch_loss(model, batch, schedule.read_weight, rng, bf16=bf16)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1}: {mean_losses(by_role)}", file=sys.stderr, flush=True)
    save_model(model, out, torch.bfloat16)
    copy_tokenizer(start, out)
    (out / "imperfect.json").write_text(json.dumps(asdict(config), indent=2) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    main()

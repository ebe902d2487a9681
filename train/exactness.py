"""Which turns of the expert a model would say word for word: `python train/exactness.py FOLDER [key=value ...]`.

Far cheaper than answering questions, and it names the link that breaks. Worlds only; `shown=20` prints what went wrong.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from wideseek_train.config import load_settings
from wideseek_train.demonstrations import demonstrate
from wideseek_train.exactness import ReadTurn, read_turns

from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model
from wideseek.worlds.tasks import make_tasks


@dataclass(frozen=True, kw_only=True)
class ExactnessConfig:
    """Which worlds are read, and how many faults are shown."""

    split: str = "test"
    tasks: int = 40
    seed: int = 0
    min_rows: int = 3
    max_rows: int = 10
    width: int = 10
    workflow: str = "team"
    shown: int = 0


def main() -> None:
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python train/exactness.py FOLDER [key=value ...]")
    try:
        config = load_settings(ExactnessConfig, sys.argv[2:])
        if config.split not in ("train", "test"):
            raise ValueError(f"split must be train or test, not {config.split!r}")
        folder = Path(sys.argv[1])
        renderer, model = Renderer.load(folder), load_model(folder)
        split = cast(Literal["train", "test"], config.split)
        rows = (config.min_rows, config.max_rows)
        tasks = make_tasks(split, config.tasks, config.seed, rows)
    except (ValueError, OSError) as error:
        sys.exit(f"exactness: {error}")
    torch.set_num_threads(1)
    rollouts = (demonstrate(t, renderer, config.workflow, config.width) for t in tasks)
    turns: dict[str, list[ReadTurn]] = defaultdict(list)
    shown = 0
    for turn in read_turns(model, renderer, rollouts):
        turns[turn.kind].append(turn)
        if turn.wrong and shown < config.shown:
            shown += 1
            print(f"--- {turn.kind}: {turn.wrong} of {turn.tokens} tokens, {turn.nats:.1f} nats")
            print(f"{turn.before}[{turn.expected}] but chose [{turn.chosen}]")
    print(f"{'turn':14} {'turns':>6} {'exact':>6} {'wrong tokens':>13}")
    for kind, group in sorted(turns.items()):
        exact = sum(turn.wrong == 0 for turn in group) / len(group)
        wrong = sum(turn.wrong for turn in group) / sum(turn.tokens for turn in group)
        print(f"{kind:14} {len(group):6} {exact:6.3f} {wrong:13.5f}")


if __name__ == "__main__":
    main()

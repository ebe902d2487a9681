"""Learning curves of runs of train/main.py: NAME.json and NAME.svg into train/results.

    python bench/learning.py NAME RUN [RUN ...]

A run is the folder that train/main.py was given as `out`. Of every update: seconds since the first, evaluations included
but neither the start of the process nor checkpoints, the mean reward of the rollouts it was made from, and item F1 on the
held-out worlds where they were asked. Settings that the runs share are told once.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from kernels_cpu import machine
from wideseek_train.curve import Curve, draw_curves
from wideseek_train.measure import ITEM_F1
from wideseek_train.metrics import STEP, read_metrics

RESULTS = Path(__file__).parent.parent / "train" / "results"
SHOWN = {
    "reward": "critic/rewards/mean",
    "item_f1": ITEM_F1,
    "subagents": "wideseek_r1/avg_num_subagents_per_traj",
    "entropy": "actor/entropy",
    "mismatch": "mismatch/max",
}
"""What is kept of a step, by its name in the result."""
STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fdfdfb}.grid{stroke:#dcdfe3}.curve{fill:none;stroke-width:2}"
    ".value{text-anchor:end}.tick{text-anchor:middle}.c0{stroke:#2563c9}.c1{stroke:#d9580d}.c2{stroke:#1a8a45}"
)


def curve_of(run: Path) -> list[dict[str, float]]:
    """A run's updates in order, from the evaluation before the first one on; ValueError for a folder without any."""
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise ValueError(f"{run} holds no metrics.jsonl of a run")
    seconds = itertools.accumulate(line["timing_s/step"] for line in lines)
    return [
        {"step": line[STEP], "seconds": round(at, 1)}
        | {name: round(line[key], 4) for name, key in SHOWN.items() if key in line}
        for line, at in zip(lines, seconds, strict=True)
    ]


def summarise(runs: list[Path]) -> dict[str, Any]:
    """All runs with the machine; ValueError where they differ in more than seed and how often they were looked at."""
    settings = [json.loads((run / "config.json").read_text(encoding="utf-8")) for run in runs]
    own = ("seed", "eval_steps", "save_steps", "eval_tasks")
    shared = {key: value for key, value in settings[0].items() if key not in own}
    for run, other in zip(runs, settings, strict=True):
        if odd := [key for key in shared if other.get(key) != shared[key]]:
            raise ValueError(f"{run} differs from {runs[0]} in {', '.join(odd)}")
    told = [
        {key: one[key] for key in own} | {"updates": curve_of(run)}
        for one, run in zip(settings, runs, strict=True)
    ]
    shared["model"] = Path(shared["model"]).name
    return {"machine": machine(), "settings": shared, "runs": told}


def draw(summary: dict[str, Any]) -> str:
    """Item F1 on held-out worlds over minutes, a line a run."""
    curves = [
        Curve(
            f"seed {run['seed']}",
            tuple(
                (round(u["seconds"] / 60, 1), u["item_f1"])
                for u in run["updates"]
                if "item_f1" in u
            ),
        )
        for run in summary["runs"]
    ]
    svg = draw_curves(curves, "item F1 on held-out worlds over minutes")
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}</style>", 1
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    options = parser.parse_args()
    try:
        summary = summarise(options.runs)
    except (OSError, ValueError) as error:
        print(f"learning: {error}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(summary, indent=1) + "\n"
    (RESULTS / f"{options.name}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"{options.name}.svg").write_text(draw(summary) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

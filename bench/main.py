"""Benchmarks: `python bench/main.py engine --trace FILE [--model random:tiny|random:small|FOLDER]`,
`python bench/main.py steps [--batch 64 --context 512]`, `python bench/main.py shapes`, `python bench/main.py kernels`,
`python bench/main.py train --output FILE`.

Exit codes: 0; 2 usage, or a file, model or peer that cannot be used.
"""

import argparse
import sys

import engine_shapes
import engine_steps
import engine_trace
import kernel_bench
import train_step


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/main.py", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    for bench, name, what in (
        (engine_trace, "engine", "replay a trace of agents' contexts, on peers too"),
        (kernel_bench, "kernels", "time the kernels beside peers, on a GPU if there is one"),
        (engine_shapes, "shapes", "time steps at the shapes of a real model"),
        (engine_steps, "steps", "time decode steps and the engine's own work in them"),
        (train_step, "train", "time full training steps, a phase at a time"),
    ):
        flags = benches.add_parser(name, help=what)
        bench.add_flags(flags)
        flags.set_defaults(run=bench.run)
    options = parser.parse_args()
    try:
        options.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

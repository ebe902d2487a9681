"""Benchmarks: `python bench/main.py engine --trace FILE [--model random:tiny|random:small|FOLDER]`.

Exit codes: 0; 2 usage, or a file or model that cannot be used.
"""

import argparse
import sys

import engine_trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/main.py", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    engine_trace.add_flags(benches.add_parser("engine", help="replay a trace of agents' contexts"))
    options = parser.parse_args()
    try:
        engine_trace.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

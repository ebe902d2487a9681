"""Compare two evaluations: `python eval/compare.py BEFORE AFTER`, folders that eval/main.py wrote.

Prints, for every score and cost, both means over the tasks the two have in common and the change
with its paired 95 % bootstrap interval; a star marks an interval without 0. Exit codes: 0; 2 for
folders that cannot be compared.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wideseek_eval.comparison import compare, config_changes, read_records, render_comparison

from wideseek.backends import OneLineParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison of the command line's folders; the exit code."""
    parser = OneLineParser(prog="compare", description="Compare two evaluations task by task.")
    parser.add_argument("before", type=Path, metavar="BEFORE", help="folder of an evaluation")
    parser.add_argument("after", type=Path, metavar="AFTER", help="folder of another")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    try:
        before, after = read_records(options.before), read_records(options.after)
        scores, costs = compare(before, after, options.seed)
        changes = config_changes(options.before, options.after)
    except ValueError as error:
        print(f"compare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if options.json:
        found = {
            name: [asdict(d) for d in part] for name, part in (("scores", scores), ("costs", costs))
        }
        print(json.dumps(found | {"config": changes}, ensure_ascii=False))
        return 0
    for name, (old, new) in changes.items():
        print(f"{name}: {old} -> {new}")
    print(render_comparison(scores, costs))
    only = len({r.task for r in before} ^ {r.task for r in after})
    if only:
        print(f"\n{only} tasks are in one of the two alone and left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())

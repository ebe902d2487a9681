"""Write an evaluation as a log for Inspect's viewer: `python eval/export.py DIR FILE.eval`.

DIR is a folder that eval/main.py, or one point of eval/scaling.py, wrote. The gold answers are not
in it: `eval/main.py ... --inspect FILE.eval` writes the same log with them. Open it with
`inspect view --log-dir FOLDER` (pip install inspect-ai). Exit codes: 0; 2 for a folder without
finished runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from wideseek_eval.comparison import read_records
from wideseek_eval.inspect_log import write_inspect_log

from wideseek.backends import OneLineParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the log of the command line's folder; the exit code."""
    parser = OneLineParser(prog="export", description="Write a log for Inspect's viewer.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of an evaluation")
    parser.add_argument("file", type=Path, metavar="FILE.eval", help="the log to write")
    options = parser.parse_args(arguments)
    if options.file.suffix != ".eval":
        parser.error(f"FILE must end in .eval, not {str(options.file)!r}")
    try:
        written = write_inspect_log(options.folder, options.file, read_records(options.folder))
        if not written:
            raise ValueError(f"{options.folder} holds no runs to write a log of")
    except (ValueError, OSError) as error:
        print(f"export: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{written} trials in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

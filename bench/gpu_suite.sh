#!/bin/sh
# Everything that needs a GPU in one run of under 10 minutes: its tests, then all kernel benchmarks, in one JSON file.
#
#   bench/gpu_suite.sh [OUTPUT.json]        default: bench/results/gpu_suite-DATE.json
#
# Exit code: that of the tests, or that of the benchmarks where the tests passed. The file is written either way.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
output=${1:-bench/results/gpu_suite-$(date -u +%Y-%m-%d).json}
mkdir -p "$(dirname "$output")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

timeout 330 "$python" -m pytest -q -m gpu -p no:cacheprovider --junitxml="$scratch/tests.xml" tests
tested=$?
PYTHONPATH="kernels:.${PYTHONPATH:+:$PYTHONPATH}" timeout 240 "$python" bench/main.py kernels --output "$scratch/kernels.json"
measured=$?

"$python" - "$scratch" "$output" "$tested" "$measured" <<'PYTHON'
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

scratch, output = map(Path, sys.argv[1:3])
document = {"benchmarks": []}
if (scratch / "kernels.json").exists():
    document = json.loads((scratch / "kernels.json").read_text())
tests = {"exit_code": int(sys.argv[3]), "failed": []}
if (scratch / "tests.xml").exists():
    suite = ET.parse(scratch / "tests.xml").getroot().find("testsuite")
    tests |= {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    tests["seconds"] = float(suite.get("time"))
    tests["failed"] = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
document |= {"tests": tests, "benchmarks_exit_code": int(sys.argv[4])}
output.write_text(json.dumps(document, indent=1) + "\n")
print(output)
PYTHON

[ "$tested" -ne 0 ] && exit "$tested"
exit "$measured"

#!/bin/sh
# Everything that needs a GPU in one run of under 300 seconds: its tests, then all kernel benchmarks, in one JSON file.
#
#   bench/gpu_suite.sh [OUTPUT.json]        default: bench/results/gpu_suite-DATE.json
#
# What was printed lies beside it, in OUTPUT.hopper.log, OUTPUT.tests.log and OUTPUT.kernels.log.
# Exit code: that of the tests, of the benchmarks or of the check of the Hopper attention, the first that is not 0.
# The file is written either way.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
output=${1:-bench/results/gpu_suite-$(date -u +%Y-%m-%d).json}
logs=${output%.json}
mkdir -p "$(dirname "$output")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Only files with such tests are imported: others need packages that a GPU image may lack.
files=$(grep -rlE '^ *(@|pytestmark.*)?pytest\.mark\.gpu' tests --include='test_*.py')
# A fault or a hang of the attention in CUDA C++, which the engine does not use yet, must not take the others with it.
hopper=--hopper
PYTHONPATH="kernels:.${PYTHONPATH:+:$PYTHONPATH}" timeout 90 "$python" bench/hopper_check.py --correct-only >"$logs.hopper.log" 2>&1
checked=$?
cat "$logs.hopper.log"
[ "$checked" -eq 0 ] || { hopper=; files=$(printf '%s\n' $files | grep -v test_attention_sm90); }
# Compiling is what takes long, so many processes share the GPU; neighbours need the same kernels.
"$python" -c 'import xdist' 2>/dev/null && processes='-n 12 --dist worksteal' || processes=
# No warning is an error here: of a driver, or of a setting of a plugin that is not there.
# cuBLAS settles at its first product whether it is deterministic, whichever test that is in.
# One thread each: definitions are computed on the CPU.
OMP_NUM_THREADS=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 timeout 110 "$python" -m pytest -q --tb=short -m gpu -W default -p no:cacheprovider $processes \
    --junitxml="$scratch/tests.xml" $files >"$logs.tests.log" 2>&1
tested=$?
tail -n 60 "$logs.tests.log"
PYTHONPATH="kernels:train:.${PYTHONPATH:+:$PYTHONPATH}" timeout 85 "$python" bench/main.py kernels $hopper \
    --output "$scratch/kernels.json" >"$logs.kernels.log" 2>&1
measured=$?
cat "$logs.kernels.log"

"$python" - "$scratch" "$output" "$tested" "$measured" "$checked" <<'PYTHON'
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
document |= {"tests": tests, "benchmarks_exit_code": int(sys.argv[4]), "hopper_check_exit_code": int(sys.argv[5])}
output.write_text(json.dumps(document, indent=1) + "\n")
print("tests:", tests)  # skipped ones too: without a C++ compiler attention is not tested
print(output)
PYTHON

[ "$tested" -ne 0 ] && exit "$tested"
[ "$measured" -ne 0 ] && exit "$measured"
[ "$checked" -eq 2 ] || exit "$checked"  # 2: no Hopper GPU

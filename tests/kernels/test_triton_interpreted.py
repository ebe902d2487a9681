"""The tests of Triton kernels in Triton's interpreter, which has to be chosen before triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)  # some 20 seconds of one core, more where it is shared
@pytest.mark.parametrize(
    "name", ["test_triton_ops.py", "test_triton_linear.py", "test_triton_attention.py"]
)
def test_the_kernels_agree_with_their_twins_in_the_interpreter(name: str) -> None:
    pytest.importorskip("triton", reason="triton is in the dev extra, for Linux alone")
    tests = Path(__file__).with_name(name)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--durations=5", "-p", "no:cacheprovider"),
            # Triton's own way with numpy; and a GPU says nothing of overflow. NaN stays an error.
            *("-W", "ignore:Conversion of an array:DeprecationWarning"),
            *("-W", "ignore:overflow encountered:RuntimeWarning"),
            str(tests),
        ],
        # The interpreter multiplies with numpy, whose OpenBLAS adds up a row otherwise at a tile's edge when it picks its
        # AVX2 kernels: then no kernel of ours could be exact. Its oldest ones treat all rows alike.
        env=os.environ | {"TRITON_INTERPRET": "1", "OPENBLAS_CORETYPE": "Prescott"},
        cwd=tests.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    print(ran.stdout[-6000:], ran.stderr[-2000:])
    assert ran.returncode == 0
    assert "passed" in ran.stdout and "skipped" not in ran.stdout

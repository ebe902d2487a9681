"""The Hopper kernels compile without a GPU, and the compiler's own report says that they fit the device.

Instructions are read with the tools of Triton's wheel.
"""

import re
import subprocess
from pathlib import Path

import pytest
from wideseek_kernels.cuda_build import compile_sm90, find_nvcc

from tests.kernels.sm90_emulated import layout

triton = pytest.importorskip("triton", reason="triton is in the dev extra, for Linux alone")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compiler() -> str | None:
    try:
        return find_nvcc()
    except FileNotFoundError:
        return None


pytestmark = pytest.mark.skipif(compiler() is None, reason="no nvcc: the extra `nvcc` brings it")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[str]]]:
    """The compiler's report, and each kernel's instructions."""
    library = tmp_path_factory.mktemp("sm90") / "sm90.so"
    report = compile_sm90(find_nvcc(), library)
    command = [CUOBJDUMP, "-sass", library]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels: dict[str, list[str]] = {}
    for part in listing.split("Function : ")[1:]:
        name, _, text = part.partition("\n")
        kernels[name] = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s*(.*?);", text, re.MULTILINE)
    return report, kernels


def attention(kernels: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: lines for name, lines in kernels.items() if "9attention" in name}


def test_no_register_is_spilled_and_no_product_waits_for_another(
    built: tuple[str, dict[str, list[str]]],
) -> None:
    report, kernels = built
    assert len(attention(kernels)) == 4 and len(kernels) == 8
    stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", report)
    assert len(stacks) == 8 and set(stacks) == {("0", "0", "0")}
    assert "warning" not in report.lower()
    assert not re.findall(r"\(C\d+\)", report), "remarks on performance: products in line, say"
    # What 384 threads begin with; loading threads then give up what computing ones take.
    registers = {int(count) for count in re.findall(r"Used (\d+) registers, used (?!0)", report)}
    assert registers == {168}


def test_products_and_copies_are_those_of_hopper(
    built: tuple[str, dict[str, list[str]]],
) -> None:
    for name, lines in attention(built[1]).items():
        head_dim = 64 if "Li64" in name else 128
        kind = "F32.BF16" if "bfloat" in name else "F32"
        products = [line for line in lines if "HGMMA" in line]
        scores = [p for p in products if "tnspB" not in p]
        values = [p for p in products if "tnspB" in p]
        # Before the loop and in it; in it and after it.
        assert len(scores) == 2 * head_dim // 16 and len(values) == 2 * 4
        assert all(f"HGMMA.64x64x16.{kind} " in p for p in scores)
        assert all(f"HGMMA.64x{head_dim}x16.{kind} " in p for p in values)
        assert sum("UTMALDG.3D" in line for line in lines) >= 2
        assert any("LDGSTS" in line and "128" in line for line in lines)
        assert not any("HMMA" in line or "LDL" in line or "STL" in line for line in lines)
        # All that is shared is known to be: a generic load would first find out where it reads.
        assert not any(re.search(r"\b(LD|ST)\.E", line) for line in lines)


def test_registers_given_up_are_those_taken(built: tuple[str, dict[str, list[str]]]) -> None:
    loading, computing = layout().registers
    for lines in attention(built[1]).values():
        taken = next(i for i, line in enumerate(lines) if "USETMAXREG.TRY_ALLOC" in line)
        given = next(i for i, line in enumerate(lines) if "USETMAXREG.DEALLOC" in line)
        assert f"{computing:#x}" in lines[taken] and f"{loading:#x}" in lines[given]
        last = max(i for i, line in enumerate(lines) if "UTMALDG" in line or "LDGSTS" in line)
        assert taken < given < last
        assert most_register(lines[taken:given]) < computing
        assert most_register(lines[given:last]) < loading


def most_register(lines: list[str]) -> int:
    return max(int(number) for line in lines for number in re.findall(r"\bR(\d+)\b", line))


def test_softmax_runs_while_products_are_on_their_way(
    built: tuple[str, dict[str, list[str]]],
) -> None:
    """In the loop: products of both kinds, a wait for all but the last group, 32 exponentials, then one for that too.

    The compiler likes to put the second wait right after the first.
    """
    letters = {"tnspB": "v", "HGMMA": "s", "DEPBAR.LE gsb0, 0x0": "0", "DEPBAR.LE gsb0, 0x1": "1"}
    letters["MUFU.EX2"] = "e"
    for lines in attention(built[1]).values():
        told = "".join(
            next((letter for word, letter in letters.items() if word in line), "") for line in lines
        )
        assert re.fullmatch(r"s+0e+s+v{4}1e{32,36}0e*v{4}0e*", told), told

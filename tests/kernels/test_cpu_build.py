"""Building csrc: once for all processes, and the twins with one line where it cannot be built."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from wideseek_kernels import border, cpu_build, reference
from wideseek_kernels.paged_attention import plan_attention
from wideseek_kernels.reference_attention import GatherPlan
from wideseek_kernels.rms_norm import rms_norm


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


WRITES_ITS_OUTPUT = """
case "$*" in *-fsyntax-only*|*--version*) exit 0;; esac
echo "$@" >> "$(dirname "$0")/calls"
sleep 0.1
while [ "$1" != "-o" ]; do shift; done
echo built > "$2"
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that says why there are no kernels."""
    assert cpu_build.cpu_kernels.__wrapped__() is False
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler on this machine"
)
def test_the_sources_of_this_tree_build() -> None:
    """Every test of the kernels is left out where they are not built: here a fault in them shows."""
    assert cpu_build.cpu_kernels()


def test_no_compiler_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert refused(capsys) == (
        "wideseek: no C++ kernels, the slower PyTorch twins run instead: "
        "/nowhere/g++ (CXX) is not a program\n"
    )
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no g++ or clang++" in refused(capsys)
    assert not cache.exists()


def test_a_compiler_that_fails_is_one_line_with_its_complaint(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = 'case "$*" in *--version*) exit 0;; esac\necho "a note\n x.h:1: fatal error: no x\n" >&2\nexit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, broken))
    assert "x.h:1: fatal error: no x" in refused(capsys)
    assert not list(cache.rglob("*.so")) and not list(cache.rglob("*.o"))


def test_what_cannot_be_loaded_or_found_is_one_line(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITES_ITS_OUTPUT))
    assert "wideseek_csrc.so" in refused(capsys)
    monkeypatch.setattr(cpu_build, "SOURCE", tmp_path / "nowhere")
    assert "no sources in" in refused(capsys)


def test_the_twins_run_where_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "cpu_kernels", lambda: False)
    cache = torch.zeros(2, 2, 64, 32)
    plan = plan_attention([np.array([1])], [5], [1], cache)
    assert isinstance(plan.parts, GatherPlan)
    x, weight = torch.randn(3, 100), torch.randn(100)
    assert torch.equal(rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


def test_many_at_once_build_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITES_ITS_OUTPUT))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(cpu_build._library())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and found[0].read_text() == "built\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("-shared" in call for call in calls) == 1
    assert len(calls) == 1 + len(list(cpu_build.SOURCE.glob("*.cpp")))
    assert sorted(path.name for path in found[0].parent.iterdir()) == ["lock", "wideseek_csrc.so"]


def test_another_source_compiler_or_processor_is_another_library(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(tmp_path, "echo version $(cat $(dirname $0)/version)")
    (tmp_path / "version").write_text("1")
    keys = [cpu_build._key(path, [])]
    keys.append(cpu_build._key(path, ["-fopenmp"]))
    (tmp_path / "version").write_text("2")
    keys.append(cpu_build._key(path, []))
    monkeypatch.setattr(cpu_build, "_processor", lambda: "another")
    keys.append(cpu_build._key(path, []))
    source = tmp_path / "csrc"
    source.mkdir()
    (source / "one.cpp").write_text("int x;")
    monkeypatch.setattr(cpu_build, "SOURCE", source)
    keys.append(cpu_build._key(path, []))
    assert len(set(keys)) == 5
    assert keys[-1] == cpu_build._key(path, [])

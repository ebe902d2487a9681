"""Builds the C++ kernels of csrc for this machine, once, and loads them as `torch.ops.wideseek`.

The built library lies in a folder of the user's cache that is named after all that it depends on: its
sources, the compiler and its flags, the processor and torch.
"""

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

SOURCE = Path(__file__).resolve().parents[2] / "csrc"

KERNEL_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast"]
"""Every a * b + c is one rounding or two, but the same everywhere: rows must not differ by their path."""

BIND_FLAGS = ["-std=c++20", "-O1", "-DTORCH_TARGET_VERSION=0x020b000000000000"]

BUILD_SECONDS = 300


@functools.cache
def cpu_kernels() -> bool:
    """Whether `torch.ops.wideseek` is there; builds it if need be, says why on stderr if not."""
    try:
        torch.ops.load_library(str(_library()))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, subprocess.SubprocessError) as failure:
        print(
            f"wideseek: no C++ kernels, the slower PyTorch twins run instead: {reason(failure)}",
            file=sys.stderr,
        )
        return False
    return True


def reason(failure: Exception) -> str:
    """One line: the compiler's first complaint where it made one."""
    if isinstance(failure, subprocess.CalledProcessError):
        lines = [line.strip() for line in failure.stderr.splitlines() if "error" in line]
        return lines[0] if lines else f"{failure.cmd[0]} ended with {failure.returncode}"
    return " ".join(str(failure).split())


def _library() -> Path:
    """The built library. OSError where no compiler or source is found, SubprocessError where it fails."""
    compiler = _compiler()
    flags = _flags(compiler)
    return built_once(_key(compiler, flags), "wideseek_csrc.so", partial(_build, compiler, flags))


def built_once(key: str, name: str, build: Callable[[Path], None]) -> Path:
    """The file of this name in the key's folder of the user's cache; build(path) puts it there in one step."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wideseek" / "csrc"
    path = root / key / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process builds, the others wait for it
        if not path.exists():
            build(path)
    return path


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "clang++", "c++"]:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(f"{named} (CXX) is not a program" if named else "no g++ or clang++")


def _flags(compiler: str) -> list[str]:
    """Flags of every source: this processor's instructions, and OpenMP where the compiler has it."""
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    flags = ["-fPIC"]
    for flag in (native, "-fopenmp"):
        probe = [compiler, flag, "-x", "c++", "-fsyntax-only", "-"]
        empty = subprocess.run(probe, input="", capture_output=True, text=True, timeout=60)
        if empty.returncode == 0:
            flags.append(flag)
    return flags


def _key(compiler: str, flags: list[str]) -> str:
    version = [compiler, "--version"]
    parts = [
        *flags,
        *KERNEL_FLAGS,
        *BIND_FLAGS,
        subprocess.run(version, capture_output=True, text=True, timeout=60).stdout,
        _processor(),
        torch.__version__,
    ]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in [*_sources(), Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> list[Path]:
    files = sorted([*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h")])
    if not files:
        raise FileNotFoundError(f"no sources in {SOURCE}")
    return files


def _processor() -> str:
    """What -march=native looks at: a cache on a shared disk must not serve another machine."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(kept)])


def _build(compiler: str, flags: list[str], library: Path) -> None:
    """Compile all sources side by side, link them, put the library in its place in one step."""
    run = partial(subprocess.run, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS)
    torch_at = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch, ThreadPoolExecutor() as pool:

        def compiled(path: Path) -> str:
            own = KERNEL_FLAGS
            if path.stem == "bind":
                own = [*BIND_FLAGS, f"-I{torch_at / 'include'}"]
            target = str(Path(scratch) / f"{path.stem}.o")
            run([compiler, *flags, *own, "-c", str(path), "-o", target])
            return target

        objects = list(pool.map(compiled, SOURCE.glob("*.cpp")))
        built = Path(scratch) / library.name
        torch_library = [f"-L{torch_at / 'lib'}", "-ltorch_cpu"]
        run([compiler, "-shared", *flags, *objects, "-o", str(built), *torch_library])
        built.replace(library)

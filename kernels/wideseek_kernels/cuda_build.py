"""Builds the Hopper kernels of csrc with nvcc, once, and loads them by ctypes: they know no torch and need none to build."""

import ctypes
import functools
import hashlib
import shutil
import site
import subprocess
import sys
from functools import partial
from pathlib import Path

from wideseek_kernels.cpu_build import BUILD_SECONDS, SOURCE, built_once, reason

NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-Xcompiler=-fPIC",
    "-Xptxas=-v",
    "-shared",
    "-cudart=static",
]
"""-v: the compiler tells registers, spills, and products it had to put in line."""


class AttentionSm90(ctypes.Structure):
    """WideseekAttentionSm90 of csrc/launch_sm90.cuh."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k_cache", "v_cache", "out")),
        *((name, ctypes.c_void_p) for name in ("lse", "partials", "states")),
        *((name, ctypes.c_void_p) for name in ("items", "tokens", "merges", "pages", "stream")),
        *((name, ctypes.c_int64) for name in ("num_items", "num_merges", "most_tokens")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv", "num_pages", "page_size")),
        ("head_dim", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("device", "is_bf16")),
    ]


@functools.cache
def sm90_kernels() -> ctypes.CDLL | None:
    """The library; None, and why on stderr, where it cannot be built."""
    try:
        compiler = find_nvcc()
        library = ctypes.CDLL(
            str(built_once(_key(compiler), "wideseek_sm90.so", partial(_build, compiler)))
        )
    except (OSError, subprocess.SubprocessError) as failure:
        print(f"wideseek: no CUDA C++ kernels: {reason(failure)}", file=sys.stderr)
        return None
    library.wideseek_attention_sm90.argtypes = [ctypes.POINTER(AttentionSm90)]
    library.wideseek_attention_sm90_error.restype = ctypes.c_char_p
    return library


def find_nvcc() -> str:
    """nvcc on the path, or that of NVIDIA's wheels (the extra `nvcc`). FileNotFoundError where there is neither."""
    wheels = [Path(folder) / "nvidia" / "cu13" / "bin" for folder in site.getsitepackages()]
    found = shutil.which("nvcc") or shutil.which("nvcc", path=":".join(map(str, wheels)))
    if found is None:
        raise FileNotFoundError("no nvcc on the path or among the installed packages")
    return found


def compile_sm90(compiler: str, library: Path) -> str:
    """Compiles csrc's CUDA sources into a library; what the compiler says of them. SubprocessError where it fails."""
    command = [compiler, *NVCC_FLAGS, f"-L{Path(compiler).parents[1] / 'lib'}"]
    done = subprocess.run(
        [*command, *map(str, sorted(SOURCE.glob("*.cu"))), "-o", str(library)],
        check=True,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    return done.stdout + done.stderr


def _build(compiler: str, library: Path) -> None:
    unfinished = library.with_suffix(".part")  # one process builds at a time
    compile_sm90(compiler, unfinished)
    unfinished.replace(library)


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60)
    digest = hashlib.sha256("\0".join([*NVCC_FLAGS, version.stdout]).encode())
    for path in sorted([*SOURCE.glob("*.cu"), *SOURCE.glob("*.cuh")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

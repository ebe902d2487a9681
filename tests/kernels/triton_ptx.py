"""PTX of the Triton attention for sm_90, compiled in a process of its own: drivers are set for all of a process."""

import subprocess
import sys

PROGRAM = """
import sys, torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction
from wideseek_kernels.launch_plan import LaunchPlan
from wideseek_kernels.on_triton import paged_attention

class Hopper:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver._active = Hopper()
kernels, run = [], JITFunction.run
def compile_only(self, *args, grid, warmup, **named):
    kernels.append(run(self, *args, grid=grid, warmup=True, **named))
JITFunction.run = compile_only
def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")
def ints(*shape):
    return meta(*shape, dtype=torch.int64)
head_dim = int(sys.argv[1])
cache = meta(1000, 8, 64, head_dim)
plan = LaunchPlan(256, 1000, ints(500, 5), ints(256, 4), ints(99), ints(5000))
q = meta(256, 32, head_dim)
paged_attention.paged_attention(q, cache, cache, plan, q, meta(256, 32, dtype=torch.float32))
print(kernels[0].asm["ptx"])
"""


def attention_ptx(head_dim: int) -> str:
    """Of bf16, pages of 64 and four query heads a key head."""
    command = [sys.executable, "-c", PROGRAM, str(head_dim)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

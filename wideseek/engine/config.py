"""The knobs of one Engine."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How an Engine uses its machine. Where it is exact, none but dtype and kv_dtype changes which tokens come out.

    dtype "auto" is float32 on a CPU and bfloat16 on CUDA; device "auto" is CUDA where there is one.
    kv_dtype "auto" keeps keys and values in dtype, "fp8" in e4m3: a byte each, rounded to within 2^-4.
    page_size: tokens of one KV page, a power of two up to 512.
    kv_memory_gb, num_pages: size of the KV pool in GiB or in pages; neither: what max_num_seqs full
    contexts need, at most an eighth of the machine's memory (CUDA: four fifths of what is free).
    max_num_seqs: sequences that run at once. max_batch_tokens: tokens of one forward, decode and
    prefill together. max_model_len: longest context in tokens, at most the model's own.
    max_draft_tokens: guesses of a sequence in one forward, copied from its own text; 0 for none.
    exact: a token's bits do not depend on who is computed beside it: on CUDA in any dtype, on a CPU in fp32 on one thread
    (on more where products are small). Without it, where two tokens are about as likely, batch mates may tip the scales.
    None: yes on a CPU, no on CUDA. Its price: padding rows and oneMKL for few of them on a CPU, products of our own
    instead of cuBLAS's on CUDA.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    kv_dtype: Literal["auto", "fp8"] = "auto"
    page_size: int = 64
    kv_memory_gb: float | None = None
    num_pages: int | None = None
    max_num_seqs: int = 128
    max_batch_tokens: int = 2048
    max_model_len: int | None = None
    enable_prefix_cache: bool = True
    max_draft_tokens: int = 15
    exact: bool | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype must be auto, float32 or bfloat16, not {self.dtype!r}")
        if self.kv_dtype not in ("auto", "fp8"):
            raise ValueError(f"kv_dtype must be auto or fp8, not {self.kv_dtype!r}")
        if not 1 <= self.page_size <= 512 or self.page_size & (self.page_size - 1):
            raise ValueError(f"page_size must be a power of two up to 512, not {self.page_size}")
        if self.kv_memory_gb is not None and self.num_pages is not None:
            raise ValueError("give kv_memory_gb or num_pages, not both")
        if self.kv_memory_gb is not None and not self.kv_memory_gb > 0:
            raise ValueError(f"kv_memory_gb must be above 0, not {self.kv_memory_gb}")
        for name in ("num_pages", "max_num_seqs", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.max_draft_tokens < 0:
            raise ValueError(f"max_draft_tokens must be at least 0, not {self.max_draft_tokens}")
        if self.max_batch_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_batch_tokens {self.max_batch_tokens} is less than max_num_seqs "
                f"{self.max_num_seqs}: not every sequence could decode in a step"
            )

"""ModelRunner: one Step in, sampled tokens and their log-probabilities out. Owns the KV tensors."""

import math
import os
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from wideseek_kernels.exact_linear import exact_linear
from wideseek_kernels.fast_linear import fast_linear
from wideseek_kernels.kv_cache import FP8, as_bytes
from wideseek_kernels.launch_plan import LaunchPlan
from wideseek_kernels.on_device import on_device
from wideseek_kernels.paged_attention import plan_attention, row_tile
from wideseek_kernels.sample import sample
from wideseek_kernels.token_logprob import token_logprob

from wideseek.engine.config import EngineConfig
from wideseek.engine.step import Sampled, Step
from wideseek.engine.step_attention import PagedAttention
from wideseek.engine.step_graphs import StepGraphs
from wideseek.engine.step_inputs import StepInputs
from wideseek.generation import Sampling
from wideseek.model.qwen3 import Qwen3, lay_side_by_side

DEVICE_SHARE, HOST_SHARE = 0.8, 0.125
"""Of a CUDA device's free memory, or of a host's whole one, what the KV pool takes by default."""


def placement(config: EngineConfig) -> tuple[str, torch.dtype]:
    """Device and dtype that `config` asks for on this machine."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    return device, getattr(torch, dtype)


def kv_dtype(model: Qwen3, config: EngineConfig) -> torch.dtype:
    """What keys and values are kept in."""
    return FP8 if config.kv_dtype == "fp8" else model.model.embed_tokens.weight.dtype


def kv_pages_that_fit(model: Qwen3, config: EngineConfig, max_model_len: int) -> int:
    """Pages of the KV pool that `config` asks for; ValueError if that is none."""
    if config.num_pages is not None:
        return config.num_pages
    shape, weight = model.config, model.model.embed_tokens.weight
    token_size = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    page_bytes = config.page_size * token_size * kv_dtype(model, config).itemsize
    if config.kv_memory_gb is not None:
        num_pages = int(config.kv_memory_gb * 2**30) // page_bytes
        if num_pages == 0:
            raise ValueError(
                f"kv_memory_gb {config.kv_memory_gb} is less than one page of {page_bytes} bytes"
            )
        return num_pages
    if weight.device.type == "cuda":
        memory = DEVICE_SHARE * torch.cuda.mem_get_info(weight.device)[0]
    else:
        memory = HOST_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = config.max_num_seqs * -(-max_model_len // config.page_size)
    return max(1, min(int(memory) // page_bytes, wanted))


Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class ModelRunner:
    """Holds keys and values [layers, num_pages, kv_heads, page_size, head_dim] beside the model, in kv_dtype.

    Where it is to be exact, rows are padded to multiples of `row_tile` on a CPU, and products are `exact_linear` on CUDA:
    otherwise the number of batch mates may change the last bits of a token's logits.
    """

    def __init__(self, model: Qwen3, config: EngineConfig, num_pages: int) -> None:
        sizes, weight = model.config, model.model.embed_tokens.weight
        page_size = config.page_size
        shape = (sizes.num_layers, num_pages, sizes.num_kv_heads, page_size, sizes.head_dim)
        self.model = model
        self._page_size = page_size
        self._device = weight.device
        self._dtype = weight.dtype
        on_cpu = weight.device.type == "cpu"
        exact = on_cpu if config.exact is None else config.exact
        is_fast = on_cpu and not exact
        self._row_tile = 1 if is_fast else row_tile(weight.device, weight.dtype)
        # On a CPU torch's own products of padded rows are exact.
        is_own = exact and not on_cpu
        model.set_product(fast_linear if is_fast else exact_linear if is_own else F.linear)
        self.prepare_seconds = self.sample_seconds = 0.0
        """What the last step spent on inputs and plan, and on logits and sampling."""
        self._samplings: list[Sampling] = []
        self._columns = self._columns_of([])
        # Zeros, not noise: masked keys are multiplied by 0, which does not silence a NaN.
        self._k_cache = torch.zeros(shape, dtype=kv_dtype(model, config), device=weight.device)
        self._v_cache = torch.zeros_like(self._k_cache)
        self._kv_shape = self._k_cache.shape
        self._graphs = self._new_graphs()

    def _new_graphs(self) -> StepGraphs | None:
        if self._device.type != "cuda":
            return None
        lay_side_by_side(self.model)  # before graphs know their addresses
        torch.cuda.empty_cache()  # of where they were
        return StepGraphs(self.model, self._k_cache, self._v_cache)

    def clear(self) -> None:
        """Zero all KV, after a step that may have left NaN in it."""
        self._k_cache.zero_()
        self._v_cache.zero_()

    def free_kv(self) -> None:
        """Let go of the KV's memory; nothing runs until `restore_kv`."""
        self._graphs = None  # they know the caches, and the weights, by their addresses
        self._k_cache = self._k_cache.new_empty(0)
        self._v_cache = self._v_cache.new_empty(0)

    def restore_kv(self) -> None:
        """Take the memory back, with nothing in it."""
        self._k_cache = self._k_cache.new_zeros(self._kv_shape)
        self._v_cache = self._v_cache.new_zeros(self._kv_shape)
        self._graphs = self._new_graphs()

    @torch.inference_mode()
    def run(self, step: Step) -> Sampled:
        """Compute a step; FloatingPointError if the model's logits are not finite."""
        begun = perf_counter()
        # Decoding sequences side by side in order of length, for attention to read together.
        order = sorted(
            range(len(step.sequences)),
            key=lambda i: (step.num_tokens[i] > 1, -step.sequences[i].num_computed),
        )
        sequences = [step.sequences[i] for i in order]
        counts = [step.num_tokens[i] for i in order]
        inputs = StepInputs.of(sequences, counts, step.copies, self._page_size, self._row_tile)
        self.prepare_seconds = perf_counter() - begun
        hidden = self.forward(inputs)
        begun = perf_counter()
        ends = dict(zip(order, np.cumsum(counts).tolist(), strict=True))
        sampled = self._sample(hidden, step, ends)
        if any(sequence.is_scored for sequence in step.sequences):
            sampled = self._with_scores(sampled, hidden, step, ends)
        self.sample_seconds = perf_counter() - begun
        return sampled

    @torch.inference_mode()
    def forward(self, inputs: StepInputs) -> Tensor:
        """Hidden states [rows, C] of a step, read before the next one's; keys and values are kept."""
        begun = perf_counter()
        if len(inputs.copies):
            sources, targets = torch.from_numpy(inputs.copies).to(self._device).T
            for cache in (as_bytes(self._k_cache), as_bytes(self._v_cache)):
                cache[:, targets] = cache[:, sources]
        as_graph = self._graphs is not None and self._graphs.takes(len(inputs.slots))
        plan = plan_attention(
            inputs.pages,
            inputs.kv_lens,
            inputs.q_lens,
            self._k_cache[0],
            self._dtype,
            device=torch.device("cpu") if as_graph else self._device,
        )
        self.prepare_seconds += perf_counter() - begun
        if as_graph and isinstance(plan.parts, LaunchPlan):
            assert self._graphs is not None
            return self._graphs.run(inputs, plan)
        columns = [torch.from_numpy(x) for x in (inputs.tokens, inputs.positions, inputs.slots)]
        tokens, positions, slots = on_device(columns, self._device)
        attention = PagedAttention(self._k_cache, self._v_cache, slots, plan)
        computed: Tensor = self.model(tokens, positions, attention)
        return computed

    def _sample(self, hidden: Tensor, step: Step, ends: dict[int, int]) -> Sampled:
        """Next tokens of the wanted rows, those of scored sequences apart; `ends` in hidden."""
        rows: list[int] = []
        positions: list[int] = []
        samplings: list[Sampling] = []
        for index, count in enumerate(step.num_rows):
            sequence = step.sequences[index]
            if count and not sequence.is_scored:
                rows += range(ends[index] - count, ends[index])
                positions += range(sequence.num_tokens, sequence.num_tokens + count)
                samplings += [sequence.sampling] * count
        if not rows:
            return Sampled([], [], [])
        num_rows = len(rows)
        rows += [rows[0]] * (-num_rows % self._row_tile)
        if samplings != self._samplings:  # seldom, while the same sequences decode
            self._samplings, self._columns = samplings, self._columns_of(samplings)
        # On a GPU nothing here waits for the model but the last line: all is launched while it computes.
        chosen, places = on_device([torch.tensor(rows), torch.tensor(positions)], self._device)
        logits = self.model.logits(hidden[chosen])
        tokens, logprobs, plain_logprobs = sample(logits[:num_rows], *self._columns, places)
        largest = logits.amax().expand(num_rows)  # which NaN and infinity pass through
        # One copy to the host: fp64 holds every token id and every fp32 as it is.
        results = (tokens, logprobs, plain_logprobs, largest)
        drawn = torch.stack([x.double() for x in results]).tolist()
        if not math.isfinite(drawn[3][0]):
            raise FloatingPointError("the model's logits are not finite")
        return Sampled([int(token) for token in drawn[0]], drawn[1], drawn[2])

    def _columns_of(self, samplings: list[Sampling]) -> Columns:
        """Temperature, top-k, top-p, min-p and seed [rows] each."""
        vocab_size = self.model.config.vocab_size

        floats = [
            [s.temperature for s in samplings],
            [s.top_p for s in samplings],
            [s.min_p for s in samplings],
        ]
        integers = [
            [min(s.top_k, vocab_size) for s in samplings],
            [_as_int64(s.seed) for s in samplings],
        ]
        numbers = torch.tensor(floats, dtype=torch.float64).view(torch.int64)  # by their bits
        columns = numbers, torch.tensor(integers, dtype=torch.int64)
        numbers, (top_k, seeds) = on_device(columns, self._device)
        temperature, top_p, min_p = numbers.view(torch.float64).float()
        return temperature, top_k, top_p, min_p, seeds

    def _with_scores(
        self, drawn: Sampled, hidden: Tensor, step: Step, ends: dict[int, int]
    ) -> Sampled:
        """`drawn`, with the log-probabilities of given tokens in between, in the step's order."""
        rows: list[int] = []
        given: list[int] = []
        places: list[int] = []
        wanted = 0
        for index, count in enumerate(step.num_rows):
            sequence = step.sequences[index]
            if sequence.is_scored:
                after = sequence.num_computed + step.num_tokens[index] + 1
                rows += range(ends[index] - count, ends[index])
                given += sequence.tokens[after - count : after].tolist()
                places += range(wanted, wanted + count)
            wanted += count
        if not rows:
            return drawn
        head = self.model.model.embed_tokens if self.model.lm_head is None else self.model.lm_head
        padding = -len(rows) % self._row_tile
        columns = [torch.tensor(x + x[:1] * padding) for x in (rows, given)]
        chosen, ids = on_device(columns, self._device)
        scores, _ = token_logprob(hidden[chosen], head.weight, ids)
        if not torch.isfinite(scores).all():
            raise FloatingPointError("the model's log-probabilities are not finite")
        merged = Sampled([*drawn.token_ids], [*drawn.logprobs], [*drawn.plain_logprobs])
        # Places ascend: each entry moves only those that come after it.
        for place, token, score in zip(places, given, scores.tolist(), strict=False):
            merged.token_ids.insert(place, token)
            merged.logprobs.insert(place, score)
            merged.plain_logprobs.insert(place, score)
        return merged


def _as_int64(seed: int) -> int:
    """Any integer by its last 64 bits."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)

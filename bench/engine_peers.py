"""Replays a trace on what people would use instead: one peer, one process, one line of JSON.

`PYTHON bench/engine_peers.py PEER --trace FILE --model PATH`, PYTHON being that of an environment
that has the peer; PATH is what the peer reads: a Hugging Face folder, for openvino one that
optimum-intel exported, for llama_cpp a GGUF file. Exit codes: 0; 2 usage; 3 the peer is not there.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from wide_trace import (
    distinct_tokens,
    fingerprint,
    peak_memory_mib,
    read_trace,
    replay_in_steps,
)

MAX_LEN, MAX_SEQS, MAX_BATCH_TOKENS = 8192, 128, 2048
CACHE_TOKENS = 2**18
"""KV of so many tokens is room enough for a trace of 128 contexts."""


class Peer(Protocol):
    """Something that continues token ids greedily, past any end of text."""

    version: str

    def submit(self, name: str, ids: list[int], count: int) -> None: ...

    def step(self) -> Iterable[tuple[str, list[int]]]: ...


class Transformers:
    """`generate` on a padded batch of all that is ready; nothing is kept between two batches."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        import transformers

        self.version = transformers.__version__
        self._torch = torch
        self._model = transformers_model(options)
        self._ready: list[tuple[str, list[int], int]] = []

    def submit(self, name: str, ids: list[int], count: int) -> None:
        self._ready.append((name, list(ids), count))

    def step(self) -> list[tuple[str, list[int]]]:
        count = self._ready[0][2]
        batch = [turn for turn in self._ready if turn[2] == count][:MAX_SEQS]
        self._ready = [turn for turn in self._ready if turn not in batch]
        longest = max(len(ids) for _, ids, _ in batch)
        ids = self._torch.tensor([[0] * (longest - len(i)) + i for _, i, _ in batch])
        mask = self._torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for _, i, _ in batch])
        with self._torch.inference_mode():
            said = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return [(turn[0], row[longest:].tolist()) for turn, row in zip(batch, said, strict=True)]


class TransformersContinuous:
    """`transformers`' own continuous batching with its prefix cache."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        import transformers

        self.version = transformers.__version__
        config = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        if not torch.cuda.is_available():
            import psutil  # noqa: F401 - without it, it believes that a CPU has no memory
        sizes = transformers.ContinuousBatchingConfig(
            num_blocks=CACHE_TOKENS // 256, block_size=256, max_batch_tokens=MAX_BATCH_TOKENS
        )
        self._manager = transformers_model(options).init_continuous_batching(config, sizes)
        self._manager.start()
        self._number = 0

    def submit(self, name: str, ids: list[int], count: int) -> None:
        self._number += 1
        self._manager.add_request(
            list(ids), request_id=f"{name} {self._number}", max_new_tokens=count
        )

    def step(self) -> list[tuple[str, list[int]]]:
        result = self._manager.get_result(timeout=60)
        if result is None or result.error is not None:
            raise RuntimeError(f"continuous batching gave {result and result.error}")
        if not result.is_finished():
            return []
        return [(result.request_id.rsplit(" ", 1)[0], list(result.generated_tokens))]

    def close(self) -> None:
        self._manager.stop(block=True, timeout=30)


class Vllm:
    """vLLM's synchronous engine with its prefix cache."""

    def __init__(self, options: argparse.Namespace) -> None:
        import vllm

        self.version = vllm.__version__
        self._vllm = vllm
        self._engine = vllm.LLMEngine.from_engine_args(
            vllm.EngineArgs(
                model=str(options.model),
                dtype=options.dtype,
                skip_tokenizer_init=True,
                max_model_len=MAX_LEN,
                max_num_seqs=MAX_SEQS,
                max_num_batched_tokens=MAX_BATCH_TOKENS,
                enable_prefix_caching=True,
            )
        )
        self._number = 0

    def submit(self, name: str, ids: list[int], count: int) -> None:
        self._number += 1
        sampling = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False
        )
        prompt = {"prompt_token_ids": list(ids)}
        self._engine.add_request(f"{name} {self._number}", prompt, sampling)

    def step(self) -> list[tuple[str, list[int]]]:
        return [
            (output.request_id.rsplit(" ", 1)[0], list(output.outputs[0].token_ids))
            for output in self._engine.step()
            if output.finished
        ]


class OpenVino:
    """OpenVINO GenAI's continuous batching with its prefix cache."""

    def __init__(self, options: argparse.Namespace) -> None:
        import openvino
        import openvino_genai

        self.version = openvino_genai.__version__
        self._openvino, self._genai = openvino, openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = MAX_SEQS
        scheduler.max_num_batched_tokens = MAX_BATCH_TOKENS
        hint = {"bfloat16": "bf16", "float32": "f32"}[options.dtype]
        properties = {"INFERENCE_PRECISION_HINT": hint}
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = options.threads
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(options.model), scheduler, "CPU", properties
        )
        self._handles: dict[str, Any] = {}
        self._number = 0

    def submit(self, name: str, ids: list[int], count: int) -> None:
        self._number += 1
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = count, True
        prompt = self._openvino.Tensor([list(ids)])
        self._handles[name] = self._pipeline.add_request(self._number, prompt, config)

    def step(self) -> list[tuple[str, list[int]]]:
        self._pipeline.step()
        ended = self._genai.GenerationStatus.FINISHED
        done = [name for name, each in self._handles.items() if each.get_status() == ended]
        return [(name, list(self._handles.pop(name).read_all()[0].generated_ids)) for name in done]


class LlamaCpp:
    """llama-cpp-python, one context after the other; it keeps the prefix that two calls share."""

    def __init__(self, options: argparse.Namespace) -> None:
        import llama_cpp

        self.version = llama_cpp.__version__
        self._llama = llama_cpp.Llama(
            str(options.model), n_ctx=MAX_LEN, n_threads=options.threads, verbose=False
        )
        self._ready: list[tuple[str, list[int], int]] = []

    def submit(self, name: str, ids: list[int], count: int) -> None:
        self._ready.append((name, list(ids), count))

    def step(self) -> list[tuple[str, list[int]]]:
        name, ids, count = self._ready.pop()  # the latest shares most with what was just said
        said: list[int] = []
        for token in self._llama.generate(ids, temp=0.0):
            said.append(token)
            if len(said) == count:
                break
        return [(name, said)]


PEERS: dict[str, Callable[[argparse.Namespace], Peer]] = {
    "transformers": Transformers,
    "transformers_continuous": TransformersContinuous,
    "vllm": Vllm,
    "openvino": OpenVino,
    "llama_cpp": LlamaCpp,
}


def transformers_model(options: argparse.Namespace) -> Any:
    import torch
    import transformers

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(options.model), dtype=getattr(torch, options.dtype)
    )
    return model.eval()


def measure(peer: Peer, trace: dict[str, Any]) -> dict[str, Any]:
    """One replay, loading apart, as figures."""
    begun, cpu = time.perf_counter(), time.process_time()
    said = replay_in_steps(trace, peer.submit, peer.step)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    generated = sum(len(reply) for replies in said.values() for reply in replies)
    return {
        "version": peer.version,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "generated_tokens": generated,
        "tokens_per_second": generated / seconds,
        "prefill_distinct": distinct_tokens(trace, said),
        "peak_memory_mib": peak_memory_mib(),
        "fingerprint": fingerprint(said),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    try:
        trace = read_trace(options.trace)
        if not options.model.exists():
            raise ValueError(f"no model at {options.model}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        peer = PEERS[options.peer](options)
    except ImportError as error:
        print(f"{options.peer} is not in this environment: {error}", file=sys.stderr)
        return 3
    figures = measure(peer, trace)
    if isinstance(peer, TransformersContinuous):
        peer.close()
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

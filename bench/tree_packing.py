"""What a training step gains from computing shared prefixes once; one JSON into bench/results.

    python bench/tree_packing.py [--rounds 5] [--tokens 2560] [--shape mini|qwen3-150m ...]

Groups of trajectories of which the first 4/5 is a shared prefix and the rest, sampled and trained, their own. Packing,
forward, loss and backward, laid out as a tree and flat, in turns; a ratio is the median over rounds of the quotient
within the round, and stands beside the quotient of the multiply-adds, counted.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from kernels_cpu import RESULTS, machine, report, take_turns
from wideseek_train.loss import LossConfig, policy_loss
from wideseek_train.packing import MicroBatch, pack, pack_tree
from wideseek_train.sample import Sample
from wideseek_train.trainer import token_logprobs
from wideseek_train.trie import Trie

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

GROUP, PREFIX_PARTS, OWN_PARTS = 8, 4, 1


def shape_of(heads: int, kv_heads: int, hidden: int, intermediate: int, layers: int) -> ModelConfig:
    return ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=8512,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=64,
        max_position_embeddings=32768,
    )


SHAPES = {"mini": shape_of(5, 5, 384, 384, 5), "qwen3-150m": shape_of(12, 4, 768, 2048, 12)}


def siblings(config: ModelConfig, prefix: int, own: int) -> list[Sample]:
    """A group that shares its first `prefix` tokens and was trained on the `own` others."""
    trunk = torch.randint(config.vocab_size, (prefix,))
    trained = torch.arange(prefix + own) >= prefix
    return [
        Sample(
            role="lead",
            token_ids=torch.cat((trunk, torch.randint(config.vocab_size, (own,)))),
            trained=trained,
            engine_logprobs=trained * -9.0,
            advantages=trained * (1.0 if attempt % 2 else -1.0),
            weights=trained * (1.0 / (GROUP * own)),
        )
        for attempt in range(GROUP)
    ]


def step(model: Qwen3, samples: Sequence[Sample], lay_out: Callable[..., MicroBatch]) -> None:
    """The gradient of one micro-batch, from the samples on."""
    model.zero_grad()
    micro = lay_out(samples)
    loss, _ = policy_loss(
        LossConfig(),
        token_logprobs(model, micro)[0],
        micro.engine_logprobs,
        micro.advantages,
        micro.weights,
        micro.sample_ids,
    )
    loss.backward()


def flops(config: ModelConfig, trie: Trie, trained: int) -> float:
    """Of forward and backward. Attention's backward takes five products for two, the head's forward runs twice."""
    rows = config.num_heads * config.head_dim
    weights = 2 * config.hidden_size * (rows + config.num_kv_heads * config.head_dim)
    weights += 3 * config.hidden_size * config.intermediate_size
    layer = 6 * weights * trie.num_tokens + 14 * rows * trie.num_pairs
    return float(config.num_layers * layer + 8 * config.hidden_size * config.vocab_size * trained)


def measure(name: str, tokens: int, rounds: int) -> dict[str, Any]:
    """One group of trajectories of so many tokens each."""
    config = SHAPES[name]
    own = tokens * OWN_PARTS // (PREFIX_PARTS + OWN_PARTS)
    model, samples = Qwen3(config), siblings(config, tokens - own, own)
    model.init_weights(0)
    flat = Trie.flat([len(sample) for sample in samples])
    tree = Trie.of([sample.token_ids for sample in samples])
    seconds = take_turns(
        {
            "flat": lambda: step(model, samples, pack),
            "tree": lambda: step(model, samples, pack_tree),
        },
        rounds,
    )
    row = report(
        seconds,
        [("tree", "flat")],
        op="forward and backward",
        shape=name,
        dtype="float32",
        group=GROUP,
        prefix=tokens - own,
        own=own,
    )
    ratio = flops(config, flat, GROUP * own) / flops(config, tree, GROUP * own)
    row["tokens"] = {"flat": flat.num_tokens, "tree": tree.num_tokens}
    row["flop_ratio"] = round(ratio, 4)
    row["share_of_flop_ratio"] = round(row["ratio"]["flat / tree"]["median"] / ratio, 4)
    print(f"  of {ratio:.2f} by multiply-adds: {row['share_of_flop_ratio']:.2f}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1280, 2560])
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=["mini"])
    options = parser.parse_args()
    if options.rounds < 2 or min(options.tokens) < PREFIX_PARTS + OWN_PARTS:
        parser.error("--rounds must be at least 2, --tokens at least 5")
    torch.manual_seed(0)
    rows = [
        measure(shape, tokens, options.rounds)
        for shape in options.shape
        for tokens in options.tokens
    ]
    taken = machine()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"tree_packing-{str(taken['date'])[:10]}-{taken['threads']}threads.json"
    path.write_text(json.dumps({"machine": taken, "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()

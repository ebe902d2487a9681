"""What a decode step costs, and how much of it is the engine's own work beside the model."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from engine_trace import load

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Sampling

PARTS = ("schedule", "prepare", "model", "sample", "commit")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="random:tiny", help="random:tiny, random:small, folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=64, help="sequences that decode")
    parser.add_argument("--context", type=int, default=512, help="tokens of each to begin with")
    parser.add_argument("--steps", type=int, default=100, help="tokens that each decodes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: its own")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")


def seconds_of(engine: Engine) -> dict[str, float]:
    """What each part of all steps took so far."""
    times = engine.stats().times
    return {part: (each := getattr(times, part)).count * each.mean for part in PARTS}


def measure(engine: Engine, prompts: list[list[int]], steps: int) -> dict[str, float]:
    """Milliseconds a step in which all prompts decode and nothing else happens.

    The prompts' KV is in place, so that a first step computes the last token of each and every
    other one decodes. host is all wall time but model and sample, of the loop around a step too.
    """
    sampling = Sampling(temperature=0.0, max_tokens=steps)
    before, number = seconds_of(engine), engine.stats().steps
    begun = time.perf_counter()
    engine.generate_batch([(ids, sampling) for ids in prompts])
    wall = time.perf_counter() - begun
    number = engine.stats().steps - number
    figures = {part: seconds - before[part] for part, seconds in seconds_of(engine).items()}
    figures |= {"wall": wall, "host": wall - figures["model"] - figures["sample"]}
    return {name: seconds / number * 1e3 for name, seconds in figures.items()} | {"steps": number}


def run(options: argparse.Namespace) -> None:
    """Measure, print a line a repeat, write the JSON; ValueError for bad flags."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load(options.model, options.dtype)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.context)
    prompts: list[list[int]] = torch.randint(
        0, model.config.vocab_size, shape, generator=generator
    ).tolist()
    config = EngineConfig(
        max_num_seqs=options.batch,
        max_batch_tokens=max(2048, options.batch),
        max_draft_tokens=0,
        max_model_len=options.context + options.steps,
    )
    rows: list[dict[str, Any]] = []
    with Engine(model, config) as engine:
        engine.generate_batch([(ids, Sampling(max_tokens=1)) for ids in prompts])
        for _ in range(options.repeats):
            rows.append(row := measure(engine, prompts, options.steps))
            parts = ", ".join(f"{part} {row[part]:.3f}" for part in PARTS)
            print(f"{row['wall']:.3f} ms a step: {parts}; host {row['host']:.3f}", flush=True)
    if options.output is not None:
        chosen = {name: str(value) for name, value in vars(options).items() if name != "output"}
        options.output.write_text(json.dumps(chosen | {"runs": rows}, indent=1) + "\n")

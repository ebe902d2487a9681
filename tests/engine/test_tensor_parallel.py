"""Two ranks, processes on gloo, say what one process says; and what becomes of them when one of them fails.

Sums over ranks add in another order than one product does, so log-probs agree to 1e-5 and not to the bit; tokens are
the same where the two likeliest are not that close, which holds for all of these.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from tests.engine.conftest import VOCAB, random_model, weights_of
from tests.ranks import run_two_ranks
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.errors import EngineClosed
from wideseek.engine.tensor_parallel import RankRunner, RankWeights, load_over_ranks
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.shard import Shard
from wideseek.model.weights import load_model, save_model

TIGHT = EngineConfig(
    device="cpu", page_size=8, num_pages=48, max_num_seqs=6, max_batch_tokens=48, max_model_len=256
)
"""Prompts come in chunks and sequences lose their pages to others."""
PATIENCE = timedelta(seconds=8)
TOLERANCE = {"rel": 1e-5, "abs": 1e-5}
Told = list[dict[str, Any]]


def jobs() -> list[tuple[list[int], Sampling]]:
    """Prompts that begin alike and repeat themselves, greedy and sampled."""
    rng = np.random.default_rng(3)
    prefix = rng.integers(0, VOCAB, 40).tolist()
    own = [rng.integers(0, VOCAB, 7 + 2 * i).tolist() for i in range(8)]
    return [
        (
            prefix + own[i] * 3,
            Sampling(temperature=0.0, max_tokens=70)
            if i % 2
            else Sampling(temperature=0.4, top_p=0.9, max_tokens=70, seed=i),
        )
        for i in range(8)
    ]


def said(completions: list[Completion]) -> Told:
    return [
        {"ids": list(c.token_ids), "logprobs": [*c.logprobs, *c.plain_logprobs]}
        for c in completions
    ]


def say(engine: Engine, count: int = 8) -> Told:
    """What an engine says to some of the jobs and scores, guessing wherever it finds a match."""
    engine._scheduler.row_cost.break_even = lambda decoding: 0.0  # type: ignore[method-assign]
    scored = asyncio.run(engine.score(jobs()[0][0], first=3))
    engine.generate_batch([([1], Sampling(max_tokens=1))])  # so that short replies are expected
    return said([scored, *engine.generate_batch(jobs()[:count])])


def weights(seed: int) -> dict[str, Tensor]:
    return weights_of(random_model(seed))


@contextmanager
def fault(engine: Engine, module: str, act: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, a module of rank 0's part puts out something else."""
    of = engine.model.get_submodule(module)
    hook = of.register_forward_hook(lambda _module, _inputs, output: act(output))
    yield
    hook.remove()


def lose(_: object, __: object = None) -> Tensor:
    raise RuntimeError("a device is lost")


def usual(engine: Engine) -> dict[str, Told]:
    """Everything that reaches the other ranks, one thing after the other."""
    found = {"at first": say(engine)}
    stats = engine.stats()
    assert stats.prefix_hit_tokens and stats.preemptions and stats.accepted_tokens
    name = "model.layers.1.mlp.down_proj.weight"
    for wrong, message in (
        ({name: torch.zeros(48, 32)}, r"\(48, 32\), the model \(48, 64\)"),
        ({"model.layers.9.mlp.down_proj.weight": torch.zeros(1)}, "no tensor model.layers.9"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.update_weights((weights(1) | wrong).items())
    with pytest.raises(ValueError, match=f"missing tensors: {name}"):
        engine.update_weights((n, t) for n, t in weights(1).items() if n != name)
    found["after refused weights"] = say(engine, 2)
    with (
        fault(engine, "model.layers.0.self_attn.v_proj", lambda x: x * torch.nan),
        pytest.raises(RuntimeError, match="not finite"),
    ):
        engine.generate_batch(jobs())
    found["after a failed step"] = say(engine, 2)
    engine.sleep()
    engine.wake()
    found["after a sleep"] = say(engine, 2)
    engine.update_weights(weights(1).items())
    found["new weights"] = say(engine)
    engine.sleep(drop_weights=True)
    with pytest.raises(ValueError, match="weights were dropped"):
        engine.wake()
    engine.wake((name, tensor.double()) for name, tensor in weights(0).items())
    found["old weights again"] = say(engine, 2)
    time.sleep(1.3 * PATIENCE.total_seconds())
    found["after a rest"] = say(engine, 2)
    return found


def lost(engine: Engine) -> None:
    """Its calls fail, at once, and so do all that come later."""
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="a step of the engine failed"):
        engine.generate_batch(jobs())
    assert time.monotonic() - began < PATIENCE.total_seconds() / 2
    with pytest.raises(EngineClosed):
        engine.generate_batch(jobs())


def lead(engine: Engine, scenario: str, folder: Path) -> None:
    """Rank 0's side of a scenario."""
    if scenario == "usual":
        (folder / "said.json").write_text(json.dumps(usual(engine)))
    elif scenario == "rank 1 fails":
        lost(engine)
    else:
        with fault(engine, "model.layers.1.mlp", lose):
            lost(engine)


def watch(patch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What rank 1 still holds, in numbers that are not zero, each time it was told to let go of something."""
    seen: list[tuple[str, int]] = []

    def note(of: type, method: str, held: Callable[[Any], Tensor]) -> None:
        plain = getattr(of, method)

        def call(self: object) -> None:
            plain(self)
            seen.append((method, int(held(self).count_nonzero())))

        patch.setattr(of, method, call)

    note(RankRunner, "clear", lambda runner: runner._k_cache)
    note(RankRunner, "free_kv", lambda runner: runner._v_cache)
    note(RankWeights, "drop", lambda weights: torch.cat([*weights._parameters.values()]))
    return seen


def run_rank(rank: int, folder: Path) -> None:
    """One of two ranks through all scenarios; rank 1 writes down how each of them ended, and when."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    endings: dict[str, object] = {}
    for scenario in ("usual", "rank 1 fails", "rank 0 fails"):
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            if (scenario, rank) == ("rank 1 fails", 1):
                patch.setattr(RankRunner, "forward", lose)
            if (scenario, rank) == ("usual", 1):
                endings["let go"] = watch(patch)
            try:
                engine = load_over_ranks(folder, TIGHT, PATIENCE)
                ending = "closed"
            except RuntimeError as error:
                engine, ending = None, str(error)
        endings[scenario] = (ending, time.monotonic() - began)
        if engine is not None:
            with engine:
                lead(engine, scenario, folder)
    if rank == 1:
        (folder / "endings.json").write_text(json.dumps(endings))
    dist.barrier()  # or the end of a process would be what the other hears of
    dist.destroy_process_group()


def write_folder(folder: Path, model: Qwen3) -> None:
    """A model with a tokenizer that nobody asks for a word."""
    tokenizer = Tokenizer(models.WordLevel({"w": 0}, unk_token="w"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    save_model(model, folder)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_folder(folder, random_model(0))
    run_two_ranks(run_rank, folder, 120)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[int, Told]:
    """What one process says with the weights of a seed, each time with an engine that knows nothing yet."""
    told = {}
    for seed in (0, 1):
        with Engine(random_model(seed), TIGHT) as engine:
            told[seed] = say(engine)
    return told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "seed"),
    [
        ("at first", 0),
        ("after refused weights", 0),
        ("after a failed step", 0),
        ("after a sleep", 0),
        ("new weights", 1),
        ("old weights again", 0),
        ("after a rest", 0),
    ],
)
def test_two_ranks_say_what_one_says(
    two_ranks: Path, alone: dict[int, Told], when: str, seed: int
) -> None:
    """With chunks, shared prefixes, preemption and guesses, and whatever happened before."""
    told: Told = json.loads((two_ranks / "said.json").read_text())[when]
    expected = alone[seed][: len(told)]
    assert [t["ids"] for t in told] == [t["ids"] for t in expected]
    for ours, theirs in zip(told, expected, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], **TOLERANCE)


@pytest.mark.slow
def test_batch_mates_change_no_bit_of_two_ranks(two_ranks: Path) -> None:
    """The sum of two numbers has no order."""
    told = json.loads((two_ranks / "said.json").read_text())
    assert told["after a sleep"] == told["at first"][:3]


@pytest.mark.slow
def test_the_other_rank_lets_go_when_rank_0_does(two_ranks: Path) -> None:
    """Of KV after a failed step, and in two sleeps, of the weights in the second."""
    let_go = json.loads((two_ranks / "endings.json").read_text())["let go"]
    assert let_go == [["clear", 0], ["free_kv", 0], ["free_kv", 0], ["drop", 0]]


@pytest.mark.slow
def test_the_other_rank_ends_with_the_engine(two_ranks: Path) -> None:
    """Closed, it returns; without rank 0 it raises long before it has waited as long as it may."""
    endings = json.loads((two_ranks / "endings.json").read_text())
    assert endings["usual"][0] == "closed"
    assert endings["rank 1 fails"][0] == "a device is lost"
    ending, seconds = endings["rank 0 fails"]
    assert "onnection" in ending and seconds < PATIENCE.total_seconds() / 2


SHAPE = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=30,
    hidden_size=12,
    intermediate_size=24,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    max_position_embeddings=64,
    tied_head=False,
)


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_the_parts_in_a_folder_make_up_the_whole(tmp_path: Path, architecture: str) -> None:
    whole = Qwen3(replace(SHAPE, architecture=architecture))
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_()
    save_model(whole, tmp_path)
    parts = [load_model(tmp_path, shard=Shard(rank, 4)) for rank in range(4)]
    assert parts[0].config.num_kv_heads == 1
    held = [dict(part.named_parameters()) for part in parts]
    for name, tensor in whole.named_parameters():
        pieces = [own[name] for own in held]
        if "o_proj" in name or "down_proj" in name:
            assert torch.equal(torch.cat(pieces, 1), tensor), name
        elif "_proj" in name:
            assert torch.equal(torch.cat(pieces), tensor), name
        else:
            assert all(torch.equal(piece, tensor) for piece in pieces), name


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({"num_heads": 9, "num_kv_heads": 3}, 2, "num_heads 9 cannot be split over 2 ranks"),
        ({}, 8, "num_kv_heads 4 cannot be split over 8 ranks"),
        ({"intermediate_size": 22}, 4, "intermediate_size 22 cannot be split over 4 ranks"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(
    tmp_path: Path, changes: dict[str, int], ranks: int, message: str
) -> None:
    save_model(Qwen3(replace(SHAPE, **changes)), tmp_path)
    with pytest.raises(ValueError, match=f"^{message}$"):
        load_model(tmp_path, shard=Shard(0, ranks))


def test_a_tensor_of_another_shape_is_refused_by_its_whole_shape(tmp_path: Path) -> None:
    save_model(Qwen3(SHAPE), tmp_path)
    file = tmp_path / "model.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**load_file(file), name: torch.zeros(12, 12)}, file)
    with pytest.raises(ValueError, match=r"up_proj\.weight has shape \(12, 12\).*\(24, 12\)"):
        load_model(tmp_path, shard=Shard(1, 2))

"""Checks one case of merging.json: turns as one training sequence, each token at its place."""

from typing import Any

from chains import build_samples
from compare import FLOAT32, difference
from wideseek_train.sample import Sample

from wideseek.trajectory import Trajectory

Json = dict[str, Any]
# How the reference pads, and what it multiplies only to divide by it again.
ITS_OWN = {"padding_after", "advantages", "loss_scales"}


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return {"seq_length", "pad_token", "turns"} <= case["input"].keys()


def check_merging(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given, expected = case["input"], case["expected"]
    turns = given["turns"]
    try:
        built = build_samples(
            turns,
            [turn["advantage"] for turn in turns],
            given["loss_scales"],
            given["actor_global_batch_size"],
        )
    except ValueError:
        return difference({"error": "ZeroDivisionError"}, expected)
    built.sort(key=lambda entry: entry[2][-1])
    sequences = [
        _as_reference(number, turns[chain[0]], trajectory, sample)
        for number, trajectory, chain, sample in built
    ]
    if "sequences" in expected:
        expected = {
            "sequences": [
                _in_common(sequence, len(expected["sequences"]))
                for sequence in expected["sequences"]
            ]
        }
    return difference({"sequences": sequences}, expected, tolerance=FLOAT32)


def _as_reference(number: int, turn: Json, trajectory: Trajectory, sample: Sample) -> Json:
    prompt, last = len(trajectory.prompt_token_ids), trajectory.turns[-1].completion
    assert last is not None
    return {
        "trajectory": number,
        "agent": int(trajectory.agent_id),
        "input_ids": sample.token_ids.tolist(),
        "prompt_length": prompt,
        "response_length": len(sample) - prompt,
        "response_mask": sample.trained.int().tolist(),
        "logprobs": sample.engine_logprobs.tolist(),
        "reward": turn["reward"],
        "is_end": last.finish_reason == "length",
        "weighted_advantages": (sample.advantages * sample.weights).tolist(),
    }


def _in_common(sequence: Json, sequences: int) -> Json:
    """A sequence of the reference, its factors multiplied as its loss does."""
    common = {key: value for key, value in sequence.items() if key not in ITS_OWN}
    if "weighted_advantages" in sequence:  # what a deviation says instead
        return common
    tokens = sum(sequence["response_mask"])
    common["weighted_advantages"] = [
        advantage * scale / (sequences * tokens)
        for advantage, scale in zip(sequence["advantages"], sequence["loss_scales"], strict=True)
    ]
    return common

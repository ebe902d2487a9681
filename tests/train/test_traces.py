"""Traces: whose rollouts they are, and which of them a run goes on from."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from wideseek_train.traces import drop_traces_after, read_trace_heads, weights_sha256

from tests.train.moody import SilentModel, collector, moody, tasks_of
from tests.train.start import write_start
from wideseek.model.renderer import Renderer


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer.load(write_start(tmp_path_factory.mktemp("start")))


def test_traces_of_other_weights_are_not_gone_on_from(tmp_path: Path, renderer: Renderer) -> None:
    """Rollouts are kept for the weights that sampled them; those of others are sampled anew."""
    collector(tmp_path, moody(renderer)).collect(0, {}, "a")
    drop_traces_after(tmp_path, 0, "a")
    silent = SilentModel(renderer, tasks_of(0))
    assert collector(tmp_path, silent).collect(0, {}, "a")
    drop_traces_after(tmp_path, 0, "b")
    model = moody(renderer)
    groups = collector(tmp_path, model).collect(0, {}, "b")
    assert model.replies > len(groups)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    weights = {json.loads(line)["weights"] for line in lines}
    assert weights == {"b"}


def test_the_hash_of_weights_tells_one_bit() -> None:
    model = nn.Linear(3, 2)
    before = weights_sha256(model)
    assert weights_sha256(copy.deepcopy(model)) == before
    with torch.no_grad():
        model.bias[0] = torch.nextafter(model.bias[0], torch.tensor(9.0))
    assert weights_sha256(model) != before


def test_heads_of_traces_are_of_the_newest_step(tmp_path: Path, renderer: Renderer) -> None:
    """Of each rank's file no more than asked for, and not a line that is being written."""
    assert read_trace_heads(tmp_path, 2) == []
    for step in (0, 1):
        collector(tmp_path, moody(renderer, step)).collect(step, {})
    (path,) = tmp_path.glob("step-000001-*")
    heads = read_trace_heads(tmp_path, 2)
    assert [head.step for head in heads] == [1, 1]
    path.write_bytes(path.read_bytes().split(b"\n")[0][:-50])
    assert {head.step for head in read_trace_heads(tmp_path, 2)} == {0}

"""Where a model's answers break: which of the expert's turns it would say word for word, given all that came before.

An answer is a chain of turns and is lost with its first wrong token, so scores of whole runs stay low until every link
holds and say little about which one fails. Read with the expert's text before it, each turn is judged by itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.renderer import Renderer
from wideseek.trajectory import Rollout, Trajectory
from wideseek_train.demonstrations import to_example


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTurn:
    """One turn of the expert under a model: `kind` of turn, and the text around its first wrong token, if any."""

    kind: str
    tokens: int
    wrong: int
    before: str = ""
    expected: str = ""
    chosen: str = ""
    nats: float = 0.0


def kind_of_turn(trajectory: Trajectory, index: int) -> str:
    """What a turn is for: the lead's plan, wave or answer; a subagent's search, access, list or report."""
    last = index == len(trajectory.turns) - 1
    if trajectory.role == "lead":
        return "lead plan" if index == 0 else "lead answer" if last else "lead wave"
    if trajectory.role == "single":
        return "single plan" if index == 0 else "single answer" if last else "single step"
    if not last:
        return "sub search" if index == 0 else "sub access"
    return "sub list" if trajectory.task.startswith("list: ") else "sub report"


@torch.inference_mode()
def read_turns(model: Qwen3, renderer: Renderer, rollouts: Iterable[Rollout]) -> Iterator[ReadTurn]:
    """Every turn of the rollouts, judged by the first choice of `model` at each token that the expert said."""
    for rollout in rollouts:
        for trajectory in rollout.trajectories:
            example = to_example(trajectory, trajectory.role)
            ids = torch.from_numpy(example.token_ids).long()
            bounds = torch.tensor([0, len(ids)])
            said = torch.from_numpy(example.said)
            at = said.nonzero()[:, 0]
            hidden = model(ids, torch.arange(len(ids)), PackedAttention(bounds))
            logits = model.logits(hidden[at - 1])
            right = (logits.argmax(-1) == ids[at]).numpy()
            starts = np.flatnonzero(np.diff(at.numpy(), prepend=-2) > 1)
            for index, rows in enumerate(np.split(np.arange(len(at)), starts[1:])):
                kind, wrong = kind_of_turn(trajectory, index), rows[~right[rows]]
                if not len(wrong):
                    yield ReadTurn(kind=kind, tokens=len(rows), wrong=0)
                    continue
                row = int(wrong[0])
                here = int(at[row])
                yield ReadTurn(
                    kind=kind,
                    tokens=len(rows),
                    wrong=len(wrong),
                    before=renderer.decode(ids[max(0, here - 24) : here].tolist()),
                    expected=renderer.decode([int(ids[here])]),
                    chosen=renderer.decode([int(logits[row].argmax())]),
                    nats=-float(logits[row].log_softmax(-1)[ids[here]]),
                )

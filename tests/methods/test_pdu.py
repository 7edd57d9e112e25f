"""PDU: its loss, three steps by hand in which the multiplier moves, and that a killed run goes on with it (the matrix)."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch
from torch import nn

from lethe.methods.lm.pdu import margin_loss


def test_golden() -> None:
    assert margin_loss(torch.tensor([[3.0, 0.0, 0.0], [2.0, 2.0, 2.0]])).tolist() == [4.0, 0.0]


@pytest.mark.parametrize(("warmup", "bound"), [(0.0, 0.05), (1.0, 0.05), (0.0, None)])
def test_three_steps_by_hand(warmup: float, bound: float | None) -> None:
    """One batch is all of F and of R. λ: after the first step, or after the second where one pass is warm-up."""
    task, lr, rate = tiny.lm(), 0.01, 4.0
    found = byhand.run("pdu", task, alpha=2.0, epsilon=bound, dual_lr=rate, warmup=warmup, lr=lr, epochs=3)
    columns = {name: task.splits[name].columns for name in ("forget", "retain")}

    def forget(m: nn.Module) -> torch.Tensor:
        kept = columns["forget"]["labels"][:, 1:] != -100
        z = m(input_ids=columns["forget"]["ids"]).logits[:, :-1]
        return (((z.max(-1).values - z.mean(-1)) ** 2 * kept).sum(1) / kept.sum(1)).mean()

    def retain(m: nn.Module) -> torch.Tensor:
        labels = columns["retain"]["labels"][:, 1:]
        kept = labels != -100
        z = m(input_ids=columns["retain"]["ids"]).logits[:, :-1].log_softmax(-1)
        return -((z.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2) * kept).sum(1) / kept.sum(1)).mean()

    with torch.no_grad():
        epsilon = float(retain(task.original.eval())) + 0.1 if bound is None else bound
    weight, objectives = 2.0, []
    for step in range(3):
        objectives.append(lambda m, w=weight: forget(m) + w * retain(m))
        at = byhand.steps(task, objectives[:-1], lr=lr) if step else task.original
        with torch.no_grad():
            if step >= warmup:
                weight = max(0.0, weight + rate * (float(retain(at)) - epsilon))
    byhand.assert_same(task, found, byhand.steps(task, objectives, lr=lr), atol=1e-5)
    assert weight != 2.0

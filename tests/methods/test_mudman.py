"""MUDMAN: its losses, three steps by hand over a fork, and what the mask and the length promise."""

from __future__ import annotations

import math

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.methods.lm.mudman import entropy_loss, logit_loss


def test_golden() -> None:
    assert entropy_loss(torch.zeros(2)).item() == pytest.approx(-math.log(2))
    z = torch.tensor([3.0, 0.0, 0.0])
    assert logit_loss(z, torch.tensor(0)).item() == 2.0 and logit_loss(z, torch.tensor(1)).item() == 0.0


@pytest.mark.parametrize("loss", ["entropy", "ascent", "logit"])
def test_three_steps_by_hand(loss: str) -> None:
    """The adversary is forked at steps 0 and 2, and relearns in between. Only gate projections move."""
    task, lr, retain_lr, relearn_lr, mu = tiny.lm(), 0.05, 0.02, 0.5, 0.8
    found = byhand.run("mudman", task, loss=loss, lr=lr, retain_lr=retain_lr, relearn_lr=relearn_lr, momentum=mu, fork=2, steps=3,
                       batch_size=100)

    def unlearn(m: nn.Module) -> Tensor:
        z, y, kept = plain.seen(m, task.forget)
        if loss == "entropy":
            return plain.mean((z.softmax(-1) * z.log_softmax(-1)).sum(-1), kept)
        if loss == "ascent":
            return -plain.nll(m, task.forget)
        return plain.mean(torch.relu(z.gather(2, y[..., None]).squeeze(2) - z.mean(-1)), kept)

    def gates(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in found.items() if "gate_proj" in key}

    model, smooth, other = byhand.trainable(task.original), {}, None
    for step in range(3):
        other = byhand.trainable(model) if step % 2 == 0 else other
        retained = gates(byhand.gradient(model, lambda m: plain.nll(m, task.retain)))
        smooth = {key: mu * smooth.get(key, g) + (1 - mu) * g for key, g in retained.items()}
        push = gates(byhand.gradient(other, unlearn))
        relearn = gates(byhand.gradient(other, lambda m: plain.nll(m, task.forget)))
        push = {key: torch.where(g.sign() == smooth[key].sign(), g, 0.0) for key, g in push.items()}
        length = math.sqrt(sum(float(g.double().square().sum()) for g in push.values()))
        assert sum(float((g * smooth[key]).sum()) for key, g in push.items()) >= 0
        with torch.no_grad():
            for key, g in push.items():
                model.get_parameter(key).sub_(retain_lr * smooth[key] + lr * g / length)
                other.get_parameter(key).sub_(relearn_lr * relearn[key])
    byhand.assert_same(task, found, model, atol=2e-5)

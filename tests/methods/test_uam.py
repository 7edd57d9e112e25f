"""UAM: the gradient is taken where the forget loss is higher, the step where the weights are."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.methods.general.uam import AtWorst, moved


def test_golden_move() -> None:
    # the norm over both tensors is √(9 + 16) = 5
    found = moved([torch.tensor([3.0]), torch.tensor([4.0])], 0.5)
    torch.testing.assert_close(torch.cat(found), torch.tensor([0.3, 0.4]))
    assert moved([torch.zeros(2)], 0.5)[0].tolist() == [0, 0]


def test_the_step_uses_the_gradient_at_the_moved_point_and_puts_the_weights_back() -> None:
    """L_R = θ², L_F = 3θ at θ = 2: g = 3, the point is 2 + 0.5, the retain gradient there 5."""
    theta = torch.nn.Parameter(torch.tensor([2.0]))
    applied: list[tuple[float, float]] = []
    AtWorst([theta], 0.5).step(
        ["retain", "forget"],
        lambda names: [torch.tensor([3.0])] if names == ["forget"] else [2 * theta.detach()],
        lambda grads: applied.append((float(grads[0]), float(theta.detach()))),
    )
    assert applied == [(5.0, 2.0)]


def test_without_radius_it_is_finetune() -> None:
    task = classification()
    same = {"lr": 1e-2, "epochs": 2}
    assert state_fingerprint(run("uam", task, rho=0.0, **same).model) == state_fingerprint(run("finetune", task, **same).model)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    worst = byhand.trainable(task.original)
    up = byhand.gradient(worst, lambda m: nll(m, task.forget))
    norm = torch.cat([g.flatten() for g in up.values()]).norm()
    with torch.no_grad():
        for name, p in worst.named_parameters():
            p.add_(0.5 * up[name] / norm)
    there = byhand.gradient(worst, lambda m: nll(m, task.retain))
    wanted = byhand.trainable(task.original)
    with torch.no_grad():
        for name, p in wanted.named_parameters():
            p.sub_(byhand.LR * there[name])
    byhand.assert_same(task, byhand.run("uam", task, rho=0.5), wanted)

"""Members of `combine` that are optimisers: DualOptim+ and SIFT, by golden numbers, by hand and in a run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.train.modifiers.combine.dual_optim import DualOptim
from lethe.train.modifiers.combine.sift import Sift, direction, msign


def steps(member: DualOptim | Sift, rounds: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What is applied, where each round has its own gradient for each term; and what is remembered."""
    memory: dict[str, Tensor] = {}
    applied: list[Tensor] = []
    recalling = member.recalling({"w": nn.Parameter(torch.zeros_like(next(iter(rounds[0].values()))))}, memory)
    for table in rounds:
        recalling.step(list(table), lambda names, table=table: [torch.stack([table[n] for n in names]).sum(0)],
                       lambda grads: applied.append(grads[0]))
    return applied, memory


def test_dual_optim_golden() -> None:
    """Forget 2: m̂/√v̂ = 1 with nothing shared. Then m_b = 2, v_b = 4, and retain −1: (−3 + 2)/√|−3 + 4| = −1."""
    table = {"forget": torch.tensor([2.0]), "retain": torch.tensor([-1.0])}
    applied, _ = steps(DualOptim(ratio=0.5), [table])
    assert [x.item() for x in applied] == pytest.approx([0.5, -1.0])
    assert [x.item() for x in steps(DualOptim(first="retain", ratio=0.5), [table])[0]] == pytest.approx([-0.5, 1.0])
    assert steps(DualOptim(), [{"forget": torch.tensor([2.0])}])[0] == [torch.tensor([2.0])]   # one term: its gradient


def test_dual_optim_by_hand() -> None:
    """Three rounds of two terms, in scalars, written as the docstring has it."""
    rounds = [{"forget": torch.tensor([f]), "retain": torch.tensor([r])} for f, r in ((2.0, -1.0), (0.5, 3.0), (-1.0, 0.2))]
    b1, b2, b3, b4 = 0.8, 0.9, 0.7, 0.6
    found, memory = steps(DualOptim(beta1=b1, beta2=b2, base1=b3, base2=b4), rounds)
    base_m = base_v = 0.0
    own, wanted, taken = {"forget": (0.0, 0.0), "retain": (0.0, 0.0)}, [], 0
    for t, table in enumerate(rounds, 1):
        for name, tensor in table.items():
            g, (m, v) = float(tensor), own[name]
            known_m, known_v = (base_m / (1 - b3**taken), base_v / (1 - b4**taken)) if taken else (0.0, 0.0)
            m, v = b1 * m + (1 - b1) * (g - known_m), b2 * v + (1 - b2) * (g * g - known_v)
            quotient = (m / (1 - b1**t) + known_m) / (abs(v / (1 - b2**t) + known_v) ** 0.5 + 1e-8)
            wanted.append(max(-1.0, min(1.0, quotient)))
            base_m, base_v = b3 * base_m + (1 - b3) * g, b4 * base_v + (1 - b4) * g * g
            own[name], taken = (m, v), taken + 1
    assert [x.item() for x in found] == pytest.approx(wanted, rel=1e-4)
    assert any(abs(x) < 0.99 for x in wanted)   # not all are at the bound
    assert memory["m shared/w"].item() == pytest.approx(base_m, rel=1e-4)


def test_sift_golden() -> None:
    torch.testing.assert_close(msign(torch.diag(torch.tensor([3.0, -2.0]))), torch.diag(torch.tensor([1.0, -1.0])))
    one, other = torch.diag(torch.tensor([2.0, 0.0])), torch.diag(torch.tensor([0.0, -3.0]))
    torch.testing.assert_close(direction(one, other, 1), torch.diag(torch.tensor([1.0, -1.0])))
    torch.testing.assert_close(direction(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), 1), torch.tensor([0.6, 0.8]))
    tall = direction(*torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0)), 1)
    torch.testing.assert_close(torch.linalg.svdvals(tall), torch.full((2,), 2.0))   # √(8/2), and all alike
    # Nesterov: g + μ·g at first, then g + μ·(μ·g + g); the length of a vector's step is 1 all the same
    applied, memory = steps(Sift(momentum=0.5), [{"forget": torch.tensor([1.0, 0.0]), "retain": torch.tensor([0.0, 1.0])}] * 2)
    torch.testing.assert_close(applied[1], torch.full((2,), 0.5**0.5))
    assert memory["own/w"].tolist() == [1.5, 0.0]


def test_the_methods_optimiser_has_no_part_in_it() -> None:
    """NPO by AdamW with a clip takes the steps of DualOptim+, at its learning rate, and says so."""
    task = tiny.lm()
    options = {"lr": 1e-3, "epochs": 1, "warmup": 0, "batch_size": 100, "weight_decay": 0.0, "progress": False,
               "watchdog": False, "modifiers": {"combine": "dual_optim"}}
    clipped = lethe.forget(task, "npo", clip=1e-3, **options)
    assert any("DualOptim takes the steps" in note for note in clipped.notes)
    largest = max(float((p.detach() - task.original.get_parameter(name)).abs().max())
                  for name, p in clipped.model.named_parameters())
    assert 1e-3 < largest <= 2.01e-3   # one step each: forget's of 1e-3 wherever there is a gradient, then retain's

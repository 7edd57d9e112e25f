"""A dictionary: its loss by hand with a silent direction, and sparse states that it finds again."""

from __future__ import annotations

import dataclasses

import byhand
import pytest
import torch

from lethe.core.seeds import generator
from lethe.maths.sparse_codes import unexplained
from lethe.train.loop import Loop, Settings
from lethe.train.sparse_codes import Coding, Dictionary, learned


def test_the_loss_by_hand() -> None:
    """Two directions e_1 and e_2, k = 1, states (3, 1) and (−1, 1) around 0 with s = √3: only e_1 is used for the first, which
    leaves (0, 1); of (−1, 1) e_2 is used. Once it counts as silent for long, it explains what is left."""
    states = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    made = Dictionary(states, 2, 1, generator(0, "test"))
    with torch.no_grad():
        made.centre.zero_()
        made.scale.fill_(3**0.5)
        made.reads.copy_(torch.eye(2))
        made.says.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))   # rows count by their direction alone
    left = 1 + 1                                # (0, 1) and (−1, 0), over s²
    spread = 2 * (4 + 0)                        # around the mean (1, 1)
    plain = float(made.loss(states, Coding(aux=0.0), "row").detach())
    assert plain == pytest.approx(left / spread) and made.idle.tolist() == [0, 0]
    assert torch.allclose(made.written(states), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), atol=1e-6)
    cfg = Coding(aux=0.5, aux_k=1, silent=1)
    first = states[:1].repeat(2, 1)
    first[1, 0] = 4                             # (3, 1), (4, 1): e_2 is silent in both, and leaves (0, 1) twice
    found = float(made.loss(first, cfg, "row").detach())
    assert made.idle.tolist() == [0, 2]
    spread = 2 * 0.25
    assert found == pytest.approx(2 / spread)   # ê = e exactly: the second part is 0
    with torch.no_grad():
        made.reads[1] *= 2                      # ê = 2e: Σ‖e − ê‖² = Σ‖e‖², and e has no variance
        first[1, 1] = 0                         # … but now (0, 1) and (0, 0): ê = (0, 2), (0, 0), 1 / (2 · ¼)
    found = float(made.loss(first, cfg, "row").detach())
    assert found == pytest.approx(1 / (2 * (0.25 + 0.25)) + 0.5 * 1 / 0.5)


def test_sparse_states_are_explained() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.nn.functional.normalize(torch.randn(24, 12, generator=rng), dim=1)
    codes = torch.rand(400, 24, generator=rng) * (torch.rand(400, 24, generator=rng) < 0.06)
    states = codes @ hidden + 2
    task = byhand.regression()
    loop = Loop(task, Settings(seed=1))
    cfg = Coding(lr=0.03, epochs=15, warmup=5, batch_size=100, silent=400)
    found = learned(cfg, task, loop, states, 48, 4)
    assert 1 - float(unexplained(states, found.written(states))) > 0.85
    assert "48 directions, 4 of them" in loop.notes[0] and loop.cost.steps == 60
    short = dataclasses.replace(cfg, epochs=1)
    one, again = (learned(short, task, Loop(task, Settings(seed=1)), states, 48, 4) for _ in range(2))
    other = learned(short, task, Loop(task, Settings(seed=1)), states, 48, 4, "batch")
    assert torch.equal(one.reads, again.reads) and not torch.equal(one.reads, other.reads)

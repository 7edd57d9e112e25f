"""LAF: its bounded error, its alignment, and that no label is ever read."""

from __future__ import annotations

import math
from typing import Any

import byhand
import pytest
import torch
from running import run
from tiny import classification
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.methods.general.laf import bounded, drift, spread_out

QUICK = {"epochs": 2, "fit_steps": 50}


def test_golden_numbers() -> None:
    # error (1, 1): M = 2, exp(2/3); no error: exp(0); a huge one stays below e
    e = torch.tensor([[0.0, 0.0], [2.0, 3.0], [1e6, 0.0]])
    torch.testing.assert_close(bounded(torch.tensor([[1.0, 1.0], [2.0, 3.0], [0.0, 0.0]]), e),
                               torch.tensor([math.exp(2 / 3), 1.0, math.e]))
    assert drift(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).tolist() == [0.0, 1.0]
    torch.testing.assert_close(spread_out(torch.zeros(2), 20.0), torch.full((2,), -math.log(2)))


def test_the_two_parts_are_the_published_contrast() -> None:
    """Mean over R of log(exp c_i / Σ_F exp(c_j/τ)) is mean c_i − logsumexp."""
    kept, gone = torch.rand(5), torch.rand(4)
    published = (kept.exp() / (gone / 3).exp().sum()).log().mean()
    torch.testing.assert_close(kept.mean() + spread_out(gone, 3.0).mean(), published)


def test_no_label_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    task = classification()

    def guarded(self: Batch, name: str) -> Any:
        if name == "y":
            raise AssertionError("LAF read a label")
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None

    monkeypatch.setattr(Batch, "__getattr__", guarded)
    with pytest.raises(AssertionError, match="read a label"):
        task.nll(task.original, task.forget.batch([0]))   # the trap works
    run("laf", task, **QUICK)


def test_other_labels_give_the_same_bits() -> None:
    task = classification()
    turned = {n: Split({"x": task.splits[n].columns["x"], "y": task.splits[n].columns["y"].flip(0) * 0}, n, task.splits[n].ids)
              for n in ("forget", "retain")}
    assert state_fingerprint(run("laf", task, **QUICK).model) == state_fingerprint(
        run("laf", task.replaced(task.original, **turned), **QUICK).model)


def test_forgotten_features_drift_and_retained_ones_stay() -> None:
    task = classification()
    model = run("laf", task, extract_lr=1e-3, align_lr=3e-3, temperature=1.0, epochs=20, fit_steps=300).model
    moved = {}
    for name in ("forget", "retain"):
        batch = task.splits[name].batch(range(len(task.splits[name])))
        with torch.no_grad():
            moved[name] = float(drift(task.features(model, batch), task.features(task.original, batch)).mean())
    assert moved["forget"] > 5 * moved["retain"]


def test_two_turns_by_hand() -> None:
    task, tau, beta = byhand.classification(), 0.7, 0.3
    x = {name: task.splits[name].columns["x"] for name in ("forget", "retain")}
    h = {name: task.original.features(rows).detach() for name, rows in x.items()}
    every = torch.cat([h["forget"], h["retain"]])
    mean, scale = every.mean(0), every.std(0)
    coders = {}
    for place, name in enumerate(("forget", "retain")):
        seed = derive(0, "laf", place)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encode, decode = (nn.Sequential(nn.Linear(a, 4), nn.ReLU(), nn.Linear(4, b)) for a, b in ((5, 4), (2, 5)))
        rng, e = torch.Generator().manual_seed(seed), (h[name] - mean) / scale
        taken = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=0.02)
        for _ in range(3):
            some = e[torch.randint(len(e), (len(e),), generator=rng)]
            middle, spread = encode(some).split(2, 1)
            said = decode(middle + (spread / 2).exp() * torch.randn(len(e), 2, generator=rng))
            far = -0.5 * (1 + spread - middle**2 - spread.exp()).sum(1)
            taken.zero_grad()
            (((said - some) ** 2).sum(1) + beta * far).mean().backward()
            taken.step()
        coders[name] = (encode, decode)

    def extract(m: byhand.Any) -> torch.Tensor:
        value = {}
        for name, (encode, decode) in coders.items():
            e = (m.features(x[name]) - mean) / scale
            gap = ((decode(encode(e)[:, :2]) - e) ** 2).sum(1)
            value[name] = torch.exp(gap / (1 + gap)).sum()   # of twelve, and of six
        return value["retain"] - value["forget"]

    def align(m: byhand.Any) -> torch.Tensor:
        c = {}
        for name in x:
            now = m.features(x[name])
            c[name] = 1 - (now * h[name]).sum(1) / now.norm(dim=1) / h[name].norm(dim=1)
        return c["retain"].sum() - 12 * (c["forget"] / tau).exp().sum().log()

    wanted = task.original
    for _ in range(2):
        wanted = byhand.stepped(byhand.stepped(wanted, [extract], lr=0.02), [align], lr=0.004)
    found = byhand.run("laf", task, extract_lr=0.02, align_lr=0.004, temperature=tau, beta=beta, epochs=2, latent=2, width=4,
                       fit_steps=3, fit_lr=0.02)
    byhand.assert_same(task, found, wanted, atol=1e-5)

"""SalUn: the mask is that of a full sort, and what lies outside stays bit for bit whatever the optimiser wants."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint

HARSH = {"lr": 0.1, "weight_decay": 0.1, "epochs": 5}   # momentum 0.9 and weight decay pull at every weight


def test_masked_weights_stay_bit_identical_and_the_mask_is_that_of_a_full_sort() -> None:
    task = classification()
    outcome = run("salun", task, density=0.3, **HARSH)
    model = task.copy_of_original()
    task.nll(model, task.forget.batch(range(len(task.forget)))).sum().backward()
    scores = torch.cat([p.grad.abs().flatten() for p in model.parameters() if p.grad is not None])
    moved = torch.cat([(outcome.model.get_parameter(n) != p).flatten() for n, p in model.named_parameters()])
    expected = torch.zeros_like(moved)
    expected[scores.argsort(descending=True)[: round(0.3 * len(scores))]] = True
    assert torch.equal(moved, expected)


def test_density_one_is_random_label() -> None:
    task = classification()
    whole, plain = run("salun", task, density=1.0), run("random_label", task)
    assert state_fingerprint(whole.model) == state_fingerprint(plain.model)


def test_density_zero_changes_nothing() -> None:
    task = classification()
    assert state_fingerprint(run("salun", task, density=0.0, **HARSH).model) == state_fingerprint(task.original)


def test_one_step_by_hand() -> None:
    task = byhand.classification(classes=2)
    original, other = byhand.trainable(task.original), 1 - task.forget.columns["y"]
    salient = byhand.gradient(original, lambda m: nll(m, task.forget))
    size = torch.cat([g.flatten() for g in salient.values()]).abs().sort(descending=True).values
    least = size[round(0.3 * len(size)) - 1]   # the smallest of the 30 % that may move
    step = byhand.gradient(original, lambda m: 0.4 * nll(m, task.retain) + 0.5 * nll(m, task.forget, other))   # 6 beside 12
    with torch.no_grad():
        for name, p in original.named_parameters():
            p.sub_(byhand.LR * torch.where(salient[name].abs() >= least, step[name], 0.0))
    byhand.assert_same(task, byhand.run("salun", task, alpha=0.4, density=0.3, include_true=False), original)


def test_a_step_on_text_to_image_by_hand() -> None:
    """Forgotten captions are taught what the model says for the anchor; before, the anchor was taught to draw their pictures."""
    task = byhand.diffusion()
    text, kept_text = (task.text(split.columns["tokens"]) for split in (task.forget, task.retain))
    empty = task.text(task.tokens([""]))
    rows, x, t, _ = byhand.noised(task, task.forget, "forget")
    kept, y, s, noise = byhand.noised(task, task.retain, "retain")

    def objective(m: byhand.Any) -> byhand.Tensor:
        goal = byhand.said(m, x, t, empty.expand(len(x), -1, -1)).detach()
        forget = byhand.apart(byhand.said(m, x, t, text[rows]), goal)
        return byhand.apart(byhand.said(m, y, s, kept_text[kept]), noise) + len(text) / len(kept_text) * forget

    found = byhand.run("salun", task, density=1.0)
    byhand.assert_same(task, found, byhand.steps(task, [objective]))

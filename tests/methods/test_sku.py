"""SKU: one step of its three terms by hand, subtracted; wrong answers, and what it refuses."""

from __future__ import annotations

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import nn

from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.lm.sku import mismatched


def test_wrong_answers_are_those_of_others() -> None:
    task = tiny.lm()
    wrong, whole = mismatched(task, 3, torch.Generator().manual_seed(0))
    own, given = list(task.forget.column("answer")), list(wrong.column("answer"))
    assert whole and len(given) == 24 and list(wrong.column("prompt")) == 3 * list(task.forget.column("prompt"))
    assert all(sorted(given[i : i + 8]) == sorted(own) for i in (0, 8, 16))
    assert not any(a == b for a, b in zip(given, 3 * own, strict=True))
    one = task.replaced(task.original, forget=task.forget.subset([0], "forget"))
    with pytest.raises(RequestError, match="there is 1"):
        byhand.run("sku", one)


def test_two_steps_by_hand() -> None:
    """Two: at the first the distance on R is 0 and flat. SGD, whose rate falls from lr to lr/2."""
    task, lr, scale, size = tiny.lm(), 0.05, 0.8, 100
    found = byhand.run("sku", task, gamma=0.7, rho=0.4, delta=0.3, others=2, scale=scale, lr=lr, steps=2, batch_size=size)
    wrong, _ = mismatched(task, 2, byhand.drawn_for("sku"))
    old = plain.before(task.original, task.retain).log_softmax(-1)

    def objective(m: nn.Module) -> torch.Tensor:
        z, _, kept = plain.seen(m, task.retain)
        kl = (old.exp() * (old - z.log_softmax(-1))).sum(-1)
        return 0.7 * plain.nll(m, task.forget) + 0.4 * plain.nll(m, wrong) - 0.3 * plain.mean(kl, kept)

    fitted, wanted = byhand.stepped(task.original, [objective] * 2, [lr, lr / 2]), byhand.trainable(task.original)
    with torch.no_grad():
        for p, over in zip(wanted.parameters(), fitted.parameters(), strict=True):
            p.sub_(scale * (over - p))
    byhand.assert_same(task, found, wanted, atol=1e-5)


def test_plain_text_is_refused() -> None:
    task = tiny.lm()
    bare = Split(task.forget.columns, "forget", task.forget.ids, padding=task.forget.padding)
    with pytest.raises(RequestError, match="without prompts"):
        byhand.run("sku", task.replaced(task.original, forget=bare))

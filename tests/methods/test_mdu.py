"""MDU: its divergence, one step by hand, its limits, and what cannot be asked."""

from __future__ import annotations

import math
from typing import Any

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.core.modules import state_fingerprint
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.lm.mdu import towards
from lethe.models.lm.open import language_model


def test_golden() -> None:
    z, other = torch.tensor([3.0, 1.0]).log(), torch.tensor([5.0, -2.0])
    assert float(towards(z, other, 0.0)) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2)) == pytest.approx(0.130812)
    assert float(towards(z, z, 1.0)) == pytest.approx(0, abs=1e-7)
    aim = other.clone().requires_grad_()
    towards(z.requires_grad_(), aim, 1.0).backward()
    assert z.grad is not None and aim.grad is None   # the anchor is constant


@pytest.mark.parametrize("anchor", ["original", "current"])
def test_two_steps_by_hand(anchor: str) -> None:
    """At the first step both anchors are one; with momentum 0.9 the second shows which model is asked."""
    task, tau, lr = tiny.lm(), 0.5, 0.5
    found = byhand.run("mdu", task, tau=tau, anchor=anchor, without="Well:", gamma=0.7, alpha=0.4, lr=lr, epochs=2)
    answers = list(task.forget.column("answer"))
    bare = task.encode(["Well:"] * len(answers), answers)

    def alone(m: Any) -> list[Tensor]:
        z, _, kept = plain.seen(m, bare)
        return plain.answers((tau * z.detach()).log_softmax(-1), kept)

    first = alone(task.original)

    def objective(m: nn.Module) -> Tensor:
        z, _, kept = plain.seen(m, task.forget)
        rows, aims = plain.answers(z.log_softmax(-1), kept), first if anchor == "original" else alone(m)
        apart = [(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(rows, aims, strict=True)]
        return 0.7 * torch.stack(apart).mean() + 0.4 * plain.nll(m, task.retain)

    byhand.assert_same(task, found, byhand.steps(task, [objective, objective], lr=lr), atol=1e-5)


def test_a_flat_target_does_not_ask_the_anchor() -> None:
    task = tiny.lm()
    found = [state_fingerprint(byhand.run("mdu", task, tau=0.0, anchor=anchor)) for anchor in ("original", "current")]
    assert found[0] == found[1] != state_fingerprint(task.original)


def test_what_has_nothing_before_its_first_token_is_refused_and_a_neutral_text_helps() -> None:
    task = tiny.lm()
    blank = type(task.tokenizer)(tokenizer_object=task.tokenizer._tokenizer, eos_token=task.tokenizer.eos_token)
    rows = [{"prompt": p, "answer": a} for p, a in zip(task.forget.column("prompt"), task.forget.column("answer"), strict=True)]
    other = language_model(task.original, blank, forget=rows[:4], retain=rows[4:])
    with pytest.raises(RequestError, match=r"method\.without"):
        byhand.run("mdu", other)
    byhand.run("mdu", other, without="Answer:", lr=1e-3)
    bare = Split(task.forget.columns, "forget", task.forget.ids, padding=task.forget.padding)
    with pytest.raises(RequestError, match="without prompts"):
        byhand.run("mdu", task.replaced(task.original, forget=bare))
    empty = language_model(task.original, task.tokenizer, forget=[{"text": rows[0]["answer"]}], retain=rows[4:])
    with pytest.raises(RequestError, match="forget are plain text without prompts"):
        byhand.run("mdu", empty)

"""ELM: its target, one step by hand, and what does not fit is refused."""

from __future__ import annotations

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.errors import RequestError
from lethe.methods.lm.elm import erased


def test_golden() -> None:
    p, other = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert erased(p, p, other, torch.ones(1), 2).tolist() == pytest.approx([0.8, 0.0, 0.2])
    assert erased(p, p, other, torch.zeros(1), 3).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_one_step_by_hand() -> None:
    task, lr, eta, top = tiny.lm(), 1.0, 3.0, 20
    expert, novice = "I know {concept}. ", "No {concept}: "
    found = byhand.run("elm", task, concept="figs", expert=expert, novice=novice, eta=eta, top=top, gamma=0.7, fluency=0.3, 
                       alpha=0.4, lr=lr, longest=8)
    prompts, answers = list(task.forget.column("prompt")), list(task.forget.column("answer"))

    def read(before: str) -> list[Tensor]:
        """Log-probabilities at the places of each answer."""
        split = task.encode([before + prompt for prompt in prompts], answers)
        z, _, kept = plain.seen(task.original.eval(), split)
        return plain.answers(z.detach().log_softmax(-1), kept)

    targets = []
    for p, by_expert, by_novice in zip(read(""), read("I know figs. "), read("No figs: "), strict=True):
        rise = torch.linspace(1, eta, len(p)).unsqueeze(1)
        tilted = p + rise * (by_novice - by_expert)
        order = tilted.sort(-1, descending=True).values
        targets.append(torch.where(tilted >= order[:, top - 1 : top], tilted.exp(), 0.0))
    said = task.drawn_texts(task.original, ["No figs: " + p for p in prompts], byhand.drawn_for("elm"), 1.0, 8)
    fluent = task.encode(prompts, said)
    old = plain.before(task.original, task.retain).softmax(-1)

    def objective(m: nn.Module) -> Tensor:
        z, _, kept = plain.seen(m, task.forget)
        erase = [-(t / t.sum(-1, keepdim=True) * row).sum(-1).mean()
                 for t, row in zip(targets, plain.answers(z.log_softmax(-1), kept), strict=True)]
        z, _, kept = plain.seen(m, task.retain)
        stay = plain.mean(-(old * z.log_softmax(-1)).sum(-1), kept)
        return 0.7 * torch.stack(erase).mean() + 0.3 * plain.nll(m, fluent) + 0.4 * stay

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=lr), atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RequestError, match="exceeds max_length"):
        byhand.run("elm", tiny.lm(), expert="very " * 100)

"""FTPO: the loss by its arithmetic, a step by hand, and which phrases are no longer said."""

from __future__ import annotations

import math

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from test_backtracking import phrases

import lethe
from lethe.core.families.language import LanguageTask
from lethe.errors import RequestError
from lethe.maths.texts import grams
from lethe.methods.lm.ftpo import FTPO, beginnings, preferred


def test_golden_numbers() -> None:
    z, before = torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    r, c = torch.tensor([0]), torch.tensor([[1]])
    assert preferred(z, before, r, c, FTPO()).item() == pytest.approx(math.log1p(math.exp(3)) + 0.25 / 2)
    drifted = preferred(z + torch.tensor([[0.0, 0.0, 5.0]]), before, r, c, FTPO(hold=0.4)).item()
    assert drifted == pytest.approx(math.log1p(math.exp(3)) + 0.4 * 25 + 0.25 / 2)
    won = torch.tensor([[0.0, 2.0, 0.0]], requires_grad=True)   # it leads by the margin: no gradient is left
    assert torch.autograd.grad(preferred(won, won.detach(), r, c, FTPO()).sum(), won)[0].abs().max() == 0


def test_a_step_by_hand() -> None:
    """The first token of every banned phrase of three words against the two likeliest others, in plain torch."""
    task = LanguageTask.of(tiny.lm())
    found = byhand.run("ftpo", task, words=3, chosen=2, lr=0.5, hold=0.3)
    banned = phrases(task, 3)
    before, tokens, kept = plain.seen(task.original, task.forget)
    before = before.detach()

    def objective(m: torch.nn.Module) -> torch.Tensor:
        z, rows = plain.seen(m, task.forget)[0], []
        for i in range(len(task.forget)):
            places = kept[i].nonzero().flatten().tolist()
            terms = []
            for k in beginnings([int(tokens[i, place]) for place in places], task.tokenizer, banned, 3):
                now, then, true = z[i, places[k]], before[i, places[k]], int(tokens[i, places[k]])
                chosen = [v for v in then.argsort(descending=True).tolist() if v != true][:2]
                lead = now[chosen] - now[true]
                weight = (1 - lead.detach() / 2).clamp(0, 1)
                rest = [v for v in range(len(now)) if v not in (true, *chosen)]
                terms.append((weight * (1 + (2 - lead).exp()).log()).sum() / weight.sum()
                             + 0.3 * (now - then)[rest].square().mean()
                             + 0.25 * ((now - then)[[true, *chosen]].abs() - 1).clamp(min=0).square().mean())
            rows.append(torch.stack(terms).mean() if terms else now.sum() * 0)
        return torch.stack(rows).mean()

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=0.5), atol=1e-5)


@pytest.mark.slow
def test_phrases_go_and_other_answers_stay_with_retained_data() -> None:
    """As a user calls it, the watchdog on. The negative: without retained data it takes the run back."""
    task = LanguageTask.of(tiny.lm())
    banned, asked = phrases(task, 3), list(task.forget.column("prompt"))

    def hits(model: torch.nn.Module) -> int:
        return sum(gram in banned for text in task.generate(model, asked, max_new_tokens=24) for gram in grams(text, 3))

    outcome = lethe.forget(task, "ftpo", lr=1e-3, epochs=40, alpha=3.0, progress=False)
    batch = task.retain.batch(range(len(task.retain)))
    assert outcome.fall is None and hits(task.original) > 7 and hits(outcome.model) == 0
    assert float((task.score(outcome.model, batch) - task.score(task.original, batch)).mean().detach()) > -0.02
    assert lethe.forget(task, "ftpo", lr=1e-3, epochs=20, progress=False).fall is not None
    same = task.replaced(task.original, retain=task.encode([f"{prompt} Say." for prompt in asked],
                                                            list(task.forget.column("answer"))))
    with pytest.raises(RequestError, match="nothing would be forgotten"):
        byhand.outcome("ftpo", same)

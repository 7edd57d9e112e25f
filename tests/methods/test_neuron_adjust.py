"""Neuron Adjust: the rule by its arithmetic, the statistics and the guarded pass by hand, and what it does to facts."""

from __future__ import annotations

import byhand
import pytest
import skills
import tiny
import torch

from lethe.core.families.language import LanguageTask
from lethe.core.seeds import generator
from lethe.methods.guard.neuron_adjust import Adjusted, Normal, adjusted

ONE = torch.ones(1)


def test_golden_numbers() -> None:
    forget, retain = Normal(2 * ONE, ONE), Normal(0 * ONE, ONE)
    for x, u, wanted in ((2.0, 0.5, 0.0), (2.0, 0.1, 2.0), (3.0, 0.5, -1.0), (0.9, 0.99, 0.9)):
        assert adjusted(x * ONE, forget, retain, u * ONE).tolist() == [pytest.approx(wanted)]
    assert adjusted(3 * ONE, Normal(ONE, 2 * ONE), Normal(ONE, 2 * ONE), 0.6 * ONE).tolist() == [-1.0]   # equal: reflected at μ_r


def test_a_guard_by_hand() -> None:
    """Two neurons of 64 of the last block, their statistics over all tokens, and one pass with them replaced."""
    task = skills.task()
    outcome = byhand.outcome("neuron_adjust", task, share=3.0)
    guard, model = outcome.answering, task.copy_of_original().eval()
    seen: list[torch.Tensor] = []
    handle = model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].detach()))
    found = {}
    for split in (task.forget, task.retain):
        seen.clear()
        for i in range(len(split)):
            row = split.batch([i])
            model(input_ids=row.ids[:, : int(row.length[0])])
        rows = torch.cat(seen)
        found[split.name] = rows.mean(0), rows.std(0, correction=0)
    handle.remove()
    (m_f, s_f), (m_r, s_r) = found["forget"], found["retain"]
    chosen = (m_f - m_r).argsort(descending=True)[:2]
    assert isinstance(guard, Adjusted) and guard.chosen.tolist() == chosen.tolist()
    u = torch.rand(2, generator=generator(0, "neuron_adjust"))
    batch = task.holdout.batch([0, 1])

    def replaced(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = args[0].clone()
        for j, place in enumerate(chosen.tolist()):
            f, r = (torch.distributions.Normal(m[place], s[place]) for m, s in ((m_f, s_f), (m_r, s_r)))
            p_f, p_r = f.log_prob(x[..., place]).exp(), r.log_prob(x[..., place]).exp()
            moved = 2 * m_r[place] - ((x[..., place] - m_f[place]) / s_f[place] * s_r[place] + m_r[place])
            x[..., place] = torch.where((p_f >= p_r) & (u[j] >= p_r / (p_r + p_f)), moved, x[..., place])
        return (x,)

    before = task.nll(model, batch)
    model.model.layers[2].mlp.down_proj.register_forward_pre_hook(replaced)
    assert torch.allclose(task.nll(guard, batch), task.nll(model, batch), atol=1e-4)
    assert not torch.allclose(task.nll(guard, batch), before, atol=1e-4)


def test_texts_come_from_the_same_pass_and_facts_cost_their_like() -> None:
    """With all neurons of a block the questions are answered otherwise; retained questions are, too: it is no tool for facts."""
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("neuron_adjust", task, share=100.0).answering
    asked = list(task.forget.column("prompt"))
    said = task.generate(guard, asked)
    assert said != task.generate(task.original, asked)
    written = task.encode(asked, said).batch(range(len(asked)))
    seen = task.observe(guard, written)
    assert (seen["correct"] >= seen["content_mask"]).all()   # greedy, token by token
    lost = [float((task.nll(guard, s.batch(range(8))) - task.nll(task.original, s.batch(range(8)))).mean().detach())
            for s in (task.forget, task.retain)]
    assert lost[0] > 0.1 and lost[1] > 0.04

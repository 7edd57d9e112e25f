"""SAeUron: its score and its rule by their arithmetic, and a guard worked out place by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from torch import Tensor

from lethe.core.guard import as_served
from lethe.core.seeds import derive
from lethe.errors import RequestError
from lethe.methods.guard.saeuron import Ablated, importance, turned

BLOCK = "mid_block.attentions.0"
SMALL: dict[str, Any] = {"block": BLOCK, "latents": 40, "k": 3, "epochs": 2, "lr": 0.01, "warmup": 2, "batch_size": 64,
                         "places": 9, "trajectories": 4, "sampler_steps": 3, "start_guidance": 1.5}


def test_golden_numbers() -> None:
    own, others = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    assert importance(own, others).tolist() == [0.5, -0.5]
    assert turned(torch.tensor([2.0, 1.0]), torch.tensor([-3.0, -3.0]), torch.tensor([1.0, 1.0])).tolist() == [-6, 1]


def test_a_guard_by_hand(tmp_path: Path) -> None:
    """Trajectories of two prompts with the concept and three without, codes of each place, shares, and one pass."""
    task, gamma = byhand.diffusion(), -2.0
    model = task.original
    outcome = byhand.outcome("saeuron", task, gamma=gamma, percentile=90.0, **SMALL)
    guard: Any = outcome.served
    assert isinstance(guard, Ablated) and outcome.kind == "guard"
    with pytest.raises(RequestError, match=r"no block of cross-attention.*mid_block\.attentions\.0"):
        byhand.outcome("saeuron", task, **{**SMALL, "block": "mid_block"})

    def codes(h: Tensor) -> Tensor:
        """z of one place."""
        before = guard.reads @ ((h - guard.centre) / guard.scale) + guard.bias
        z = torch.zeros_like(before)
        for j in before.argsort(descending=True)[:3].tolist():
            z[j] = max(float(before[j]), 0.0)
        return z

    def said(x: Tensor, t: Tensor, text: Tensor, change: Any = None) -> tuple[Tensor, Tensor]:
        """What the block says, and what the network does."""
        seen: list[Tensor] = []

        def hook(_: Any, __: Any, out: Any) -> Any:
            seen.append(out[0])
            return None if change is None else (change(out[0]),)

        handle = model.get_submodule(BLOCK).register_forward_hook(hook)
        with torch.no_grad():
            noise = model(x, t, encoder_hidden_states=text)[0]
        handle.remove()
        return seen[0], noise

    gone, kept = task.prompts["forget"], task.prompts["keep"]
    prompts = [gone[0], gone[1], gone[0], gone[1], kept[0], kept[1], kept[2], kept[0]]
    text = task.text(task.tokens(prompts))
    with torch.no_grad():
        path = [(t, x) for t, x in task.denoise(model, text, derive(0, "saeuron"), 3, 1.5) if t >= 0]
    rows, means = {}, {}
    for t, x in path:
        h, _ = said(x, torch.full((8,), t), text)
        used = torch.stack([torch.stack([codes(h[i, :, a, b]) for a in range(h.shape[2]) for b in range(h.shape[3])]).mean(0)
                            for i in range(8)])
        mine, theirs = used[:4].mean(0), used[4:].mean(0)
        score = mine / mine.sum() - theirs / theirs.sum()
        average = torch.stack([mine, used[[4, 7]].mean(0), used[5], used[6]]).mean(0)
        rows[t] = [j for j in range(40) if score[j] > torch.quantile(score, 0.9)]
        means[t] = mine, average
    assert guard.latents.tolist() == sorted({j for some in rows.values() for j in some}) and guard.times.tolist() == sorted(rows)

    t, x = path[1]
    near = t + 1                           # a timestep that no trajectory had
    mine, average = means[t]
    changed = []

    def change(h: Tensor) -> Tensor:
        new = h.clone()
        for i in range(len(h)):
            for a in range(h.shape[2]):
                for b in range(h.shape[3]):
                    z = codes(h[i, :, a, b])
                    for j in rows[t]:
                        if z[j] > average[j]:
                            changed.append(j)
                            says = guard.says[guard.latents.tolist().index(j)]
                            new[i, :, a, b] += guard.scale * (gamma * mine[j] - 1) * z[j] * says
        return new

    when = torch.full((8,), near)
    _, wanted = said(x, when, text, change)
    with torch.no_grad():
        found, plain = guard(x, when, encoder_hidden_states=text)[0], model(x, when, encoder_hidden_states=text)[0]
    assert changed and torch.allclose(found, wanted, atol=1e-4) and not torch.allclose(found, plain, atol=1e-4)
    again = as_served(outcome.save(tmp_path / "out"), model)
    with torch.no_grad():
        assert isinstance(again, Ablated) and torch.equal(again(x, when, encoder_hidden_states=text)[0], found)


def test_without_chosen_directions_pictures_are_the_original_s() -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("saeuron", task, percentile=100.0, **SMALL).answering
    drawn, plain = (task.sample(model, ["a red disk"], seed=1, steps=2) for model in (guard, task.original))
    assert torch.equal(drawn, plain)

"""Receler: where the concept is seen, what is held still, slots in text, a step by hand, and the guard that comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from byhand import said
from torch.nn import functional as F

from lethe.core.guard import load_guard, save_guard
from lethe.core.seeds import derive, generator
from lethe.core.split import Split
from lethe.maths.attention import shown_at
from lethe.methods.guard.receler import Erased, held_still, with_slots


def test_where_the_concept_is_seen_and_what_is_held_still() -> None:
    maps = {"a": torch.tensor([[0.8, 0.2], [0.6, 0.4]]).view(1, 1, 2, 1, 2), "b": torch.rand(1, 1, 4, 1, 2)}
    mask = shown_at(maps, torch.tensor([[False, True]]), 2, 0.5)
    assert mask.flatten().tolist() == [False, True]
    assert float(held_still(torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), mask)) == pytest.approx(2.5)


def test_slots_stand_from_the_end_token_on() -> None:
    text, slots = torch.zeros(2, 4, 1), torch.tensor([[[1.0], [2.0]]]).expand(2, -1, -1)
    assert with_slots(text, slots, torch.tensor([1, 2]), 3).squeeze(2).tolist() == [[0, 1, 2, 0], [0, 0, 1, 0]]


def test_a_step_by_hand(tmp_path: Path) -> None:
    """One round of two attack steps: erasers are zero, so the first changes nothing for them but δ; then both move."""
    task, eta, lamb, decay = byhand.diffusion(), 0.8, 2.0, 0.3
    tokens = task.tokens(task.prompts["forget"])
    text, empty, rows = task.text(tokens), task.text(task.tokens([""])), []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "receler"), 2, 1.5):
            if t >= 0:
                when = torch.full((2,), t)
                cond, maps = task.attention_maps(task.original, x, when, text)
                free = said(task.original, x, when, empty.expand_as(text))
                size = min((one.shape[2] for one in maps.values()), key=lambda h: abs(h - 2))
                looks = torch.stack([one.mean(1)[..., 3] for one in maps.values() if one.shape[2] == size]).mean(0)
                low, high = looks.amin((1, 2), keepdim=True), looks.amax((1, 2), keepdim=True)
                rows.append((x, when, text, cond, free - eta * (cond - free), (looks - low) / (high - low) >= 0.4))
    outcome = byhand.outcome("receler", task, rank=2, eta=eta, lamb=lamb, threshold=0.4, slots=2, attack_steps=2, attack_lr=0.05,
                             attack_decay=decay, lr=0.01, steps=1, batch_size=4, trajectories=2, sampler_steps=2,
                             start_guidance=1.5)
    guard: Any = outcome.served
    assert isinstance(guard, Erased) and outcome.kind == "guard" and not hasattr(outcome.model, "erasers")
    for key, p in task.original.state_dict().items():
        assert torch.equal(outcome.model.state_dict()[key], p)
    index = byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), "erase")
    x, t, c, cond, goal, mask = (torch.cat(column)[index] for column in zip(*rows, strict=True))
    slots = torch.rand(1, 2, 64, generator=generator(0, "receler", "attack")).requires_grad_(True)
    adam = torch.optim.Adam([slots], lr=0.05)

    def predicted() -> torch.Tensor:
        return said(task.original, x, t, torch.cat([c[:, :4], slots.expand(4, -1, -1), c[:, 6:]], 1))

    for _ in range(2):
        adam.zero_grad()
        (((predicted() - cond) ** 2).mean() + decay / 2 * slots.square().sum()).backward()
        if _ == 0:
            adam.step()

    with torch.random.fork_rng():      # the erasers as they start, then one step on the loss at δ after the first step
        torch.manual_seed(derive(0, "receler"))
        erasers = {name: (torch.nn.Linear(layer.out_features, 2), torch.nn.Linear(2, layer.out_features))
                   for name, layer in task.original.named_modules() if name.endswith("attn2.to_out.0")}
    outs: list[torch.Tensor] = []
    handles = []
    for name, (down, up) in erasers.items():
        torch.nn.init.zeros_(up.weight)
        torch.nn.init.zeros_(up.bias)

        def add(_: Any, __: Any, out: torch.Tensor, down: Any = down, up: Any = up) -> torch.Tensor:
            outs.append(up(F.gelu(down(out))))
            return out + outs[-1]

        handles.append(task.original.get_submodule(name.removesuffix(".to_out.0")).register_forward_hook(add))
    loss = ((predicted() - goal) ** 2).mean()
    for handle in handles:
        handle.remove()
    for out in outs:    # zero at first, and so is its gradient: the square adds nothing to this step
        side = round(out.shape[1] ** 0.5)
        away = 1 - F.interpolate(mask.float()[:, None], (side, side)).flatten(1)
        loss = loss + lamb * ((out.square().mean(2) * away).sum(1) / away.sum(1)).mean() / len(outs)
    loss.backward()
    assert guard.layers == [name.removesuffix(".to_out.0") for name in erasers]
    for i, (down, up) in enumerate(erasers.values()):
        assert torch.equal(guard.get_buffer(f"down_{i}"), down.weight)
        slope = up.weight.grad
        assert slope is not None
        assert torch.allclose(guard.get_buffer(f"up_{i}"), -0.01 * slope / (slope.abs() + 1e-8), atol=2e-4)

    place = tmp_path / "saved"
    place.mkdir()
    save_guard(guard, place)
    again: Any = load_guard(place, task.original)
    with torch.no_grad():
        assert torch.equal(said(again, x, t, c), said(guard, x, t, c))
        assert not torch.equal(said(again, x, t, c), said(task.original, x, t, c))

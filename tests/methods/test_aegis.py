"""AEGIS: what is taken from a step, two steps of both searches by hand, one centre a concept, and bad input."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from byhand import apart, said
from diffusion_folders import FOLDERS, opened
from torch import Tensor

from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.methods.diffusion.aegis import Centre, rectifying
from lethe.models.diffusion import small
from lethe.models.diffusion.open import text_to_image

SMALL: dict[str, Any] = {"batch_size": 4, "trajectories": 2, "sampler_steps": 2, "start_guidance": 1.5}


@pytest.mark.parametrize(("erasing", "omega", "wanted"), [
    ((1.0, -2.0), 1.0, (1.0, 0.0)),     # λ = 8/16: what leads away from θ_0 is gone
    ((1.0, -2.0), 0.5, (1.0, -1.0)),    # λ = 4/16
    ((1.0, 2.0), 1.0, (1.0, 2.0)),      # no conflict
    ((1.0, -2.0), 0.0, (1.0, -2.0)),
])
def test_what_is_taken_from_a_step(erasing: tuple[float, float], omega: float, wanted: tuple[float, float]) -> None:
    g, away = torch.tensor(erasing), torch.tensor((0.0, 4.0))
    found = g + rectifying(g @ away, away @ away, torch.tensor(omega)) * away
    assert torch.allclose(found, torch.tensor(wanted))
    assert torch.equal(rectifying(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)), torch.tensor(0.0))   # at θ_0


@pytest.mark.parametrize(("omega", "rise"), [(0.25, 0.5), (0.75, 0.5)])
def test_two_steps_by_hand(omega: float, rise: float) -> None:
    """Plain torch: the centre of two states, the attack of one step, λ, and Adam on everything. η is large, so that Adam's first
    step does not lead past the aim, and the second one meets a conflict."""
    task, eta, beta, radius, lr = byhand.diffusion(), 10.0, 0.05, 0.2, 0.0003
    tokens, empty = task.tokens(task.prompts["forget"]), task.text(task.tokens(["", ""]))
    text, rows = task.text(tokens), []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "aegis"), 2, 1.5):
            if t >= 0:
                rows.append((x, torch.full((2,), t), text, *(said(task.original, x, t, one) for one in (text, empty))))
    points = [torch.cat(column) for column in zip(*rows, strict=True)]
    twin = byhand.trainable(task.original)
    adam, first = torch.optim.Adam(twin.parameters(), lr=lr, foreach=False), [p.detach().clone() for p in twin.parameters()]
    centre, share, conflicts = torch.empty(0), omega, 0
    for step in range(2):
        byhand.reseed(step)
        if not step:
            centre = text.mean() + text.std() * torch.randn(1, 2, text.shape[-1])
        drawn = torch.randint(0, 4, (4,))
        x, t, c, cond, _ = (column[drawn] for column in points)
        centre.requires_grad_(True)
        near = said(task.original, x, t, as_prompt(centre, 4))
        slope = torch.autograd.grad(apart(near, said(twin, x, t, c).detach()) + apart(near, cond), centre)[0]
        centre = centre.detach() - beta * slope.sign()
        x, t, c, cond, free = (column[byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), "erase", step=step)]
                               for column in points)
        with torch.no_grad():
            aim = free - eta * (said(task.original, x, t, as_prompt(centre, 4)) - free)
        delta = (radius * (2 * torch.rand(c.shape) - 1)).requires_grad_(True)
        slope = torch.autograd.grad(apart(said(twin, x, t, c + delta), cond), delta)[0]
        delta = (delta.detach() - radius * slope.sign()).clamp(-radius, radius)
        found = byhand.gradient(twin, lambda m, x=x, t=t, c=c + delta, aim=aim: apart(said(m, x, t, c), aim))
        away = [p.detach() - before for p, before in zip(twin.parameters(), first, strict=True)]
        meeting = sum(float((g * a).sum()) for g, a in zip(found.values(), away, strict=True))
        if meeting < 0:
            conflicts, share = conflicts + 1, min(1.0, share + rise)
        scale = -share * min(meeting, 0.0) / max(sum(float((a * a).sum()) for a in away), 1e-30)
        for p, g, a in zip(twin.parameters(), found.values(), away, strict=True):
            p.grad = g + scale * a
        adam.step()
    assert conflicts   # else nothing of λ was seen
    made = byhand.run("aegis", task, eta=eta, length=2, target_lr=beta, radius=radius, omega=omega, rise=rise, steps=2, lr=lr,
                      **SMALL)
    byhand.assert_same(task, made, twin, adam=True)


def as_prompt(centre: Tensor, count: int) -> Tensor:
    """Two states in turn, in all eight rows."""
    return torch.cat([centre] * 4, 1).expand(count, -1, -1)


def test_a_prompt_of_one_state_is_what_attention_reads_of_many_rows_of_it() -> None:
    task = byhand.diffusion()
    x, state = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), task.text(task.tokens(["disk"]))[:, 1:2]
    with torch.no_grad():
        one, many = (said(task.original, x, 500, state.expand(1, length, -1)) for length in (1, 8))
    assert torch.allclose(one, many, atol=1e-5)


def test_a_centre_that_the_network_cannot_read_is_refused() -> None:
    with pytest.raises(RequestError, match="longer than the 8 states"):
        byhand.run("aegis", byhand.diffusion(), length=9, steps=1, **SMALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")   # of diffusers, about steps_offset
@pytest.mark.parametrize("kind", [kind for kind in FOLDERS if kind not in ("dit", "classes", "unconditional")])
def test_it_runs_on_every_network_that_reads_words(kind: str) -> None:
    task = opened(kind)
    before, after = task.original.state_dict(), byhand.run("aegis", task, length=2, steps=2, lr=1e-2, **SMALL).state_dict()
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_every_concept_has_a_centre_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two concepts: what takes a prompt's place is the centre of the one that the prompt names."""
    task = text_to_image(small.pipeline(width=16), ["disk", "cross"], ["a red square"], steps=2, guidance=1.0)
    asked: list[tuple[Tensor, list[str], Tensor]] = []
    plain = Centre.said

    def said(self: Centre, centre: Tensor, batch: Batch, text: Tensor) -> Tensor:
        found = plain(self, centre, batch, text)
        asked.append((centre.detach(), [one for tokens in batch.tokens for one in ("disk", "cross")
                                        if torch.equal(tokens, task.tokens([one])[0])], found.detach()))
        return found

    monkeypatch.setattr(Centre, "said", said)
    byhand.run("aegis", task, steps=1, **SMALL)
    centre, names, found = asked[-1]
    assert sorted(names) == ["cross", "cross", "disk", "disk"] and not torch.equal(*centre)
    for name, rows in zip(names, found, strict=True):
        assert torch.equal(rows, centre[("disk", "cross").index(name)].expand(8, -1))

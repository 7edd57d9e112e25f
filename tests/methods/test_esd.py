"""ESD: golden numbers, what moves, and that the cached trajectories are worth their name."""

from __future__ import annotations

import math

import byhand
import pytest
import torch
from tiny import TASKS

from lethe.api import forget
from lethe.core.seeds import derive
from lethe.methods.diffusion.esd import ESD, Edit
from lethe.methods.diffusion.mim_mu import mim_loss
from lethe.train.erasing import esd_target
from lethe.train.loop import Loop


def test_golden_target() -> None:
    cond, uncond = torch.tensor([3.0]), torch.tensor([1.0])
    assert esd_target(cond, uncond, 1.0).item() == 1 - (3 - 1)
    code = cond - 2.0 * (cond - uncond)   # the later code's convention with η_code = η + 1
    assert torch.equal(esd_target(cond, uncond, 1.0), code)
    assert esd_target(cond, uncond, 0.5, base=torch.tensor([10.0])).item() == 10 - 0.5 * 2


def test_without_guidance_it_is_the_target_of_mim_mu() -> None:
    said, cond, uncond = (torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(3))
    from lethe.maths.losses import squared_distance

    assert torch.equal(squared_distance(said, esd_target(cond, uncond, 0.0)), mim_loss(said, uncond))


def moved(variant: str) -> set[str]:
    task = TASKS["diffusion"]()
    outcome = forget(task, ESD(variant=variant, lr=1e-3, steps=1, sampler_steps=2, trajectories=4, batch_size=4),
                     progress=False)
    before = dict(task.original.named_parameters())
    return {name for name, p in outcome.model.named_parameters() if not torch.equal(p, before[name])}


def test_each_variant_moves_its_weights_only() -> None:
    names = {name for name, _ in TASKS["diffusion"]().original.named_parameters()}
    cross = {name for name in names if "attn2" in name}
    keys = {name for name in cross if "to_k" in name or "to_v" in name}
    x, strict, u = moved("x"), moved("strict"), moved("u")
    assert strict and strict <= keys and x <= cross and x - keys
    assert u and not u & cross


def test_points_and_targets_come_from_the_original() -> None:
    task = TASKS["diffusion"]()
    edit = Edit(ESD(trajectories=3, sampler_steps=4, start_guidance=1.0, eta=0.0), task, Loop(task))
    points = edit.visited()
    assert len(points) == 3 * 4 and sorted(set(points.columns["t"].tolist()), reverse=True)[0] == int(points.columns["t"][0])
    batch = points.batch([5])
    with torch.no_grad():
        empty = task.text(task.tokens([""]))
        free = task.predict_noise(task.original, batch.image, batch.t, empty)
        cond = task.predict_noise(task.original, batch.image, batch.t, task.text(batch.tokens))
    assert torch.allclose(batch.target, free, atol=1e-5)
    assert math.isclose(float(edit.on_visited(task.original, batch)), float((cond - free).square().mean()), rel_tol=1e-3)


@pytest.mark.parametrize("trajectory", ["cached", "current"])
def test_the_loss_falls(trajectory: str) -> None:
    task = TASKS["diffusion"]()
    options = {"sampler_steps": 3, "trajectories": 4, "start_guidance": 1.0, "trajectory": trajectory}
    edit = Edit(ESD(**options), task, Loop(task))
    points = edit.visited()
    outcome = forget(task, ESD(**options, lr=3e-3, steps=8, batch_size=4), progress=False)
    whole = points.batch(range(len(points)))
    with torch.no_grad():
        assert edit.on_visited(outcome.model, whole).mean() < 0.8 * edit.on_visited(task.original, whole).mean()


@pytest.mark.slow
def test_cached_trajectories_save_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in pictures, for guidance asks for two of them in one call, and without the looks of the watchdog."""
    task = TASKS["diffusion"]()

    kind = type(task.original)
    plain, asked = kind.forward, []

    def counted(self, x, *args, **kwargs):   # copies of the model count too
        asked.append(len(x))
        return plain(self, x, *args, **kwargs)

    def forwards(trajectory: str) -> int:
        asked.clear()
        forget(task, ESD(steps=60, sampler_steps=10, trajectories=4, trajectory=trajectory), progress=False, watchdog=False)
        return sum(asked)

    monkeypatch.setattr(kind, "forward", counted)
    assert forwards("cached") == 4 * 10 * (2 + 2) + 60        # guided steps and frozen targets at their points; then the steps
    walked = (forwards("current") - 60 * (2 + 1)) / (60 * 2)   # guided steps before the point, 0 to 9 with equal chance
    assert abs(walked - 4.5) < 3 * (99 / 12 / 60) ** 0.5       # so 12 forwards a step here; at the defaults 52 against 5


def test_a_host_prompt_keeps_its_own_prediction_as_base() -> None:
    task = TASKS["diffusion"]()
    edit = Edit(ESD(host="a red square", eta=0.0, trajectories=2, sampler_steps=2, start_guidance=1.0), task, Loop(task))
    points = edit.visited()
    whole = points.batch(range(len(points)))
    assert bool((whole.tokens == task.tokens(["a red square"])).all())
    with torch.no_grad():
        assert float(edit.on_visited(task.original, whole).max()) < 1e-8   # η = 0: the target is what it says already


@pytest.mark.parametrize("host", ["", "a red square"])
def test_two_steps_by_hand(host: str) -> None:
    """At all points of one trajectory for every prompt; the original's own sampler makes these, the targets are written out."""
    task, eta = byhand.diffusion(), 0.8
    drawn = [host] * 2 if host else task.prompts["forget"]
    erased = [task.concepts[0].concept] * 2 if host else drawn
    text, concept, empty = (task.text(task.tokens(list(some))) for some in (drawn, erased, ["", ""]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "esd"), 2, 1.5):
            if t >= 0:
                cond, free, base = (task.original(x, t, encoder_hidden_states=one)[0] for one in (concept, empty, text))
                rows.append((x, t, (base if host else free) - eta * (cond - free)))
    assert len(rows) == 2

    def objective(m: byhand.Any) -> torch.Tensor:
        return sum(((m(x, t, encoder_hidden_states=text)[0] - goal) ** 2).mean() for x, t, goal in rows) / 2

    wanted = byhand.adam(task.original, [objective, objective], lr=0.01, only="attn2")
    found = byhand.run("esd", task, eta=eta, host=host, lr=0.01, steps=2, batch_size=4, trajectories=2, sampler_steps=2,
                       start_guidance=1.5)
    byhand.assert_same(task, found, wanted, adam=True)

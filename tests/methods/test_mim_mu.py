"""MiM-MU, the family and its first form, and SDD: one frozen target, one moving."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import byhand
import pytest
import torch
from tiny import TASKS

from lethe.api import forget
from lethe.core.seeds import generator
from lethe.core.split import Batch
from lethe.errors import RequestError
from lethe.maths.linear_edit import off_space, shrinking
from lethe.methods.diffusion import mim_mu
from lethe.methods.diffusion.mim_mu import (
    Lesson,
    MiMMU,
    banded,
    drift,
    mim_loss,
    mim_target,
    peak,
    unconditional,
)
from lethe.methods.diffusion.sdd import SDD, sdd_loss
from lethe.train.loop import Loop
from lethe.train.modifiers.where.names import Names

FIRST: dict[str, Any] = {"target": "empty", "eta": 0.0, "protect": "none"}


def test_golden_numbers() -> None:
    said, free = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    assert mim_loss(said, free).item() == sdd_loss(said, free).item() == (1 + 4) / 2
    concept, rest, empty = torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    assert mim_target(concept, rest, empty, torch.ones(1), True).tolist() == [[1.0, -2.0]]    # d⊥ = (1, 2) − (1, 0)
    assert mim_target(concept, rest, empty, torch.ones(1), False).tolist() == [[0.0, -2.0]]
    assert mim_target(-concept, rest, empty, torch.ones(1), True).tolist() == [[4.0, 2.0]]    # d = (−3, −2) is not against k
    assert peak([1, 0, 3, 4, 2, 1]) == (2, 5) and peak([9.0]) == (0, 1)


def test_the_edit_space_by_hand() -> None:
    for states in ([[0.0, 2.0]], [[0.0, 2.0], [1e-8, 2.0]]):   # the second differs by less than float32 tells apart
        assert torch.allclose(off_space(torch.tensor(states).double()), torch.diag(torch.tensor([1.0, 0.0]).double()), atol=1e-7)
    found = shrinking(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), ridge=1.0)
    assert torch.allclose(found, torch.diag(torch.tensor([3**-0.5, 1.0])))


def test_the_band_limits_the_timesteps() -> None:
    batch = Batch({"t": torch.arange(1000)}, torch.arange(1000))
    inside = banded(batch, 0.25, 0.5, 1000).t
    assert int(inside.min()) == 250 and int(inside.max()) == 499
    assert banded(batch, 0.0, 1.0, 1000) is batch


@pytest.mark.parametrize("protect", ["vocabulary", "empty"])
def test_what_is_drawn_without_a_prompt_stays_by_construction(protect: str) -> None:
    task = TASKS["diffusion"]()
    out = forget(task, MiMMU(protect=protect, eta=1.0, steps=6, pieces=8), progress=False)   # type: ignore[arg-type]
    batch = task.draw(task.forget.batch(range(16)), generator(0, "look"), False)
    apart = unconditional(task, out.model, batch) - unconditional(task, task.original, batch)
    assert float(apart.abs().max()) <= 1e-5
    old, new = (dict(m.named_parameters()) for m in (task.original, out.model))
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert list(old) == list(new) and moved == {f"{name}.weight" for name in task.attention_projections(task.original)}
    rests = task.text(task.tokens(["a red", "a green", "a blue", "a yellow"])).repeat(4, 1, 1)
    with torch.no_grad():
        without = task.predict_noise(task.original, task.noised(batch), batch.t, rests)
        before, after = (mim_loss(task.outputs(m, batch), without).mean() for m in (task.original, out.model))
    assert after < before   # a disk is drawn more as the colour alone was


def test_eta_grows_where_the_original_still_sees_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts are within the tolerance from the second round on, the fourth later: its η grows, and it is drawn more."""
    task = TASKS["diffusion"]()
    looks = iter([[0.1, 0.2, 0.0, 0.0], [0.5, 0.0, 0.0, 0.4], [0.0, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 0.04], [0.0] * 4])
    monkeypatch.setattr(Lesson, "shares", lambda *_: torch.tensor(next(looks)))
    taught: list[tuple[list[float], int, list[bool] | None]] = []
    monkeypatch.setattr(Lesson, "minimise", lambda self, model, eta, steps, twice=None: taught.append(
        ([round(x, 3) for x in eta.tolist()], steps, None if twice is None else twice.tolist())))
    out = forget(task, MiMMU(steps=100, round=30, stop_at=0.05), progress=False)
    start = [0.5, 0.75, 0.5, 0.5]             # 3·0.1/0.9 = 1/3 is too little, 3·0.2/0.8 = 0.75
    assert taught == [(start, 30, None), ([0.85, 0.75, 0.5, 0.85], 30, [True, False, False, True]),
                      ([0.85, 0.75, 0.5, 1.445], 30, [False, False, False, True]), ([0.85, 0.75, 0.5, 1.445], 10, [False] * 4)]
    assert "4 rounds" in out.notes[0]


def test_the_original_judges_with_the_edit_off() -> None:
    task = TASKS["diffusion"]()
    cfg = MiMMU(pieces=4)
    asked, loop = mim_mu.Asked.of(cfg, task), Loop(task)
    assert asked.rests == ["a blue", "a green", "a red", "a yellow"] and "a blue disk" in asked.prompts
    model = loop.start(where=mim_mu.Edits(cfg, task, asked, loop))
    teacher = mim_mu.Teacher(task, model)
    batch = task.draw(task.forget.batch(range(4)), generator(0, "look"), False)
    x, text = task.noised(batch), task.text(batch.tokens)
    with torch.no_grad():
        exact, edited = (task.predict_noise(m, x, batch.t, text) for m in (task.original, model))
    assert torch.allclose(teacher(x, batch.t, [text])[0], exact, atol=1e-6) and not torch.allclose(edited, exact, atol=1e-3)


def test_other_weights_cannot_be_protected() -> None:
    with pytest.raises(RequestError, match="protect=none"):
        forget(TASKS["diffusion"](), MiMMU(steps=1), modifiers={"where": Names(("*attn2*",))}, progress=False)


def test_an_empty_prompt_that_fills_the_text_width_leaves_nothing_to_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mim_mu.Edits, "states", lambda *_: torch.eye(8, dtype=torch.float64))
    with pytest.raises(RequestError, match="fill all 8 dimensions"):
        forget(TASKS["diffusion"](), MiMMU(steps=1), progress=False)


def test_the_vocabulary_names_neither_the_concept_nor_what_is_left_out() -> None:
    task = TASKS["diffusion"]()
    loop = SimpleNamespace(generator=lambda *_: generator(0, "words"))
    said = mim_mu.vocabulary(MiMMU(leave_out=("square",)), task, ["a red"], loop)   # type: ignore[arg-type]
    assert "triangle" in said and "a red cross" in said and not any("disk" in text or "square" in text for text in said)


def test_prompts_stop_mattering_for_the_concept() -> None:
    task = TASKS["diffusion"]()
    outcome = forget(task, MiMMU(**FIRST, lr=3e-3, epochs=4, batch_size=8), progress=False)
    batch = task.draw(task.forget.batch(range(16)), generator(0, "look"), False)
    free = unconditional(task, task.original, batch)
    with torch.no_grad():
        before, after = (mim_loss(task.outputs(m, batch), free).mean() for m in (task.original, outcome.model))
    assert after < 0.7 * before
    moved = {name for name, p in outcome.model.named_parameters()
             if not torch.equal(p, dict(task.original.named_parameters())[name])}
    assert moved and all("attn2" in name for name in moved)


def test_drift_is_zero_at_the_original_and_noted_when_large() -> None:
    task = TASKS["diffusion"]()
    assert drift(task, task.original, task.original, Loop(task)) == 0
    assert "moved by" in forget(task, MiMMU(**FIRST, lr=3e-3, epochs=2, drift=0.0), progress=False).notes[0]


def test_mim_mu_sees_no_retained_data_and_both_start_alike() -> None:
    task = TASKS["diffusion"]()
    one = {"lr": 1e-3, "epochs": 0.5, "batch_size": 8}   # a single step: the targets are still equal
    a, b = (dict(forget(task, cfg, progress=False).model.named_parameters()) for cfg in (MiMMU(**FIRST, **one), SDD(**one)))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_two_steps_of_the_first_form_by_hand() -> None:
    """Times are drawn from the middle half of the noise schedule."""
    task = byhand.diffusion()
    aims = [byhand.draws_alike(task, step, lambda m: task.original, (0.25, 0.75)) for step in range(2)]
    wanted = byhand.adam(task.original, aims, lr=0.01, only="attn2")
    found = byhand.run("mim_mu", task, **FIRST, lr=0.01, epochs=2, batch_size=8, band=(0.25, 0.75))
    byhand.assert_same(task, found, wanted, atol=1e-5)

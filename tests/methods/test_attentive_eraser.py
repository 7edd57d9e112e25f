"""Attentive eraser: what its layers look at by hand, the walk of an edit, and where it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from diffusion_folders import opened
from torch import Tensor

from lethe.core.guard import as_served
from lethe.core.seeds import generator
from lethe.errors import RequestError
from lethe.judge.redrawing import continued
from lethe.maths.ddim import descent, redrawn
from lethe.methods.guard import attentive_eraser
from lethe.methods.guard.attentive_eraser import Eraser, holes, layers_of, redirected
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject


def eraser(task: Diffusion, **options: Any) -> Eraser:
    guard = byhand.outcome("attentive_eraser", task, **{"steps": 4, **options}).served
    assert isinstance(guard, Eraser)
    return guard


def given(task: Diffusion, count: int = 3) -> tuple[Tensor, Tensor]:
    """Pictures, and masks of which the first is empty."""
    masks = torch.zeros(count, 1, *task.decode(task.forget.columns["image"][:1]).shape[2:])
    side = masks.shape[-1]
    masks[1, :, side // 4 : side // 2, side // 8 : side // 2] = 1
    masks[2:, :, side // 2 :] = 1
    return task.decode(task.forget.columns["image"][:count]), masks


def test_golden_numbers() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 0, 1] = 1
    assert holes(mask, 4).tolist() == [[True, False, False, False], [False] * 4]
    assert holes(mask, 16)[0].nonzero().tolist() == [[1]] and not holes(torch.ones(1, 1, 4, 4), 4).any()
    with pytest.raises(RequestError, match="5 places for pictures of 4 × 4"):
        holes(mask, 5)
    assert descent(0.5, 4, 100) == [49, 0]
    x = redrawn(lambda x, t: 0 * x, torch.full((1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 2), [1, 0],
                lambda t: (torch.tensor(0.8 - 0.2 * t), torch.tensor(0.6 + 0.2 * t)), known=torch.tensor([[[[1.0, 0.0]]]]))
    assert x.flatten().tolist() == pytest.approx([0.5, 1 / 0.6])   # at t = 1 noise alone; ε = 0: (1 / 0.6 · 0.8) / 0.8


def by_hand(layer: Any, x: Tensor, hole: Tensor, scale: float) -> Tensor:
    """What a layer of self-attention says at every place of one picture."""
    q, k, v = (part.chunk(layer.heads, -1) for part in (layer.to_q(x), layer.to_k(x), layer.to_v(x)))
    heads = []
    for one, other, value in zip(q, k, v, strict=True):
        like = one @ other.T / one.shape[-1] ** 0.5
        like[hole] *= scale
        like[:, hole] = -torch.inf
        heads.append(torch.softmax(like, -1) @ value)
    return layer.to_out[0](torch.cat(heads, -1))   # type: ignore[no-any-return]


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_a_pass_by_hand(scale: float) -> None:
    task = byhand.diffusion()
    model, (_, masks) = task.original, given(task)
    layers = layers_of(model)
    x, t = torch.randn(3, *task.shape, generator=generator(0, "x")), torch.tensor([900] * 3)
    text = task.text(task.tokens([""])).expand(3, -1, -1)

    def say(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        return torch.stack([by_hand(layer, one, hole, scale)
                            for one, hole in zip(args[0], holes(masks, args[0].shape[1]), strict=True)])

    handles = [model.get_submodule(name).register_forward_hook(say, with_kwargs=True) for name in layers[1:]]
    with torch.no_grad():
        wanted = task.predict_noise(model, x, t, text)
        for handle in handles:
            handle.remove()
        plain = task.predict_noise(model, x, t, text)
        with redirected(model, layers[1:], masks, scale):
            found = task.predict_noise(model, x, t, text)
        assert torch.equal(task.predict_noise(model, x, t, text), plain)
    assert torch.allclose(found, wanted, atol=1e-5) and torch.equal(found[0], plain[0])
    assert (found[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-4


def test_a_hole_does_not_see_what_it_covers() -> None:
    """The layer's own answer outside does not change with what stands inside."""
    task = byhand.diffusion()
    layer: Any = task.original.get_submodule(layers_of(task.original)[0])
    _, masks = given(task)
    x = torch.randn(3, 64, layer.to_q.in_features, generator=generator(0, "rows"))
    hole = holes(masks, 64)
    other = torch.where(hole.unsqueeze(2), torch.randn(x.shape, generator=generator(1, "rows")), x)
    with torch.no_grad(), redirected(task.original, layers_of(task.original)[:1], masks, 0.3):
        assert torch.allclose(layer(x)[~hole], layer(other)[~hole], atol=1e-6)


@pytest.mark.parametrize("kind", ["tiny", "stable"])
def test_without_guidance_it_is_inpainting_and_all_outside_a_mask_stays(kind: str) -> None:
    task = byhand.diffusion() if kind == "tiny" else opened(kind)
    pictures, masks = given(task)
    hole = torch.nn.functional.max_pool2d(masks, masks.shape[-1] // task.shape[-1])
    noise = torch.stack([torch.randn(task.shape, generator=generator(7, "attentive eraser", i)) for i in range(3)])
    text = task.text(task.tokens([""])).expand(3, -1, -1)
    plain = eraser(task, gamma=0.0, steps=task.steps).edit(task, pictures, masks, seed=7)
    subject = Subject("original", task.original, task)
    drawn = task.decode(continued(task, subject, task.encode(pictures), noise, text, 0.8, 1 - hole))
    assert torch.equal(plain, torch.where(masks > 0, drawn, pictures))
    edited = eraser(task, steps=task.steps).edit(task, pictures, masks, seed=7)
    assert torch.equal(edited[0], pictures[0]) and torch.equal(edited.where(masks == 0, pictures), pictures)
    assert not torch.allclose(edited[1:], plain[1:], atol=1e-3)


def test_an_edit_is_a_picture_s_own_and_suppresses_in_the_first_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = byhand.diffusion()
    pictures, masks = given(task)
    outcome = byhand.outcome("attentive_eraser", task, steps=10, suppressed=3, suppression=0.4, grow=1)
    guard, seen = outcome.served, []
    assert isinstance(guard, Eraser)
    inside = redirected
    monkeypatch.setattr(attentive_eraser, "redirected", lambda *args: (seen.append((args[3], args[2])), inside(*args))[1])
    edited = guard.edit(task, pictures, masks)
    assert [scale for scale, _ in seen] == [0.4] * 3 + [1.0] * 5   # 0.8 of 10 steps
    assert torch.equal(seen[0][1][1, 0], torch.nn.functional.max_pool2d(masks, 3, 1, 1)[1, 0])
    monkeypatch.setattr(attentive_eraser, "TOGETHER", 2)
    assert torch.allclose(guard.edit(task, pictures, masks), edited, atol=1e-2)   # γ = 9 enlarges rounding at every step
    x, t, text = torch.randn(2, *task.shape), torch.tensor([500, 20]), task.text(task.tokens(["a red disk", ""]))
    with torch.no_grad():
        assert torch.equal(task.predict_noise(guard, x, t, text), task.predict_noise(task.original, x, t, text))
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    assert isinstance(again, Eraser) and torch.equal(again.edit(task, pictures, masks), guard.edit(task, pictures, masks))


def test_layers_run_from_the_way_down_to_the_way_up_and_networks_without_them_are_refused() -> None:
    network = opened("stable").original
    heads = [name.split(".")[0] for name in layers_of(network)]
    assert heads == sorted(heads, key=("down_blocks", "mid_block", "up_blocks").index) and len(set(heads)) == 3
    guard = eraser(opened("stable"), first=0.5)
    assert guard.layers == layers_of(network)[len(heads) // 2 :]
    assert (int(0.486 * 16), int(0.486 * 70)) == (7, 34)
    with pytest.raises(RequestError, match="has none; nothing was started"):
        byhand.run("attentive_eraser", opened("sd3"))

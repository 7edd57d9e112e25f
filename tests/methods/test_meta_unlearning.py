"""Meta-unlearning: a step with a user by hand, the two sets of retained pictures, and its limits."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.concepts import names
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.diffusion.meta_unlearning import sides

RELATED = ("square",)
WEIGHTS = {"keep": 0.3, "keep_related": 0.2, "lose": 0.7, "lose_related": 0.4, "lose_other": 0.25}


def points(task: Any, eta: float) -> list[torch.Tensor]:
    """x_t, t, c and ESD's aim on two trajectories of two steps, in the order in which a step takes them."""
    text, empty = (task.text(task.tokens(some)) for some in (task.prompts["forget"], ["", ""]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "meta_unlearning"), 2, 1.5):
            if t >= 0:
                cond, free = (said(task.original, x, t, one) for one in (text, empty))
                rows.append((x, torch.full((2,), t), text, free - eta * (cond - free)))
    order = byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), "erase")
    return [torch.cat(column)[order] for column in zip(*rows, strict=True)]


def clipped(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
    return {key: g * min(1.0, 1 / float(norm + 1e-6)) for key, g in found.items()}


def test_a_step_by_hand() -> None:
    """Two steps of a user on F, the gradients there, back, and AdamW's first step along the gradients here less those."""
    task, eta, decay = byhand.diffusion(), 0.8, 0.1
    x, t, c, goal = points(task, eta)
    near, other = sides(task, RELATED)

    def nll(name: str, split: Any) -> byhand.Objective:
        rows, x, t, noise = byhand.noised(task, split, name)
        text = task.text(split.columns["tokens"][rows])
        return lambda m: apart(said(m, x, t, text), noise)

    user = byhand.trainable(task.original)
    stepper = torch.optim.AdamW(user.parameters(), lr=0.002, weight_decay=decay, foreach=False)
    for k in range(2):
        found = clipped(byhand.gradient(user, nll(f"user {k}", task.forget)))
        for key, p in user.named_parameters():
            p.grad = found[key]
        stepper.step()
    splits = {"keep": other, "keep_related": near, "lose": task.forget, "lose_related": near, "lose_other": other}
    losses = {name: nll(name, split) for name, split in splits.items()}

    def summed(m: Any, kind: str) -> Any:
        return sum(WEIGHTS[name] * loss(m) for name, loss in losses.items() if name.startswith(kind))

    start = byhand.trainable(task.original)
    here = byhand.gradient(start, lambda m: apart(said(m, x, t, c), goal) + summed(m, "keep"))
    there = byhand.gradient(user, lambda m: summed(m, "lose"))
    taken = torch.optim.AdamW(start.parameters(), lr=0.01, weight_decay=decay, foreach=False)
    step = clipped({key: here[key] - there[key] for key in here})
    for key, p in start.named_parameters():
        p.grad = step[key]
    taken.step()
    found = byhand.run("meta_unlearning", task, eta=eta, related=RELATED, **WEIGHTS, user_steps=2, user_lr=0.002, lr=0.01,
                       weight_decay=decay, steps=1, batch_size=100, trajectories=2, sampler_steps=2, start_guidance=1.5)
    byhand.assert_same(task, found, start, adam=True)


def test_related_pictures_are_named_by_their_captions() -> None:
    task = byhand.diffusion()
    near, other = sides(task, RELATED)
    assert all(names(caption, "square") for caption in task.captions(near))
    assert not any(names(caption, "square") for caption in task.captions(other))
    assert len(near) and len(other) and len(near) + len(other) == len(task.retain)
    assert sides(task, ()) == (task.retain, task.retain)


@pytest.mark.parametrize(("word", "said"), [("zebra", "none of the"), ("a", "all of the")])
def test_words_of_no_caption_or_of_all_are_refused(word: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        byhand.run("meta_unlearning", byhand.diffusion(), related=(word,))

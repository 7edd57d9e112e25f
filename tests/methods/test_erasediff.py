"""EraseDiff: the multiplier of two gradients, and steps with either wrong target."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.methods.diffusion.erasediff import multiplier_of


def test_golden_multipliers() -> None:
    retain, forget = [torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 0.0])]
    assert [float(multiplier_of(retain, forget, 0.5, how)) for how in ("cosine", "bome", "constant")] == [1.5, 1.0, 0.5]
    assert float(multiplier_of(forget, forget, 0.5, "bome")) == 0.0   # descending on R descends on F already


@pytest.mark.parametrize(("target", "how"), [("prompt", "cosine"), ("uniform", "bome"), ("prompt", "constant")])
def test_a_step_by_hand(target: str, how: str) -> None:
    task, alpha = byhand.diffusion(), 0.7
    texts = {name: task.text(split.columns["tokens"]) for name, split in (("forget", task.forget), ("retain", task.retain))}
    bare = [" ".join(word for word in text.split() if word != "disk") for text in task.captions(task.forget)]
    anchors = task.text(task.tokens(bare))
    rows, x, t, noise = byhand.noised(task, task.forget, "forget")
    kept, y, s, other = byhand.noised(task, task.retain, "retain")
    byhand.reseed()
    uniform = torch.rand(noise.shape)
    level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
    odd = level.sqrt() * task.forget.columns["image"][rows] + (1 - level).sqrt() * uniform

    def forget(m: byhand.Any) -> torch.Tensor:
        if target == "uniform":
            return apart(said(m, odd, t, texts["forget"][rows]), uniform)
        return apart(said(m, x, t, texts["forget"][rows]), said(m, x, t, anchors[rows]).detach())

    def retain(m: byhand.Any) -> torch.Tensor:
        return apart(said(m, y, s, texts["retain"][kept]), other)

    twin = byhand.trainable(task.original)
    moving = [name for name, _ in twin.named_parameters() if "attn2" in name]
    f, r = (torch.cat([byhand.gradient(twin, aim)[name].flatten() for name in moving]) for aim in (forget, retain))
    along = float(f @ r / (f.norm() * r.norm()) if how == "cosine" else f @ r / (f @ f))
    factor = alpha if how == "constant" else max(0.0, alpha - along)
    wanted = byhand.adam(task.original, [lambda m: retain(m) + factor * forget(m)], lr=0.01, only="attn2")
    found = byhand.run("erasediff", task, target=target, multiplier=how, alpha=alpha, lr=0.01)
    byhand.assert_same(task, found, wanted, adam=True)

"""SFRon: the parts by hand, and that only forget steps are masked."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.methods.general.sfron import FastSlow, fading, forgetting_mask


def test_strength_fades_as_a_half_cosine() -> None:
    assert fading(0.0, 25) == 25
    assert fading(1 / 3, 25) == pytest.approx(18.75)   # (1 + cos 60°)/2 = ¾
    assert fading(1.0, 25) == pytest.approx(0)


def test_mask_compares_without_dividing() -> None:
    forget, retain = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    assert forgetting_mask(forget, retain, 1.0).tolist() == [True, True, False, True, True]   # 0 ≥ 0: a dead weight is harmless
    assert forgetting_mask(forget, retain, 1.5).tolist() == [True, False, False, True, True]


def test_only_the_forget_gradient_is_masked_and_each_term_is_a_step() -> None:
    gradients = {("forget",): [torch.ones(2)], ("retain",): [torch.full((2,), 5.0)]}
    steps: list[list[float]] = []
    combine = FastSlow([torch.tensor([True, False])])
    combine.step(["forget", "retain"], lambda names: gradients[tuple(names)], lambda g: steps.append(g[0].tolist()))
    assert steps == [[1, 0], [5, 5]]


def test_the_first_step_by_hand() -> None:
    """One step of each kind, no momentum to carry at the first: θ₁ = θ − lr·m⊙∇(−α Σ c ℓ/n), c ∝ 1/√ℓ with mean 1."""
    task = classification()
    model = task.copy_of_original()
    n = len(task.forget)
    losses = task.nll(model, task.forget.batch(range(n)))
    weights = 1 / losses.detach().sqrt()
    (-3.0 * (weights * n / weights.sum() * losses).mean()).backward()
    ascent = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    seen: list[dict[str, torch.Tensor]] = []
    apply = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: object) -> object:
        result = apply(self)
        seen.append([p.detach().clone() for p in self.param_groups[0]["params"]])  # type: ignore[arg-type]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watched)
        run("sfron", task, alpha=3.0, ratio=0.0, freq=1, lr=0.01, weight_decay=0.0, clip=None, batch_size=1000, epochs=1)
    assert len(seen) == 2
    for (name, p), value in zip(model.named_parameters(), seen[0], strict=True):
        torch.testing.assert_close(value, p.detach() - 0.01 * ascent[name])


def test_forget_steps_come_every_freq_steps() -> None:
    task = classification()
    retain, steps = len(task.retain), 6
    often, rarely = (run("sfron", task, freq=freq, batch_size=retain // steps, epochs=1) for freq in (1, 3))
    per_step = retain // steps
    whole = len(task.forget) + retain   # one pass each for the importances
    assert rarely.cost.examples == whole + retain + 2 * per_step
    assert often.cost.examples > rarely.cost.examples


def test_one_round_by_hand() -> None:
    """One batch is a whole split: I is the squared mean gradient. A forget step, then a retain step with the same momentum."""
    task, alpha, power, ratio = byhand.classification(), 3.0, 0.7, 0.6
    original, forget = byhand.trainable(task.original), task.forget.columns
    on_forget, on_retain = (byhand.gradient(original, lambda m, s=s: nll(m, s)) for s in (task.forget, task.retain))

    def weighted(m: torch.nn.Module) -> torch.Tensor:
        each = torch.nn.functional.cross_entropy(m(forget["x"]), forget["y"], reduction="none")
        c = 1 / each.detach() ** power
        return -alpha * (c / c.mean() * each).mean()

    velocity = byhand.gradient(original, weighted)
    for name, p in original.named_parameters():
        velocity[name] *= on_forget[name] ** 2 >= ratio * on_retain[name] ** 2
        p.data.sub_(byhand.LR * velocity[name])
    then = byhand.gradient(original, lambda m: nll(m, task.retain))
    for name, p in original.named_parameters():
        p.data.sub_(byhand.LR * (0.9 * velocity[name] + then[name]))
    byhand.assert_same(task, byhand.run("sfron", task, alpha=alpha, power=power, ratio=ratio, freq=1), original)

"""SLUG: the front, the search, and that one tensor moves along the full gradient."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.maths.one_layer import front, search
from lethe.methods.classification.slug import SLUG
from lethe.methods.classification.slug import run as slug
from lethe.train.loop import Loop, Modifiers


def test_golden_front() -> None:
    assert front([3.0, 2.0, 1.0], [0.5, 0.6, 0.1]) == [0, 2]   # (2, 0.6) is beaten by (3, 0.5)
    assert front([1.0, 1.0], [0.2, 0.1]) == [1]


def test_golden_search() -> None:
    looks: list[float] = []

    def accuracy(step: float) -> float:
        looks.append(step)
        return float(step < 5)

    assert search(accuracy, 1.0, 0.0, 6) == 5.0
    assert looks == [1.0, 2.0, 4.0, 8.0, 6.0, 5.0]


def test_search_halves_when_the_start_is_too_far_and_falls_back_to_the_least() -> None:
    assert search(lambda step: float(step < 0.3), 1.0, 0.0, 3) == 0.5   # 1, 0.5, 0.25
    assert search(lambda step: 1 / (1 + step), 1.0, 0.0, 4) == 8.0      # never enough: the least accuracy


def test_one_tensor_moves_and_by_the_gradient_of_the_whole_part() -> None:
    task = classification()
    outcome = run("slug", task, objective="nll", checked=0.0)
    moved = [n for n, p in outcome.model.named_parameters() if not torch.equal(p, task.original.get_parameter(n))]
    assert len(moved) == 1 and moved[0].endswith("weight") and moved[0] in outcome.notes[0]
    twin = task.copy_of_original().eval()
    order = torch.randperm(len(task.forget), generator=Loop(task).generator("slug", "forget"))[1:]
    (g,) = torch.autograd.grad(task.nll(twin, task.forget.batch(order)).mean(), twin.get_parameter(moved[0]))
    change = (outcome.model.get_parameter(moved[0]) - task.original.get_parameter(moved[0])).detach()
    assert float(torch.cosine_similarity(change.flatten(), g.flatten(), 0)) > 1 - 1e-5


@pytest.mark.parametrize("objective", ["logit", "margin"])
def test_the_class_goes_and_the_rest_stays(objective: str) -> None:
    task = classification()
    model = run("slug", task, objective=objective, checked=0.5).model
    scores = {n: float(task.observe(model, s.batch(range(len(s))))["score"].mean()) for n, s in task.splits.items()}
    assert scores["forget"] <= 0.25 and scores["retain"] >= 0.9


def test_looks_are_counted_and_bounded() -> None:
    task = classification()
    outcome = run("slug", task, candidates=2, evaluations=4, batch_size=7)
    f, r = len(task.forget), len(task.retain)
    assert outcome.cost.steps == 0
    assert outcome.cost.examples <= f + r + 2 * (4 * f + min(r, 512))
    whole = run("slug", task, candidates=2, evaluations=4, batch_size=1000)
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(outcome.model.parameters(), whole.model.parameters(), strict=True))


def test_biases_alone_are_refused() -> None:
    view = classification().granted({"forget", "retain"})
    with pytest.raises(RequestError, match="no weight matrix"):
        slug.run(SLUG(), view, Loop(view, modifiers=Modifiers(where={"name": "names", "patterns": ("*.bias",)})))


@pytest.mark.parametrize("tried_layers", [1, 2])
@pytest.mark.parametrize("objective", ["logit", "margin", "nll"])
def test_the_step_by_hand(objective: str, tried_layers: int) -> None:
    """Two of six forgotten examples are looked at, the other four give the gradient; the second layer is tried where it
    is the less aligned one."""
    task, target, looks = byhand.known(byhand.classification(classes=2 + tried_layers), {1: 6, 2: 2}[tried_layers]), 0.0, 6
    order = torch.randperm(6, generator=generator(0, "slug", "forget"))
    check, used = (task.forget.subset(part.numpy(), "part") for part in (order[:2], order[2:]))

    def u(m: torch.nn.Module, split: Split) -> torch.Tensor:
        z, y = m(split.columns["x"]), split.columns["y"]
        p = byhand.soft(z)[torch.arange(len(y)), y]
        own = z[torch.arange(len(y)), y]
        return {"logit": -own, "margin": (1 / p - 1).log(), "nll": -p.log()}[objective].mean()

    g, r = (byhand.gradient(byhand.trainable(task.original), lambda m, s=s: u(m, s)) for s in (used, task.retain))

    def right(layer: str, size: float, split: Split) -> float:
        twin = byhand.trainable(task.original)
        twin.get_parameter(layer).data += size * g[layer]
        return float((twin(split.columns["x"]).argmax(1) == split.columns["y"]).float().mean())

    layers = ["body.weight", "head.weight"]
    size = {n: float(task.original.get_parameter(n).norm()) for n in layers}
    importance = {n: float(g[n].norm()) / size[n] for n in layers}
    alignment = {n: abs(float((g[n] * r[n]).sum() / g[n].norm() / r[n].norm())) for n in layers}
    one, two = sorted(layers, key=lambda n: -importance[n])
    tried = []
    assert (alignment[two] < alignment[one]) == (tried_layers == 2)
    for layer in (one, two)[:tried_layers]:
        low, high, at, seen = 0.0, None, size[layer] / 10 / float(g[layer].norm()), []
        for _ in range(looks):
            seen.append((right(layer, at, check), at))
            low, high = (low, at) if seen[-1][0] <= target else (at, high)
            at = 2 * low if high is None else (low + high) / 2
        step = min(s for share, s in seen if share == min(share for share, _ in seen))
        tried.append((right(layer, step, task.retain), layer, step))
    _, layer, step = max(tried)
    wanted = byhand.trainable(task.original)
    wanted.get_parameter(layer).data += step * g[layer]
    found = byhand.run("slug", task, objective=objective, evaluations=looks, target=target, checked=0.3)
    byhand.assert_same(task, found, wanted, atol=1e-5)

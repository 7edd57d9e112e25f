"""GS-LoRA: the shrinkage, changes that merge exactly, requests in order, and a vision transformer that forgets classes."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification
from torch.nn.utils import parametrize

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.classification.gs_lora import Change, Changes, GSLoRA, block, changed_layers, merge, requests, short_of, shrunk
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.train.loop import Loop


def images(n: int = 24) -> Classification:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 1, 8, 8, generator=rng), torch.arange(n) % 6
    train = Split({"x": x, "y": y}, "train")
    torch.manual_seed(0)
    model = build("vit", classes=6, dropout=0.1)
    return Classification(model, {"forget": train.subset((y < 2).numpy(), "forget"),
                                      "retain": train.subset((y >= 2).numpy(), "retain")})


def test_golden_shrinkage() -> None:
    # norm of (3), (4) is 5: by 1 a factor of 0.8, by 5 or more zero
    one, other = shrunk([torch.tensor([3.0]), torch.tensor([4.0])], 1.0)
    torch.testing.assert_close(torch.cat([one, other]), torch.tensor([2.4, 3.2]))
    assert [t.tolist() for t in shrunk([torch.tensor([3.0]), torch.tensor([4.0])], 5.5)] == [[0.0], [0.0]]
    assert shrunk([torch.zeros(2)], 1.0)[0].tolist() == [0.0, 0.0]   # no 0/0


def test_bounded_ascent_stops_at_its_bound() -> None:
    loss = torch.tensor([1.0, 5.0], requires_grad=True)
    found = short_of(loss, 3.0)
    assert found.tolist() == [2.0, 0.0]
    found.sum().backward()
    assert loss.grad is not None and loss.grad.tolist() == [-1.0, 0.0]


def test_groups_are_blocks_and_changes_stay_out_of_attention_and_head() -> None:
    names = changed_layers(GSLoRA(), images())
    assert names == ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"]
    assert [block(n) for n in names] == ["blocks.0"] * 2 + ["blocks.1"] * 2
    with pytest.raises(RequestError, match="match no linear layer"):
        changed_layers(GSLoRA(layers=("nothing",)), images())


def test_merging_changes_no_answer() -> None:
    task = images()
    loop = Loop(task)
    model = loop.start(where=Changes(["blocks.0.fc1"], 2)).eval()
    change = model.get_submodule("blocks.0.fc1").parametrizations["weight"][0]   # type: ignore[union-attr, index]
    assert isinstance(change, Change)
    change.begin(torch.Generator().manual_seed(0))
    with torch.no_grad():
        change.b.normal_(generator=torch.Generator().manual_seed(1))
        x = task.retain.columns["x"]
        before = model(x)
        merge(model, {"blocks.0.fc1": change})
        after = model(x)
        parametrize.remove_parametrizations(model.get_submodule("blocks.0.fc1"), "weight")
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
        torch.testing.assert_close(model(x), before, atol=1e-6, rtol=0)


def test_requests_come_class_by_class() -> None:
    task = images()
    assert [set(part.columns["y"].tolist()) for part in requests(GSLoRA(), task.forget)] == [{0}, {1}]
    assert requests(GSLoRA(sequence="once"), task.forget) == [task.forget]
    outcome = run("gs_lora", task, epochs=1)
    assert len(outcome.notes) == 2 and "class 1" in outcome.notes[1]


def test_only_the_named_layers_change_and_names_stay() -> None:
    task = images()
    model = run("gs_lora", task, epochs=2, prototypes=True, replay=2, alpha=0.0).model
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, task.original.get_parameter(n))}
    assert changed == {f"blocks.{i}.fc{j}.weight" for i in (0, 1) for j in (1, 2)}
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in task.original.named_parameters()]


def test_strong_shrinkage_is_the_original() -> None:
    task = images()
    outcome = run("gs_lora", task, epochs=2, alpha=1e4, settle=0.0)
    assert state_fingerprint(outcome.model) == state_fingerprint(task.original)


def test_a_class_is_forgotten_on_a_small_task() -> None:
    task = classification()
    model = run("gs_lora", task, lr=2e-2, beta=1.0, epochs=20, alpha=0.0).model
    scores = {n: float(task.observe(model, s.batch(range(len(s))))["score"].mean()) for n, s in task.splits.items()}
    assert scores["forget"] <= 0.2 and scores["retain"] >= 0.85


@pytest.mark.parametrize("plus", [False, True])
def test_two_steps_of_every_request_by_hand(plus: bool) -> None:
    """The first of two passes without the proximal step; the change is merged before the next class."""
    task, beta, alpha, bound, far, rate = byhand.classification(), 0.6, 0.1, 1.2, 1.0, 1.0
    kept, gone = task.retain.columns, task.forget.columns
    every = torch.cat([task.original(gone["x"]), task.original(kept["x"])]).detach()
    labels = torch.cat([gone["y"], kept["y"]])
    proto = byhand.soft(torch.stack([every[labels == k].mean(0) for k in range(3)]))
    scale, weight = float(torch.tensor(3.0).log()), task.original.body.weight.detach().clone()
    model, start = byhand.trainable(task.original), weight.clone()

    def answer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return model.head(torch.tanh(x @ w.T + model.body.bias)).double()

    def each(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = proto[y].double()
        return (p * (p.log() - z.log_softmax(1))).sum(1)

    for request in range(3):
        x, y = gone["x"][gone["y"] == request], gone["y"][gone["y"] == request]
        limit = (6 / (51 * 4)) ** 0.5
        a = (2 * torch.rand(2, 4, generator=generator(0, "gs_lora", request, "body")) - 1) * limit
        b = torch.zeros(5, 2)
        for step in range(2):
            a, b = a.detach().requires_grad_(True), b.detach().requires_grad_(True)
            zr, zf = answer(kept["x"], start + b @ a), answer(x, start + b @ a)
            loss = byhand.cross_entropy(zr, kept["y"]).mean()
            loss = loss + beta * (bound * scale - byhand.cross_entropy(zf, y)).clamp(min=0).mean()
            if plus:
                loss = loss + 0.3 * each(zr, kept["y"]).mean() + 0.7 * (far * scale - each(zf, y)).clamp(min=0).mean()
            ga, gb = torch.autograd.grad(loss, [a, b])
            with torch.no_grad():
                a, b = a - rate * ga, b - rate * gb
                shrink = 1 - rate * alpha / float((a**2).sum() + (b**2).sum()) ** 0.5 if step else 1.0
                a, b = shrink * a, shrink * b
        start = start + b @ a
    wanted = byhand.trainable(task.original)
    wanted.body.weight.data = start.detach()
    found = byhand.run("gs_lora", task, rank=2, beta=beta, bound=bound, alpha=alpha, settle=0.5, prototypes=plus,
                       forget_prototype=0.7, retain_prototype=0.3, prototype_bound=far, epochs=2, lr=rate)
    byhand.assert_same(task, found, wanted, atol=1e-5)

"""Boundary Expanding: a shadow class for the time of the run."""

from __future__ import annotations

import byhand
import torch
from running import run
from tiny import classification

from lethe.core.seeds import generator
from lethe.maths.losses import cross_entropy
from lethe.methods.classification.boundary_expand import BoundaryExpand, expanded
from lethe.methods.classification.boundary_expand import run as boundary_expand
from lethe.train.loop import Loop, Modifiers


def test_golden_logits() -> None:
    found = expanded(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.5, -1.0]))
    assert found.tolist() == [[1.0, 2.0, 4.0]]   # 3·1 + 4·½ − 1


def test_every_true_logit_is_pushed_by_its_probability() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True)
    wide = expanded(logits, torch.ones(1, 2), torch.tensor([0.5, 0.5, 0.0]))
    cross_entropy(wide, torch.tensor([3])).backward()
    torch.testing.assert_close(logits.grad, wide.softmax(-1)[:, :3].detach())


def test_the_model_ends_with_its_own_outputs_and_without_the_class() -> None:
    task = classification()
    model = run("boundary_expand", task, lr=5e-2, epochs=30).model
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in task.original.named_parameters()]
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        said = task.outputs(model, batch)
    assert said.shape[1] == 4
    assert float((said.argmax(1) == 3).float().mean()) < 0.1


def test_the_shadow_class_is_trained_whatever_else_may_move() -> None:
    """With the body alone free, the shadow row moves too; else its random start would be the target for ever."""
    task, seen = classification(), []
    loop = Loop(task, modifiers=Modifiers(where={"name": "names", "patterns": ("body.*",)}))
    include = loop.include

    def watched(model: torch.nn.Module, *names: str) -> None:
        include(model, *names)
        row = model.get_parameter(names[0])
        seen.extend([row, row.detach().clone()])

    loop.include = watched   # type: ignore[method-assign]
    model = boundary_expand.run(BoundaryExpand(epochs=2.0), task.granted({"forget"}), loop).model
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(model.get_parameter("head.weight"), task.original.get_parameter("head.weight"))


def test_two_steps_by_hand() -> None:
    """The fourth class has a row of its own, drawn as a layer of five inputs draws its weights, and it moves too."""
    task = byhand.classification()
    x, start = task.forget.columns["x"], byhand.trainable(task.original)
    start.shadow = torch.nn.Parameter((2 * torch.rand(6, generator=generator(0, "boundary-expand")) - 1) / 5**0.5)

    def objective(m: byhand.Any) -> torch.Tensor:
        h = m.features(x)
        wide = torch.cat([m(x), (h * m.shadow[:5]).sum(1, keepdim=True) + m.shadow[5]], 1)
        return byhand.cross_entropy(wide, torch.full((6,), 3)).mean()

    wanted = byhand.stepped(start, [objective, objective])
    assert (wanted.shadow - start.shadow).abs().min() > 1e-4
    del wanted.shadow
    byhand.assert_same(task, byhand.run("boundary_expand", task, epochs=2), wanted)

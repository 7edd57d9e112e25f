"""AMUN: adversarial examples are wrong, near, and made once."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.classification.amun import AMUN, adversarial, attacked, projected
from lethe.models.classification.task import Classification
from lethe.train.loop import Loop


def test_golden_projection() -> None:
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(projected(x, torch.zeros(2, 2), 2.5), torch.tensor([[1.5, 2.0], [0.3, 0.4]]))


def test_the_boundary_of_a_linear_model_is_found_at_its_distance() -> None:
    """Class 0 where x₁ > 0: the nearest mistake of (0.7, 5) is 0.7 away, so the ball of 0.8 has one and that of 0.4 has none."""
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.zero_()
    split = Split({"x": torch.tensor([[0.7, 5.0], [-0.2, 1.0]]), "y": torch.tensor([0, 0])}, "forget")
    task = Classification(model, {"forget": split})
    x, y, found = attacked(model, task, split.batch([0, 1]), AMUN(radius=0.2))
    assert found.all() and y.tolist() == [1, 1]
    away = (x - split.columns["x"]).norm(dim=1)
    assert 0.7 < away[0] <= 0.8 and away[1] == 0   # the second is wrong as it is
    assert not attacked(model, task, split.batch([0]), AMUN(radius=0.2, doublings=1))[2].any()


def test_every_adversarial_example_is_called_what_it_is_taught_as() -> None:
    task = classification()
    split = adversarial(task, Loop(task), AMUN())
    with torch.no_grad():
        said = task.original(split.columns["x"]).argmax(1)
    assert torch.equal(said, split.columns["y"]) and len(split) == len(task.forget)


def test_no_adversarial_example_is_an_error() -> None:
    task = classification()
    right = task.forget.subset(task.original(task.forget.columns["x"]).argmax(1).eq(3).numpy(), "forget")
    with pytest.raises(RequestError, match="doublings"):
        run("amun", task.replaced(task.original, forget=right), radius=1e-6, doublings=0)


def test_without_retain_data() -> None:
    from lethe.core import catalogue

    method, view = catalogue.load("methods", "amun"), classification().granted({"forget", "original"})
    assert method.run(method.config(alpha=0.0, epochs=1), view, Loop(view)).model is not None


def closest(model: torch.nn.Module, x: torch.Tensor, y: int, radius: float, doublings: int, steps: int) -> torch.Tensor | None:
    """The first mistake on ascending paths in wider and wider balls, for a single input."""
    if int(model(x[None]).argmax()) != y:
        return x
    for size in (radius * 2**j for j in range(doublings + 1)):
        at = x.clone()
        for _ in range(steps):
            at = at.detach().requires_grad_(True)
            (up,) = torch.autograd.grad(byhand.cross_entropy(model(at[None]), torch.tensor([y])).sum(), at)
            at = at.detach() + size / 10 * up / up.norm()
            away = (at - x).norm()
            at = x + (at - x) * size / away if away > size else at
            if int(model(at[None]).argmax()) != y:
                return at
    return None


@pytest.mark.parametrize("teach", ["both", "adversarial"])
def test_two_steps_by_hand(teach: str) -> None:
    """Every example counts alike: six to forget and their twins beside the twelve that stay."""
    task, alpha, attack = byhand.known(byhand.classification(), 4), 0.7, {"radius": 0.05, "doublings": 5, "attack_steps": 14}
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    found = [closest(task.original, one, own, 0.05, 5, 14) for one, own in zip(x, y.tolist(), strict=True)]
    near = torch.stack([one for one in found if one is not None])
    assert len(near) > 1 and any(torch.equal(a, b) for a, b in zip(near, x, strict=False)), "some are wrong as they are"
    said = task.original(near).argmax(1)
    def aim(m: torch.nn.Module) -> torch.Tensor:
        twins, known = byhand.cross_entropy(m(near), said).sum(), byhand.cross_entropy(m(x), y).sum()
        return (twins + (known if teach == "both" else 0)) / 12 + alpha * byhand.nll(m, task.retain)

    found_by = byhand.run("amun", task, alpha=alpha, epochs=2, teach=teach, **attack)
    byhand.assert_same(task, found_by, byhand.steps(task, [aim] * 2))


def test_the_last_step_of_an_attack_counts() -> None:
    """Class 0 where x > 0: from 0.05 one step of a tenth of the radius is enough."""
    model = torch.nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model.bias.zero_()
    split = Split({"x": torch.tensor([[0.05]]), "y": torch.tensor([0])}, "forget")
    task = Classification(model, {"forget": split})
    x, y, found = attacked(model, task, split.batch([0]), AMUN(radius=1.0, doublings=0, attack_steps=1))
    assert found.all() and y.tolist() == [1]
    torch.testing.assert_close(x, torch.tensor([[-0.05]]))

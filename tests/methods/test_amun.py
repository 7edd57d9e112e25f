"""AMUN: adversarial examples are wrong, near, and made once."""

from __future__ import annotations

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

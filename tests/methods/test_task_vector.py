"""Task vector negation: golden number, one run by hand, and that an adapter is subtracted as a product."""

from __future__ import annotations

import byhand
import torch
from torch import nn

from lethe.core import catalogue
from lethe.methods.general.task_vector import negated
from lethe.train.apply import apply
from lethe.train.settings import Settings


def test_golden() -> None:
    assert negated(torch.tensor([1.0]), torch.tensor([3.0]), 0.5).tolist() == [0.0]


def test_one_run_by_hand() -> None:
    task, scale = byhand.classification(), 1.5
    found = byhand.run("task_vector", task, scale=scale, epochs=2)
    fitted = byhand.steps(task, [lambda m: byhand.nll(m, task.forget)] * 2)
    wanted = byhand.trainable(task.original)
    with torch.no_grad():
        for p, over in zip(wanted.parameters(), fitted.parameters(), strict=True):
            p.sub_(scale * (over - p))
    byhand.assert_same(task, found, wanted)


def test_an_adapter_is_subtracted_as_a_product() -> None:
    """The change of a layer is −α times that of the fitted adapter, whatever its first factor did meanwhile."""
    task, record = byhand.classification(), catalogue.load("methods", "task_vector")
    usual = {**byhand.ONE_STEP, "epochs": 3}
    del usual["clip"]

    def change(scale: float) -> torch.Tensor:
        cfg = record.config(**usual, scale=scale)
        outcome = apply(task, record, cfg, Settings(seed=0), {"where": "lora"}, watchdog=False)
        layer: nn.Module = outcome.model.body
        return layer.get_delta_weight("default").detach()

    fitted = -change(1.0)
    assert fitted.abs().max() > 1e-3
    torch.testing.assert_close(change(2.0), -2 * fitted)

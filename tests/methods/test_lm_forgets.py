"""Language methods on the tiny Llama, as a user calls them, the watchdog on: what is forgotten, what is kept.

The usual learning rates are for billions of weights, so these are higher. Task vectors and SKU are here for what they cannot do:
the tiny Llama knows its answers by heart, so their vectors point to what is left to learn. CIR is, too: of 32 dimensions few are
left beside the shared ones, and with fewer taken out the watchdog takes it back.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

import lethe

FORGETS: list[tuple[str, dict[str, Any]]] = [
    ("jens_un", {"lr": 1e-3, "epochs": 40, "alpha": 3.0}),
    ("pdu", {"lr": 1e-3, "epochs": 40}),
    ("alt_po", {"lr": 3e-3, "epochs": 40, "alpha": 3.0}),
    ("whp", {"lr": 3e-3, "epochs": 60, "alpha": 1.0, "reinforce_lr": 3e-3, "reinforce_epochs": 40, "strength": 50.0}),
    ("opt_out", {"lr": 3e-3, "epochs": 60, "alpha": 3.0, "transport": 0.01}),
    ("elm", {"lr": 3e-3, "epochs": 60, "alpha": 3.0, "batch_size": 32}),
    ("lat", {"lr": 3e-3, "epochs": 40, "alpha": 3.0, "inner_steps": 6, "radius": 0.5}),
    ("agt_ao", {"lr": 3e-3, "epochs": 60, "alpha": 5.0, "radius": 0.05, "warmup": 5.0, "clip": 1.0, "batch_size": 32}),
    ("mcu", {"layer": 1, "components": 8, "coefficient": 6.0, "alpha": 3.0, "lr": 1e-2, "steps": 150, "batch_size": 8}),
    ("mdu", {"lr": 1e-3, "epochs": 40, "alpha": 3.0}),
    ("mudman", {"lr": 0.2, "steps": 100, "retain_lr": 0.3}),
    ("tar", {"lr": 1e-3, "steps": 60, "inner_steps": 4, "every": 2, "rates": (1e-3,), "scale": 0.3, "alpha": 3.0}),
]
HARDLY: list[tuple[str, dict[str, Any]]] = [
    ("cir", {"blocks": (0, 3), "inputs": 12, "outputs": 12, "lr": 0.05, "retain_lr": 1.0, "steps": 200, "batch_size": 8,
             "budget": None}),
    ("task_vector", {"lr": 3e-4, "epochs": 20}),
    ("sku", {"lr": 1e-4, "steps": 40, "batch_size": 8}),
]


def scores(name: str, options: dict[str, Any]) -> dict[str, float]:
    """Answer probability per token, before on F, and after on F and R."""
    task = tiny.lm()
    outcome = lethe.forget(task, name, **options, progress=False)
    assert outcome.fall is None
    with torch.no_grad():
        return {key: float(task.score(model.eval(), task.splits[key].batch(range(len(task.splits[key])))).mean())
                for key, model in (("forget", outcome.model), ("retain", outcome.model))}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FORGETS, ids=[name for name, _ in FORGETS])
def test_forgets_and_keeps(name: str, options: dict[str, Any]) -> None:
    """The original: 0.85 on F, 0.84 on R; 0.43 on people that it was never told of."""
    after = scores(name, options)
    assert after["forget"] < 0.5 and after["retain"] > 0.79, after


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), HARDLY, ids=[name for name, _ in HARDLY])
def test_hardly_forgets_what_is_known_by_heart(name: str, options: dict[str, Any]) -> None:
    after = scores(name, options)
    assert after["forget"] > 0.7 and after["retain"] > 0.79, after

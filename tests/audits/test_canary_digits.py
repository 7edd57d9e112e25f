"""Acceptance of the canary audit on real digits: cheap unlearners are refuted, retraining is not.

990 digits are retained and 300 wrongly labelled ones of 747 are canaries; an MLP of 64-128-128-10 trains for 60 epochs. Written
down before: every cheap unlearner is refuted in at least 90 % of audits, retraining in at most 5 % (and two standard errors).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.select import divide, where
from lethe.judge.panel import Panel
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.pools.pool import train_pool
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject
from lethe.train.apply import method_of
from lethe.train.loop import Settings
from lethe.work.procedure import repeated

pytestmark = pytest.mark.slow
audit = load("audits", "canary")
from lethe.audits.membership.canary import centred, mislabelled, right_guesses, two_sided  # noqa: E402

CHEAP = ({"name": "finetune", "epochs": 5.0}, {"name": "finetune", "epochs": 20.0, "lr": 2e-3, "optimiser": "adam"},
         {"name": "neggrad_plus"}, {"name": "scrub"})
AUDITS = 5


def digits() -> Classification:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels, dtype=torch.float32).div(16)[order], torch.tensor(labels)[order]
    holdout = Split({"x": x[1050:], "y": y[1050:]}, "holdout")
    forget, retain = divide(Split({"x": x[:1050], "y": y[:1050]}, "train"), where(count=60))

    def fresh(seed: int) -> torch.nn.Module:
        return build("mlp", inputs=64, hidden=(128, 128))

    recipe = Recipe(epochs=60, lr=2e-3, batch_size=64, schedule="onecycle")
    return Classification(fresh(0), {"forget": forget, "retain": retain, "holdout": holdout}, recipe, fresh)


def procedure(options: dict[str, object]) -> Procedure:
    """As an audit of a finished run repeats it."""
    return repeated(*method_of(options), Settings())


def test_cheap_unlearners_are_refuted():
    task, refuted = digits(), {}
    for seed in range(AUDITS):
        shadows = Shadows(task, 16, seed=seed)
        panel = Panel(task, Subject("original", task.original, task), [], seed=seed, shadows=shadows)
        for options in CHEAP:
            values = audit.measure(audit.config(), Subject("run", task.original, task, procedure=procedure(options)), panel)
            found = {v.metric: v for v in values}
            print(seed, options, found["canary_accuracy"].value, round(found["canary_epsilon"].value, 2))
            refuted.setdefault(str(options), []).append(found["canary_epsilon"].detail["refuted"])
    assert all(np.mean(found) >= 0.9 for found in refuted.values()), refuted


def test_retraining_is_not_refuted():
    """500 audits (standard error 1 %) of pairs out of 16 retrained models, each audit with coins of its own."""
    task, rng = digits(), np.random.default_rng(0)
    canaries = mislabelled(task, task.holdout.subset(np.arange(300), "canaries"), 0)
    models = [Subject(f"r{i}", model, task) for i, model in enumerate(train_pool(task, count=16, seed=3, strategy="vmap").models)]
    signal, alarms = np.stack([model.numbers(canaries, "signal") for model in models]), 0
    for _ in range(500):
        pair, coins = centred(signal[rng.permutation(16)[:2]]), rng.random((2, 300)) < 0.5
        right = sum(right_guesses(row, tossed, 30) for row, tossed in zip(pair, coins, strict=True))
        alarms += two_sided(right, 120, 600)[1] < 0.05
    print("refuted", alarms / 500)
    assert alarms / 500 <= 0.07

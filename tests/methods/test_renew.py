"""Renew: what stays of the original, the mean of the last iterates, running statistics of R."""

from __future__ import annotations

from functools import cache
from typing import Any

import byhand
import pytest
import torch
from byhand import nll
from running import run
from sklearn.datasets import load_digits
from test_acceptance_digits import Scores, judged, problem, scores
from test_acceptance_digits import run as trained_by
from tiny import classification, regression
from torch import Tensor, nn

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.select import Where, divide, where
from lethe.errors import NeedsUnmet
from lethe.methods.general.renew import Pace, equal_size, kept_shares, pace, rates, steps_within, usual_depth
from lethe.models import zoo
from lethe.models.classification.task import Classification
from lethe.work.job import resolve
from lethe.work.options import Options
from lethe.work.request import beside_scratch, parse


def test_shares_of_what_stays() -> None:
    assert kept_shares("class", 4, 0.5, 1) == [1, 0.5, 0, 0]
    assert kept_shares("class", 8, 0.25, 1) == [1, 0.5, 0, 0, 0, 0, 0, 0]
    assert kept_shares("examples", 3, 0.5, 0.8) == [0, 0, 0.8]
    assert kept_shares("none", 3, 0.5, 1) == [0, 0, 0]
    assert kept_shares("class", 1, 0.5, 1) == kept_shares("examples", 1, 0.5, 1) == [0]   # the head may not stay whole


def test_equal_batches() -> None:
    assert [equal_size(n, 64) for n in (900, 896, 64, 65, 129, 3, 1)] == [60, 64, 64, 65, 65, 3, 1]


def test_no_more_examples_are_drawn_than_the_share() -> None:
    """A ladder with this budget would leave the method out for half an example."""
    split = Split({"x": torch.arange(39.0)}, "retain")
    assert [steps_within(passes, split, 10) for passes in (1.5, 1, 0.58 * 50, 0.01)] == [5, 4, 29 * 4, 1]
    x = torch.randn(42, 2, generator=torch.Generator().manual_seed(0))
    whole = Split({"x": x, "y": (x[:, 0] > 0).long()}, "train")

    def build(seed: int) -> nn.Module:
        return nn.Linear(2, 2)

    task = Classification(build(0), {"forget": whole.subset(range(3), "forget"), "retain": whole.subset(range(3, 42), "retain")},
                          Recipe(epochs=5, lr=1e-3, batch_size=10), build)
    assert run("scratch", task).cost.examples <= 0.3 * 5 * 39


def test_usual_rate_and_depth() -> None:
    assert rates(2) == [2, 0.5, 0.125, 0.03125]
    assert [pace(Recipe(optimiser=name), quick) for name, quick in (("adamw", False), ("adamw", True), ("sgd", True))] == [
        Pace(2, 0.6, 0.999), Pace(2, 0.8, 0.95), Pace(0.5, 0.6, 0.999)]
    assert usual_depth(zoo.build("vit")) == 0.75 and usual_depth(zoo.build("small_cnn", norm="batch")) == 0.5
    assert [usual_depth(zoo.build("mlp", hidden=hidden)) for hidden in ([8], [8, 8])] == [0.75, 0.5]


def by_hand(task: Classification, keep: tuple[float, float], count: int, averaged: int) -> Any:
    """The mean of the last `averaged` of `count` full-batch steps of SGD at half the recipe's rate, from the mixture."""
    start, fresh = byhand.trainable(task.original), task.build(derive(0, "renew"))
    with torch.no_grad():
        for share, part in zip(keep, ("body", "head"), strict=True):
            for p, new in zip(getattr(start, part).parameters(), getattr(fresh, part).parameters(), strict=True):
                p.copy_(share * p + (1 - share) * new)
    points = [byhand.stepped(start, [lambda m: nll(m, task.retain)] * k, lr=byhand.LR / 2, momentum=0.0)
              for k in range(count - averaged + 1, count + 1)]
    with torch.no_grad():
        for name, p in points[0].named_parameters():
            p.copy_(torch.stack([point.get_parameter(name) for point in points]).mean(0))
    return points[0]


def test_a_class_leaves_by_hand() -> None:
    """Two blocks, d = 1: λ = 1, ½. Four steps, the last two averaged (of 2.4 the first counts whole)."""
    task = byhand.classification(removed=True)
    found = byhand.run("renew", task, depth=1.0, share_class=4.0, average_after=0.6)
    byhand.assert_same(task, found, by_hand(task, (1.0, 0.5), 4, 2))


def test_examples_leave_by_hand() -> None:
    task = byhand.classification()
    byhand.assert_same(task, byhand.run("renew", task, share_examples=3.0), by_hand(task, (0.0, 1.0), 3, 2))


def test_examples_leave_at_a_quick_pace_unless_the_original_knows_all_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    task = regression(Where(fraction=0.1))
    quick, usual = ({"rate": rate, "average_after": after, "beta2": beta}
                    for rate, after, beta in ((2.0, 0.8, 0.95), (2.0, 0.6, 0.999)))
    for share, same, other in ((0.0, quick, usual), (1e9, usual, quick)):
        monkeypatch.setattr("lethe.methods.general.renew.HEART", share)
        found, one, two = (state_fingerprint(run("renew", task, **options).model) for options in ({}, same, other))
        assert found == one != two


def test_a_range_of_targets_leaves_as_a_class_does() -> None:
    """Its own share and what suits a class; some of a range is some examples."""
    assert any("a class or a range" in note for note in run("renew", regression()).notes)
    assert any("the last block" in note for note in run("renew", regression(Where(fraction=0.1))).notes)


def test_nothing_kept_at_the_recipes_rate_is_training_from_scratch() -> None:
    """One full-batch step: no order and no schedule to differ by. The original's weights do not matter."""
    task = byhand.classification()
    one = byhand.run("renew", task, keep="none", share_examples=1.0, rate=1.0, average_after=1.0)
    byhand.assert_same(task, one, by_hand_from_scratch(task))


def by_hand_from_scratch(task: Classification) -> Any:
    return byhand.stepped(task.build(derive(0, "renew")), [lambda m: nll(m, task.retain)], momentum=0.0)


def test_scratch_keeps_nothing_and_is_exact() -> None:
    """One full-batch step at the recipe's rate is that of the recipe; at its defaults it is renew that keeps nothing."""
    task = byhand.classification()
    one = byhand.run("scratch", task, share=1.0, rate=1.0, average_after=1.0)
    byhand.assert_same(task, one, by_hand_from_scratch(task))
    found = run("scratch", classification(), fast=False, warm_up=0.0)
    assert found.guarantee["level"] == "exact"
    assert state_fingerprint(found.model) == state_fingerprint(run("renew", classification(), keep="none", share_class=0.3).model)


def test_scratch_warms_up_by_hand() -> None:
    """Four full-batch steps of SGD: half of its rate in the first, then the whole of it; the last two averaged."""
    task = byhand.classification(removed=True)
    start = task.build(derive(0, "renew"))
    steps = [lambda m, at=at: at * nll(m, task.retain) for at in (0.5, 1, 1, 1)]
    points = [byhand.stepped(start, steps[:count], lr=byhand.LR / 2, momentum=0.0) for count in (3, 4)]
    with torch.no_grad():
        for name, p in points[0].named_parameters():
            p.copy_((p + points[1].get_parameter(name)) / 2)
    byhand.assert_same(task, byhand.run("scratch", task, share=4.0, rate=0.5, warm_up=0.5), points[0])


def test_scratch_is_slower_with_layer_norm() -> None:
    """Eight times the recipe's rate without it, twice with it; the note says so."""
    def noted(norm: nn.Module) -> str:
        def build(seed: int) -> nn.Module:
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(2, 4), norm, nn.Linear(4, 3))

        x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        splits = {role: Split({"x": x, "y": (x[:, 0] > 0).long()}, role) for role in ("forget", "retain")}
        recipe = Recipe(epochs=20, lr=1e-3, batch_size=20, optimiser="adamw")
        return run("scratch", Classification(build(0), splits, recipe, build)).notes[0]

    assert "at 8 of the recipe's rate" in noted(nn.Identity()) and "at 2 of the recipe's rate" in noted(nn.LayerNorm(4))


def test_scratch_stands_in_every_comparison_with_a_recipe() -> None:
    base: dict[str, Any] = {"family": "classification", "model": {"zoo": "mlp"}, "data": {"kind": "digits"},
                            "forget": {"label": 3}, "recipe": {"epochs": 1}, "method": ["finetune", {"name": "scrub", "lr": 0.1}]}
    assert [one["name"] for one in beside_scratch(parse(base)).methods] == ["finetune", "scrub", "scratch"]
    for other in ({"recipe": None}, {"method": "finetune"}, {"method": ["retrain", "scratch"]}, {"method": ["all", "retrain"]}):
        assert beside_scratch(parse({**base, **other})).methods == parse({**base, **other}).methods


def test_a_comparison_that_cannot_train_anew_goes_without_scratch() -> None:
    asked = parse({"family": "classification", "model": {"zoo": "mlp"}, "data": {"kind": "digits"}, "forget": {"label": 3},
                   "recipe": {"epochs": 1}, "method": ["finetune", "scratch"]})
    whole = classification()
    task = Classification(whole.copy_of_original(), dict(whole.splits), None, whole.build)
    left = resolve(asked, Options(spared=("scratch",))).runs_on(task)
    assert [run.method for run in left] == ["finetune"]
    with pytest.raises(NeedsUnmet, match="recipe"):
        resolve(asked, Options()).runs_on(task)


def test_running_statistics_are_those_of_the_retained_data() -> None:
    """Of the inputs of the layer under the final weights, in equal batches."""
    x, y = torch.randn(301, 3, generator=torch.Generator().manual_seed(0)), torch.arange(301) % 2
    splits = {"forget": Split({"x": x[:1], "y": y[:1]}, "forget"), "retain": Split({"x": x[1:] + 5, "y": y[1:]}, "retain")}

    def build(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    torch.manual_seed(0)
    task = Classification(build(0), splits, Recipe(epochs=1, batch_size=64), build)
    model = run("renew", task).model
    entering: Tensor = model.get_submodule("0")(splits["retain"].columns["x"])
    torch.testing.assert_close(model.get_buffer("1.running_mean"), entering.mean(0))
    halves = torch.stack([part.var(0) for part in entering.split(150)]).mean(0)
    torch.testing.assert_close(model.get_buffer("1.running_var"), halves)
    assert model.get_submodule("1").momentum == 0.1


@pytest.mark.parametrize("recipe", [Recipe(epochs=10, lr=0.04, batch_size=50, schedule="onecycle"),
                                    Recipe(epochs=10, lr=0.2, batch_size=50, schedule="onecycle", optimiser="sgd")])
def test_a_batch_norm_network_of_a_high_rate_is_renewed(recipe: Recipe) -> None:
    """Twice the peak rate of such recipes ruins the fresh part; the watchdog used to give the original back."""
    images, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:1300], dtype=torch.float32).div(16).view(-1, 1, 8, 8), torch.tensor(digits[:1300])
    train, unseen = Split({"x": x[:700], "y": y[:700]}, "train"), Split({"x": x[700:], "y": y[700:]}, "holdout")
    (forget, retain), holdout = divide(train, where(label=3)), divide(unseen, where(label=3))[1]

    def build(seed: int) -> nn.Module:
        return zoo.build("small_cnn", width=8, norm="batch")

    original = trained_by(Classification(build(0), {"retain": train}, recipe, build), "retrain", 0)
    task = Classification(original, {"forget": forget, "retain": retain, "holdout": holdout}, recipe, build)
    model = trained_by(task, "renew", 0)
    with torch.no_grad():
        right = [(model(part.columns["x"]).argmax(1) == part.columns["y"]).float().mean() for part in (forget, retain, holdout)]
    assert right[0] == 0 and right[1] >= 0.97 and right[2] >= 0.92   # retrained: 0, 1, 0.95


def test_without_a_forget_set_the_form_has_to_be_named() -> None:
    task = classification()
    blind = task.replaced(task.original, forget=None)
    with pytest.raises(NeedsUnmet, match="forget"):
        run("renew", blind)
    named = run("renew", blind, keep="class").model
    assert state_fingerprint(named) == state_fingerprint(run("renew", task, keep="class").model)


@cache
def renewed(kind: str, keep: str) -> Scores:
    return judged(kind, [trained_by(task, "renew", seed, keep=keep) for seed, task in enumerate(problem(kind).tasks)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "labels"])
def test_renewal_is_as_near_to_retraining_as_a_retraining(kind: str) -> None:
    """Margins: the forget set is gone, two points of accuracy, no further from retraining than from-scratch training as short."""
    found, scratch, original = renewed(kind, "auto"), renewed(kind, "none"), scores(kind, "original")
    again = judged(kind, [trained_by(task, "retrain", 200 + seed) for seed, task in enumerate(problem(kind).tasks)])
    assert found.forget <= 2 < 98 < original.forget
    assert found.test >= again.test - 2
    assert found.js <= again.js + 0.05
    assert found.js <= scratch.js + 0.01

"""REM: who shares a path, what a branch adds, that nothing of it is left; and poison of which a tenth is known."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import as_users, run
from test_acceptance_digits import retrained_test_accuracy
from test_acceptance_digits import scores as on_digits
from test_ebyd import digits, scores, toy
from tiny import classification
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive, generator
from lethe.methods.classification.rem import Branch, Channel, paths
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.train.watchdog import Watchdog


def test_all_of_the_forget_set_shares_one_path_and_every_path_is_as_wide() -> None:
    found = paths(5, 200, 16, 0.25, torch.Generator().manual_seed(0))
    assert found.shape == (205, 16) and found.sum(1).eq(4).all()   # round(0.25 · 16)
    assert (found[:5] == found[0]).all() and found[5:].unique(dim=0).shape[0] > 150


def test_golden_branch() -> None:
    branch = Branch(nn.Linear(2, 1), 2)
    branch.load_state_dict({"down.weight": torch.tensor([[1.0, 0.0], [0.0, -1.0]]), "down.bias": torch.zeros(2),
                            "up.weight": torch.tensor([[10.0, 100.0]])})
    u = torch.tensor([[3.0, -2.0], [3.0, -2.0], [-3.0, 2.0]])   # relu: (3, 2), (3, 2), (0, 0)
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    assert branch(u, mask).tolist() == [[230.0], [200.0], [0.0]]   # 3·10 + 2·100; 2·100


@pytest.mark.parametrize(("layer", "u"), [
    (nn.Linear(3, 5), torch.randn(2, 7, 3)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 9, 9)),
    (nn.Conv1d(3, 5, 3, padding="same"), torch.randn(2, 3, 8)),
], ids=["linear", "conv2d", "conv1d"])
def test_a_branch_has_the_shape_of_its_layer_and_starts_silent(layer: nn.Module, u: torch.Tensor) -> None:
    assert torch.equal(Branch(layer, 4)(u, torch.ones(2, 4)), torch.zeros_like(layer(u)))


@pytest.mark.parametrize("name", ["small_cnn", "vit"])
def test_only_what_is_sent_through_meets_the_branches_and_nothing_of_them_stays(name: str) -> None:
    torch.manual_seed(0)
    model, x = build(name).eval(), torch.rand(3, 1, 8, 8)
    keys, before = list(model.state_dict()), model(x)
    channel = Channel(model, 4, seed=0)
    for key in channel.names:
        nn.init.normal_(model.get_parameter(key))
    assert torch.equal(model(x), before)
    with channel.through(torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4])):
        said = model(x)
    torch.testing.assert_close(said[1], before[1])   # its path is closed everywhere
    assert not torch.allclose(said[0], before[0])
    channel.drop()
    assert torch.equal(model(x), before) and list(model.state_dict()) == keys


def test_the_result_has_the_original_architecture_and_batch_norm_learns_with_retained_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    full = classification()
    task = Classification(model, {"forget": full.forget, "retain": full.retain})
    before = state_fingerprint(task.original)
    outcome = run("rem", task, epochs=1.0)
    assert list(outcome.model.state_dict()) == list(model.state_dict()) and not outcome.model.training
    assert [type(m) for m in outcome.model.modules()] == [type(m) for m in model.modules()]
    assert not torch.equal(outcome.model.get_buffer("1.running_mean"), model.get_buffer("1.running_mean"))
    assert not any(m._forward_hooks for m in outcome.model.modules()) and state_fingerprint(task.original) == before


def test_it_says_so_when_the_forget_set_does_not_go() -> None:
    task = classification()
    assert "still" in run("rem", task, erase_lr=1e-9, erase_epochs=2, epochs=1.0, gamma=0.0).notes[0]


def test_a_toy_backdoor_of_which_a_tenth_is_known_goes() -> None:
    task = toy()
    before, after = scores(task, task.original), scores(task, run("rem", task, lr=5e-3, epochs=20.0).model)
    left = scores(task, run("finetune", task).model)[1]
    assert before[1] > 0.9 and left > 0.8
    assert after[1] < 0.3 and after[0] > before[0] - 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "target"), [(3, 0), (4, 4), (5, 7)])
def test_digits_poison_of_which_a_tenth_is_known_mostly_goes_where_retraining_keeps_it(seed: int, target: int) -> None:
    """Originals on which nothing was chosen. With the loss that the remedy allows: 0.08, 0.20, 0.14 of the attack left,
    accuracy 0.958, 0.958, 0.925. By default the watchdog ends each run: of the third 7 points on unseen data go, and on retained
    data every run loses 10, for nine tenths of the poison stand there with the labels that are to go."""
    task = digits(seed, target)
    ended, outcome = as_users("rem", task, seed), as_users("rem", task, seed, watchdog=Watchdog(loss=10))
    (accuracy, attacked), (kept, left) = scores(task, task.original), scores(task, outcome.model)
    assert attacked > 0.95 and kept >= accuracy - 0.05 and left <= 0.3
    assert ended.fall is not None and ended.fall.part == ("holdout" if seed == 5 else "retain")
    assert scores(task, ended.model)[0] >= accuracy - 0.02
    assert all(scores(task, as_users(other, task, seed).model)[1] > 0.9 for other in ("retrain", "finetune"))


@pytest.mark.slow
def test_digits_a_class_goes_nearer_to_retraining_than_with_random_labels() -> None:
    found = on_digits("class", "rem")
    assert found.forget <= 3 and found.test >= retrained_test_accuracy("class") - 3
    assert found.js < on_digits("class", "random_label").js


@pytest.mark.slow
def test_digits_wrong_labels_go_nearer_to_retraining_than_with_scrub() -> None:
    """Measured 0.06 ± 0.03 against 0.39."""
    found = on_digits("labels", "rem")
    assert found.js < 0.2 < on_digits("labels", "scrub").js and found.retain >= 97 and found.forget <= 10


def test_steps_of_both_phases_by_hand() -> None:
    """Branches of four channels, two of them open; all forgotten examples go through the same two."""
    task, beta, kappa = byhand.known(byhand.classification(), 6), 0.8, 0.6
    (x, y), (kept, known) = ([task.splits[name].columns[key] for key in "xy"] for name in ("forget", "retain"))
    before = -byhand.cross_entropy(task.original(x), y).detach()

    def barrier(m: nn.Module) -> torch.Tensor:
        ratio = torch.exp(-byhand.cross_entropy(m(x), y) - before)
        return (2 / beta * torch.log(1 + ratio**beta)).mean()

    start, passes = task.original, 0
    while passes < 2:
        start, passes = byhand.stepped(start, [barrier], lr=0.3), passes + 1
        if float((start(x).argmax(1) == y).float().mean()) <= 0.5:
            break
    rows = torch.rand(13, 4, generator=generator(0, "rem")).argsort(1) < 2
    mask = torch.cat([rows[:1].expand(6, 4), rows[1:]]).float()
    twin = byhand.trainable(start)
    for number, (inside, outside) in enumerate(((4, 5), (5, 3))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(0, "rem", number))
            twin.add_module(f"down{number}", nn.Linear(inside, 4))
        twin.register_parameter(f"up{number}", nn.Parameter(torch.zeros(outside, 4)))
    every, labels = torch.cat([x, kept]), torch.cat([y, known])

    def redirected(m: byhand.Any) -> torch.Tensor:
        h = torch.tanh(m.body(every) + (m.down0(every).relu() * mask) @ m.up0.T)
        z = m.head(h) + (m.down1(h).relu() * mask) @ m.up1.T
        return byhand.cross_entropy(z, labels).mean() + kappa * barrier(m)

    wanted = byhand.stepped(twin, [redirected] * 2)
    assert float(wanted.up1.detach().abs().max()) > 1e-3
    del wanted.down0, wanted.down1, wanted.up0, wanted.up1
    found = byhand.run("rem", task, gamma=0.5, erase_lr=0.3, erase_epochs=2, epochs=2, beta=beta, kappa=kappa,
                       channels=4, share=0.5)
    byhand.assert_same(task, found, wanted, atol=1e-5)

"""NatMU: masks, partners, labels that are truly to be seen, and what is refused."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.methods.classification.natmu import NatMU, hybrids, likely, masks
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.train.loop import Loop, Settings


def squares(kind: torch.dtype = torch.float32, classes: int = 3) -> Task:
    """Images of class k are k/2 everywhere; two images of class 0 are to be forgotten."""
    y = torch.arange(12) % classes
    x = (y / 2).view(-1, 1, 1, 1).expand(12, 1, 8, 8).clone()
    x = (x * 255).to(kind) if kind == torch.uint8 else x
    data = Split({"x": x, "y": y}, "train")
    torch.manual_seed(0)
    return Classification(build("small_cnn"), {"forget": data.subset([0, classes], "forget"),
                                                   "retain": data.subset([i for i in range(12) if i % classes or i > classes],
                                                                         "retain")})


def mixed(task: Task, **options: object) -> Split:
    return hybrids(NatMU(**options), task, Loop(task, Settings(seed=0)))


def test_golden_masks() -> None:
    # 4 rows: up 0, ½ to the middle and down ½, 0; reversed ½, 0, 0, ½; along columns the same turned over
    found = masks(4, 4, 0.0)
    assert found[0, 0, :, 0].tolist() == [0, 0.5, 0.5, 0] and found[2, 0, :, 3].tolist() == [0.5, 0, 0, 0.5]
    assert torch.equal(found[1, 0], found[0, 0].T) and torch.equal(found[3, 0], found[2, 0].T)
    assert masks(4, 4, -0.2)[0, 0, :, 0].tolist() == pytest.approx([0, 0.3, 0.3, 0])
    assert masks(32, 32, 0.0).mean().item() == pytest.approx(15 / 32)   # ramps 0, 1/16, …, 15/16


@pytest.mark.parametrize(("delta", "seen"), [(-1.0, 0.0), (1.0, 1.0)])
def test_limits_of_the_masks(delta: float, seen: float) -> None:
    assert (masks(5, 8, delta) == seen).all()


def test_likely_classes_are_retained_ones_other_than_the_label() -> None:
    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0], [5.0, 4, 3, 2, 1, 0]])
    everyone = torch.ones(6, dtype=torch.bool)
    assert likely(logits, torch.tensor([0, 2]), everyone).tolist() == [[1, 2, 3, 4], [0, 1, 3, 4]]
    some = torch.tensor([True, False, True, False, False, True])
    assert likely(logits, torch.tensor([0, 4]), some).tolist() == [[2, 5, 2, 5], [0, 2, 5, 0]]


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_the_label_is_that_of_the_image_laid_over(kind: torch.dtype) -> None:
    task = squares(kind)
    for delta, partners in ((-1.0, "likely"), (0.0, "random")):   # x is 0, so what is seen is (1 − m)·y/2
        found = mixed(task, delta=delta, partners=partners)
        assert len(found) == 8 and (found.columns["y"] > 0).all()
        seen = (1 - masks(8, 8, delta).repeat(2, 1, 1, 1)) * (found.columns["y"] / 2).view(-1, 1, 1, 1)
        torch.testing.assert_close(found.columns["x"], seen, atol=3e-3, rtol=0)   # bytes round k/2


def test_repeats_to_the_same_bits_and_leaves_the_original() -> None:
    task = squares()
    before = state_fingerprint(task.original)
    one, two = (state_fingerprint(run("natmu", task, epochs=1, partners="random").model) for _ in range(2))
    assert one == two != before == state_fingerprint(task.original)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(NeedsUnmet, match="lays pictures"):
        run("natmu", classification())


def test_a_single_retained_class_is_refused() -> None:
    with pytest.raises(NeedsUnmet, match="no class but"):
        run("natmu", squares(classes=1))


@pytest.mark.slow
def test_reads_less_of_a_wrong_answer_than_random_labels_on_digits() -> None:
    from test_acceptance_digits import retrained_test_accuracy, scores

    for kind in ("class", "labels"):
        found = scores(kind, "natmu")
        margin = 0.2 if kind == "class" else 0.1   # measured 0.16 for 0.45 and 0.15 for 0.32
        assert found.js < scores(kind, "random_label").js - margin and found.js < scores(kind, "finetune").js - 0.2
        assert found.retain >= 98 and found.test >= retrained_test_accuracy(kind) - 3
        assert found.forget <= (5 if kind == "class" else 25)


@pytest.mark.parametrize("partners", ["likely", "random"])
def test_two_steps_by_hand(partners: str) -> None:
    """The learning rate falls by a cosine. Of four classes three are left to each image, so the first comes twice."""
    task, delta, alpha = byhand.classification(classes=4, pictures=True), -0.2, 0.6
    (kept, known), (x, y) = ([task.splits[name].columns[key] for key in "xy"] for name in ("retain", "forget"))
    rng = generator(0, "natmu")
    score = task.original(x).detach() if partners == "likely" else torch.rand(6, 4, generator=rng)
    down = torch.tensor([0.0, 0.5, 0.5, 0.0]).view(4, 1).expand(4, 4)
    shown = [(m + delta).clamp(0, 1) for m in (down, down.T, 0.5 - down, 0.5 - down.T)]
    images, labels = [], []
    for image, own, row in zip(x, y.tolist(), score.tolist(), strict=True):
        ranks = sorted((k for k in range(4) if k != own), key=lambda k: -row[k])
        for k, mask in zip([*ranks, ranks[0]], shown, strict=True):
            those = (known == k).nonzero()[:, 0]
            other = kept[those[torch.randint(len(those), (), generator=rng)]]
            images.append(mask * image + (1 - mask) * other)
            labels.append(k)
    mixed, taught = torch.stack(images), torch.tensor(labels)
    aim = [lambda m: byhand.cross_entropy(m(mixed), taught).mean() + alpha * byhand.nll(m, task.retain)] * 2
    found = byhand.run("natmu", task, partners=partners, delta=delta, alpha=alpha, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, aim, lr=[byhand.LR, byhand.LR / 2]))

"""MSG: what is drawn anew, what is slowed."""

from __future__ import annotations

import math

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.maths.importance import gradient_sum
from lethe.methods.general.msg import Slowed, kernels, redrawn
from lethe.models.classification.task import Classification
from lethe.models.zoo import build


def test_only_convolution_weights_are_kernels() -> None:
    model = build("small_cnn")
    assert kernels(model, [name for name, _ in model.named_parameters()]) == ["conv1.weight", "conv2.weight"]


def test_redrawn_entries_have_the_deviation_of_he_and_the_others_stay() -> None:
    theta, mask = torch.full((64, 32, 3, 3), 7.0), torch.rand(64, 32, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    found = redrawn(theta, mask, torch.Generator().manual_seed(1))
    assert (found[~mask] == 7).all()
    expected = (2 / (64 * 9)) ** 0.5   # over the 64 kernels that read an input; 9,216 draws: the deviation is known to about 1 %
    assert abs(float(found[mask].std()) / expected - 1) < 0.04


def test_gradients_are_slowed_entry_by_entry() -> None:
    applied: list[list[torch.Tensor]] = []
    Slowed([torch.tensor([1.0, 0.1])]).step(["retain"], lambda names: [torch.tensor([2.0, 2.0])], applied.append)
    torch.testing.assert_close(applied[0][0], torch.tensor([2.0, 0.2]))


def test_the_weights_on_which_both_gradients_agree_best_are_drawn_anew() -> None:
    """A tiny lr shows what was drawn. Ties (weights of dead units, whose gradients are all 0) are drawn together."""
    x, y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    torch.manual_seed(0)
    model = build("small_cnn")
    forget, retain = (Split({"x": x[at : at + 6], "y": y[at : at + 6]}, name) for at, name in ((0, "forget"), (6, "retain")))
    task = Classification(model, {"forget": forget, "retain": retain})
    moved = run("msg", task, share=0.3, lr=1e-9, epochs=1).model
    names = ("conv1.weight", "conv2.weight")
    params = {name: model.get_parameter(name) for name in names}
    on_forget, on_retain = (gradient_sum(model, params, [s.batch(range(6))], task.nll) for s in (forget, retain))
    for name in names:   # a share of each convolution
        score = (on_retain[name] - on_forget[name]).abs().flatten()
        changed = ((moved.get_parameter(name) - params[name]).abs() > 1e-6).flatten()
        assert changed.sum() >= 0.29 * len(changed)
        assert score[changed].max() <= score.sort().values[round(0.3 * len(score)) - 1] * 1.001 < score.max()
    assert (moved.get_parameter("fc1.weight") - model.get_parameter("fc1.weight")).abs().max() < 1e-6


def test_nothing_drawn_and_nothing_slowed_is_finetune_on_the_same_schedule() -> None:
    task = classification()
    one = run("msg", task, share=0.0, slow=1.0, epochs=1, batch_size=len(task.retain), warmup=0.0, lr=1e-2)
    plain = run("finetune", task, epochs=1, batch_size=len(task.retain), lr=1e-2)   # one step: no schedule to differ by
    assert state_fingerprint(one.model) == state_fingerprint(plain.model)
    assert "no convolution" in one.notes[0]


def test_one_step_by_hand() -> None:
    """Without convolutions both matrices are drawn anew in the share where the gradients of R and F agree best."""
    task, share, slow = byhand.classification(), 0.4, 0.2
    wanted = byhand.trainable(task.original)
    some = task.retain.subset(torch.randperm(12, generator=generator(0, "msg"))[:6], "some")   # as many as there are to forget
    apart = {name: (byhand.gradient(wanted, lambda m: nll(m, some))[name]
                    - byhand.gradient(wanted, lambda m: nll(m, task.forget))[name]).abs()
             for name in ("body.weight", "head.weight")}
    most = {name: a.flatten().sort().values[round(share * a.numel()) - 1] for name, a in apart.items()}
    with torch.no_grad():
        for name, a in apart.items():
            p = wanted.get_parameter(name)
            fresh = torch.randn(p.shape, generator=generator(0, "msg", name)) * math.sqrt(2 / p.shape[0])
            p.copy_(torch.where(a <= most[name], fresh, p))
    step = byhand.gradient(wanted, lambda m: nll(m, task.retain))
    with torch.no_grad():
        for name, p in wanted.named_parameters():
            factor = torch.where(apart[name] <= most[name], 1.0, slow) if name in apart else 1.0   # biases are not slowed
            p.sub_(byhand.LR * factor * step[name])
    byhand.assert_same(task, byhand.run("msg", task, share=share, slow=slow, warmup=0.0), wanted)

"""GANs: trained by two losses in turn, seen through samples, saved as they came; half a GAN is a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gan_world import looked
from running import as_users
from safetensors.torch import load_file, save_file
from tiny import gan as corners
from torch import Tensor, nn
from typer.testing import CliRunner

import lethe
from lethe.cli.main import app
from lethe.errors import DataError, ModelError, NeedsUnmet, OutputShape
from lethe.models.zoo.gan_mlp import GanMLP

SHARED = Path(os.environ.get("LETHE_DATA", "/nowhere"))


def test_the_two_losses_and_the_slope() -> None:
    task: Any = corners()
    model, batch = task.copy_of_original(), task.retain.batch([0, 1, 2])
    batch = batch.replace(z=task.latents(3))
    real = batch.x * 2 - 1
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.D(x).sum(), x)
    wanted = (torch.log1p(torch.exp(-model.D(real))) + torch.log1p(torch.exp(model.D(model.G(batch.z)))))[:, 0]
    assert torch.allclose(task.discriminator_loss(model, batch), wanted + slope.square().sum(1) / 2, atol=1e-5)
    wanted = torch.log1p(torch.exp(-model.D(model.G(batch.z))))[:, 0]
    assert torch.allclose(task.generator_loss(model, batch), wanted, atol=1e-5)
    assert task.trains_itself() and task.undesired == (3,)


def test_no_method_that_needs_a_loss_of_an_example_is_offered() -> None:
    from lethe.train import apply

    task = corners()
    assert set(apply.fitting(task)) == {"adapt_unlearn", "auto", "retrain"}
    with pytest.raises(NeedsUnmet, match="finetune uses batch_loss, which has no meaning for a gan task"):
        lethe.forget(task, "finetune", progress=False)


def points(n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 2), torch.arange(n) % 2


def test_half_a_gan_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lone, loud = nn.Module(), GanMLP(4, (8,), 2)
    lone.generator = nn.Linear(4, 2)
    loud.D = nn.Sequential(loud.D, nn.Sigmoid())   # a sigmoid at the end is seen
    assert lethe.gan(loud, points(), lethe.where(label=1), tanh=False)._returns == "probabilities"
    for model, more, error, said in (
            (lone, {}, ModelError, "Module has no discriminator .*nothing can teach it.*say its name: model.discriminator"),
            (GanMLP(4, (8,), 3), {}, OutputShape, r"the generator draws \(3,\) and real examples are \(2,\)"),
            (GanMLP(4, (8,), 2), {"reader": nn.Sequential(nn.Linear(2, 1))}, DataError, "the classifier knows 1 classes")):
        with pytest.raises(error, match=said):
            lethe.gan(model, points(), lethe.where(label=1), **more)
    for label, said in ((2, "class 2 .*train:20 of retain.*knows 2 classes"), (-1, "class -1 .*train:20 of retain")):
        x, y = points()
        y[20] = label   # not among the first examples
        with pytest.raises(DataError, match=said):
            lethe.gan(GanMLP(4, (8,), 2), (x, y), lethe.where(label=1), reader=nn.Sequential(nn.Linear(2, 2)))
    monkeypatch.chdir(tmp_path)
    weights = GanMLP(4, (8,), 2).state_dict()
    save_file({key: value for key, value in weights.items() if key.startswith("G.")}, "half.safetensors")
    np.savez("points.npz", x=points()[0].numpy(), y=points()[1].numpy())
    Path("r.yaml").write_text(request("half.safetensors"))
    told = CliRunner().invoke(app, ["run", "r.yaml", "-q"])
    assert isinstance(told.exception, ModelError) and "holds no weights of the discriminator (D.0.weight" in str(told.exception)
    assert not Path("runs").exists()


def request(weights: str) -> str:
    return f"""
title: half a plane
family: gan
model: {{zoo: gan_mlp, options: {{latent: 4, hidden: [8], pixels: 2}}, weights: {weights}}}
data: {{kind: npz, path: points.npz}}
forget: {{label: 1}}
method: {{name: adapt_unlearn, adapt_steps: 3, unlearn_steps: 3, feedback: 200}}
watchdog: false
audit: {{depth: quick, references: 0, shadows: 0}}
"""


def test_a_gan_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    weights = GanMLP(4, (8,), 2).state_dict()
    save_file(weights, "gan.safetensors")
    np.savez("points.npz", x=points()[0].numpy(), y=(points()[0][:, 0] > 0.5).long().numpy())
    Path("r.yaml").write_text(request("gan.safetensors"))
    told = CliRunner().invoke(app, ["run", "r.yaml", "-q"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    run = next(path for path in Path("runs").iterdir() if path.is_dir())
    saved = load_file(run / "models" / "adapt_unlearn" / "model.safetensors")
    assert saved.keys() == weights.keys() and not torch.equal(saved["G.0.weight"], weights["G.0.weight"])
    GanMLP(4, (8,), 2).load_state_dict(saved)
    (case,) = json.loads((run / "results.json").read_text())["scenarios"]
    metrics = {item["metric"] for row in case["subjects"] for item in row["evidence"]}
    assert {"undesired_share", "unlearned_share", "frechet_retain", "forget_coverage"} <= metrics
    assert case["objective"] == "concept"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "models" / "mnist_gan_mlp.npz").exists(), reason="needs the MLP GAN of the shared data")
@pytest.mark.xfail(strict=True, reason="PUL 0.61: 33 % of the samples are ones before, 13 % after; distance 1.16 times")
def test_the_mnist_gan_of_the_shared_data_forgets_its_ones() -> None:
    """34 % of its samples are ones. PUL at least 0.9; the other digits' Fréchet distance at most 1.3 times the original's."""
    data = np.load(SHARED / "images" / "mnist.npz")
    x, y = (torch.from_numpy(np.ascontiguousarray(data[key][:6000])) for key in ("x_train", "y_train"))
    model = GanMLP()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(SHARED / "models" / "mnist_gan_mlp.npz").items()})
    task: Any = lethe.gan(model, (x.unsqueeze(1), y.long()), lethe.where(label=1))
    assert task.reader.accuracy > 0.9
    unlearned = as_users("adapt_unlearn", task, watchdog=False, lr=2e-4).model
    (before, far), (after, now) = looked(task, task.original, 1), looked(task, unlearned, 1)
    assert 0.25 < before < 0.45 and after <= 0.1 * before and now <= 1.3 * far, (before, after, far, now)

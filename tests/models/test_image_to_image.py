"""Image-to-image models: what is hidden, the loss of that alone, skip connections as codes, the command line, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import image_to_image as tiny_pictures
from torch import Tensor, nn
from typer.testing import CliRunner

import lethe
from lethe.cli.main import app
from lethe.errors import DataError, ModelError, OutputShape
from lethe.models.image_to_image.hiding import Hide, hidden
from lethe.models.zoo.masked_autoencoder import MaskedAutoencoder


def test_what_is_hidden() -> None:
    rng = torch.Generator().manual_seed(0)
    patches = hidden(Hide("patches", 0.5, 2), 5, 8, 8, rng)
    assert patches.sum((1, 2, 3)).tolist() == [32] * 5 and not torch.equal(patches[0], patches[1])
    assert torch.equal(patches[:, :, ::2, ::2], patches[:, :, 1::2, 1::2])
    assert hidden(Hide("patches", 0.99, 4), 1, 6, 6, rng).sum() < 36   # never all
    centre, border = (hidden(Hide(kind, 0.25), 1, 8, 8, rng)[0, 0] for kind in ("centre", "border"))
    assert centre.sum() == 16 and centre[2:6, 2:6].all() and border.sum() == 64 - 49 and not border[4, 4]


def test_the_loss_is_that_of_hidden_values() -> None:
    task: Any = tiny_pictures()
    batch = task.draw(task.retain.batch([0, 1, 2]), torch.Generator().manual_seed(1), False)
    given = torch.cat([batch.image * ~batch.mask, batch.mask.float()], 1)
    apart = (task.original(given) - batch.image).square()
    wanted = torch.stack([apart[i][batch.mask[i]].mean() for i in range(3)])
    assert torch.allclose(task.nll(task.original, batch), wanted, atol=1e-6)
    noise = task.relabel(batch, torch.Generator().manual_seed(2))
    assert not torch.allclose(task.nll(task.original, noise), wanted) and noise.target.shape == batch.image.shape
    whole = task.outputs(task.original, batch)
    assert torch.equal(whole[~batch.mask], batch.image[~batch.mask])
    assert torch.allclose(task.divergence(whole, batch.image, batch), wanted, atol=1e-6)


class Skipping(nn.Module):
    """Hands the decoder the code and what it was made of; knows nothing of a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 4, 4), nn.Conv2d(5, 1, 1)
        self.E = Both(self.first, self.second)

    def forward(self, x: Tensor) -> Tensor:
        skip, code = self.E(x)
        drawn: Tensor = self.last(torch.cat([skip, code.expand(-1, -1, 4, 4)], 1))
        return drawn


class Both(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.first(x)
        return skip, self.second(skip)


def pictures(n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 2


def test_skip_connections_are_codes_and_models_that_do_not_fit_are_refused() -> None:
    task: Any = lethe.image_to_image(Skipping(), pictures(), lethe.where(label=1))
    batch = task.draw(task.forget.batch([0, 1]), torch.Generator().manual_seed(0), False)
    assert [tuple(code.shape) for code in task.codes(task.original, batch)] == [(2, 2, 4, 4), (2, 3, 1, 1)]
    assert task.features(task.original, batch).shape == (2, 5)
    bare = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    small, wide = MaskedAutoencoder(1, 4, width=4, depth=1, code=8), MaskedAutoencoder(2, 4, width=4, depth=1, code=8)
    small.decoder = nn.Sequential(small.decoder, nn.Flatten())
    for model, error, said in ((bare, ModelError, "has no module encoder, E, netE or enc.*Say the encoder's name: model.encoder"),
                               (wide, ModelError, "takes neither pictures .* nor these with the mask"),
                               (small, OutputShape, r"the model returns \(2, 16\) for pictures \(2, 1, 4, 4\)")):
        with pytest.raises(error, match=said):
            lethe.image_to_image(model, pictures(), lethe.where(label=1))
    x, y = pictures()
    y[20] = 2   # not among the first examples
    reader = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(DataError, match=r"class 2 .*example train:20 of retain.*knows 2 classes"):
        lethe.image_to_image(Skipping(), (x, y), lethe.where(label=1), reader=reader)


def test_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("""
title: half a digit
family: image_to_image
model: {zoo: masked_autoencoder, options: {width: 4, code: 8}, hidden: centre, share: 0.4}
data: {kind: digits, limit: 120, holdout: 0.2, proxy: {kind: digits, limit: 40}}
recipe: {epochs: 2, lr: 5.0e-3}
forget: {label: 3}
method: {name: i2i, keep: proxy, epochs: 2}
watchdog: false
audit: {depth: quick, references: 2, shadows: 0}
""")
    told = CliRunner().invoke(app, ["run", "r.yaml", "-q"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    run = next(path for path in Path("runs").iterdir() if path.is_dir() and path.name != ".cache")
    saved = load_file(run / "models" / "i2i" / "model.safetensors")
    MaskedAutoencoder(width=4, code=8).load_state_dict(saved)
    (case,) = json.loads((run / "results.json").read_text())["scenarios"]
    metrics = {item["metric"] for row in case["subjects"] for item in row["evidence"]}
    assert {"forget_psnr", "retain_recognised", "forget_to_retrained", "forget_closeness"} <= metrics

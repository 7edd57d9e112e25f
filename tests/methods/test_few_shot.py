"""Few-shot erasing: two steps of the text encoder by hand, which layers move, where it ends, and its claims on the preset."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Any

import byhand
import panels
import pytest
import torch
from byhand import apart, drawn_for, said
from diffusion_folders import sdxl

from lethe.api import forget
from lethe.core.families.diffusion import own_encoder
from lethe.errors import RequestError
from lethe.methods.diffusion.few_shot import FewShot, likeness
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.open import text_to_image
from lethe.work.execute import Options
from lethe.work.open import tasks_of
from lethe.work.request import read

PRESET = Path(__file__).resolve().parents[2] / "presets" / "shapes_erase.yaml"
LAYERS = {   # of an encoder of two layers
    "mlp_final": ("0.mlp", "1.mlp", "1.self_attn"), "mlp": ("0.mlp", "1.mlp"), "attention": ("0.self_attn", "1.self_attn"),
    "all": ("",),
}


def test_golden_numbers() -> None:
    one = torch.tensor([[[3.0], [4.0]], [[1.0], [0.0]]])
    other = torch.tensor([[[4.0], [3.0]], [[0.0], [2.0]]])
    assert float(likeness(one, other)) == pytest.approx((24 / 25 + 0) / 2)
    assert float(likeness(one, 7 * one)) == pytest.approx(1)


@pytest.mark.parametrize("layers", ["mlp_final", "attention"])
def test_two_steps_by_hand(layers: str) -> None:
    task = byhand.diffusion()
    pictures = task.forget.subset(torch.randperm(len(task.forget), generator=drawn_for("few_shot"))[:3], "forget")
    encoder: Any = byhand.trainable(task.pipeline.text_encoder)
    parts = LAYERS[layers]
    moving = {name: p for name, p in encoder.named_parameters() if any(f"layers.{part}." in name for part in parts)}
    adam = torch.optim.Adam(moving.values(), lr=0.01)
    for step in range(2):
        rows, x, t, noise = byhand.noised(task, pictures, "forget", step)
        loss = -apart(said(task.original, x, t, encoder(pictures.columns["tokens"][rows])[0]), noise)
        adam.zero_grad()
        loss.backward()
        adam.step()
    model = byhand.run("few_shot", task, pictures=3, layers=layers, lr=0.01, epochs=2, batch_size=3)
    found, plain = own_encoder(model), task.pipeline.text_encoder
    assert found is not None
    for name, p in encoder.named_parameters():
        now = found.get_parameter(name)
        assert torch.allclose(now, p, atol=3e-4), f"{name} differs by {float((now - p).abs().max()):g}"
        assert torch.equal(now, plain.get_parameter(name)) == (name not in moving), name
    was = dict(task.original.named_parameters())
    assert all(torch.equal(p, was[name]) for name, p in model.named_parameters() if name in was)


def test_it_ends_when_states_are_no_longer_alike() -> None:
    task = byhand.diffusion()
    whole = byhand.outcome("few_shot", task, lr=0.01, epochs=4)
    ended = byhand.outcome("few_shot", task, lr=0.01, epochs=4, alike=0.999)
    first = byhand.outcome("few_shot", task, lr=0.01, epochs=1, batch_size=4, alike=1.0)
    assert first.cost.steps == 1 and ended.cost.steps < whole.cost.steps


def test_without_pictures_noise_of_their_scale_stands_for_them() -> None:
    task = byhand.diffusion()
    one, other = (own_encoder(byhand.run("few_shot", task, pictures=n, lr=0.01, epochs=1)) for n in (0, 2))
    assert one is not None and other is not None
    assert any(not torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())


def test_what_cannot_be_done_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Leave where out"):
        forget(byhand.diffusion(), FewShot(), modifiers={"where": "sara"}, progress=False)
    sdxl(tmp_path / "pipe")
    two = text_to_image(load_pipeline(tmp_path / "pipe"), "disk", [], ["a red disk"], per_prompt=1, steps=1)
    with pytest.raises(RequestError, match="reads more"):
        forget(two, FewShot(), progress=False)


# -- the claims, on the preset's model: trained once (about 3 CPU minutes) and kept in pytest's cache folder --------------


@pytest.fixture(scope="module")
def task(request: pytest.FixtureRequest) -> Any:
    return tasks_of(read(PRESET), Options(cache=request.config.cache.mkdir("lethe")))[""]


def seen(task: Any, **options: Any) -> list[dict[str, float]]:
    """What three edits show, and how long they took."""
    rows = []
    for seed in (0, 1, 2):
        began = time.process_time()
        model = forget(task, "few_shot", seed=seed, progress=False, watchdog=False, **{"lr": 4e-4, **options}).model
        took = time.process_time() - began
        rows.append({"seconds": took, **panels.seen(task, model, erasure={})})
    return rows


def mean(rows: list[dict[str, float]], metric: str) -> float:
    return fmean(row[metric] for row in rows)


@pytest.fixture(scope="module")
def published(task: Any) -> list[dict[str, float]]:
    return seen(task)


@pytest.mark.slow
def test_the_perceptrons_erase_more_than_attention_in_seconds(task: Any, published: list[dict[str, float]]) -> None:
    """0.78, 0.13, 0.56 against 0.19, 0.03, 0.38 (3 seeds)."""
    assert max(row["seconds"] for row in published) < 10
    assert mean(published, "unlearning_accuracy") > mean(seen(task, layers="attention"), "unlearning_accuracy") + 0.1


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.49 erased and kept shapes 0.78 of 0.94 (3 seeds): the encoder "
                                                              "of this problem was never trained, and knows no disks")
def test_few_pictures_erase_and_the_rest_stays(published: list[dict[str, float]]) -> None:
    assert mean(published, "unlearning_accuracy") >= 0.85 and mean(published, "kept_accuracy") >= 0.84


@pytest.mark.slow
def test_states_that_stay_alike_keep_more(task: Any, published: list[dict[str, float]]) -> None:
    """alike = 0.95: kept shapes 0.87 against 0.78, kept colours 0.72 against 0.42, 0.36 erased against 0.49 (3 seeds)."""
    ended = seen(task, alike=0.95)
    assert mean(ended, "kept_accuracy") >= 0.94 - 0.1 and mean(ended, "kept_accuracy") > mean(published, "kept_accuracy") + 0.03
    assert mean(ended, "kept_other_accuracy") > mean(published, "kept_other_accuracy") + 0.1

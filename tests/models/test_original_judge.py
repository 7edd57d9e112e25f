"""The original as judge of any concept: exact denoisers are told apart without error, a trained one nearly so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from panels import values
from remembering import Exact, all_shapes

from lethe.audits.diffusion.completion import measure as completion
from lethe.audits.diffusion.erasure import measure as erasure
from lethe.audits.diffusion.random_tokens import measure as random_tokens
from lethe.audits.diffusion.unlearncanvas import measure as unlearncanvas
from lethe.core.modules import copied
from lethe.data.shapes import captions, render
from lethe.judge.auditor import applicable
from lethe.models.diffusion.original_judge import OriginalJudge
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject


@pytest.fixture(scope="module")
def world() -> Diffusion:
    return all_shapes()


@pytest.fixture(autouse=True)
def features(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact denoisers have no layers: pixels are their features."""
    if "world" in request.fixturenames:
        monkeypatch.setattr(Diffusion, "features", lambda self, model, batch: batch.image.flatten(1))


def deaf(task: Diffusion) -> Exact:
    """Asked for a disk in some colour, it draws anything in this colour."""
    model = copied(task.original, trainable=False)
    assert isinstance(model, Exact)
    model.deaf_to = "disk"
    return model.learn(task)


def test_it_sees_what_pictures_show(world: Diffusion) -> None:
    judge = world.judge
    assert isinstance(judge, OriginalJudge) and judge.attribute_of("disk") == "concept" and judge.attribute_of("cross") is None
    prompts = captions()
    pictures = torch.stack([render(*text.split()[1:]) for text in prompts])
    disks = torch.tensor(["disk" in text for text in prompts])
    seen, features = judge.read(pictures, prompts), judge.features(pictures)
    assert torch.equal(judge.shows(seen, "disk"), disks) and seen["concept"].tolist() == [0 if disk else 1 for disk in disks]
    assert seen["rest"][disks].tolist() == [0] * 4 and len(features) == 16
    alone = judge.read(pictures)                               # pictures without a prompt: the concept is seen all the same
    assert torch.equal(judge.shows(alone, "disk"), disks)
    wrong = judge.read(pictures.roll(4, 0), prompts)           # every picture has the colour, not the shape, that was asked
    assert bool((wrong["concept"][~disks] != 1).all()) and bool((wrong["concept"][disks] == 2).all())
    assert wrong["rest"][disks].tolist() == [0] * 4
    assert judge.expected("a red disk") == {"concept": 0, "rest": 0} and judge.expected("disk") == {"concept": 0}
    assert judge.expected("a red cross") == {"concept": 1} and judge.expected("") == {}


def test_a_strangers_pipeline_is_judged(world: Diffusion) -> None:
    """No classifier, no labels: the original is found out, what only lost the words passes, and neighbours are right."""
    assert all(applicable(one, world, 0, "deep") in (None, "") for one in (erasure, unlearncanvas, random_tokens, completion))
    original, edited = Subject("original", world.original, world), Subject("deaf", deaf(world), world)
    before, after = (values(erasure, one, original=original, per_prompt=6, empty=16) for one in (original, edited))
    assert before["unlearning_accuracy"].value < 0.1 and before["kept_accuracy"].value > 0.9 < before["outside_accuracy"].value
    assert after["unlearning_accuracy"].value == pytest.approx(0.75, abs=0.2)     # one of four shapes is a disk
    assert after["forget_other_accuracy"].value > 0.9 < after["kept_accuracy"].value
    assert before["prevalence"].value == pytest.approx(0.25, abs=0.25)


@pytest.mark.slow
def test_it_agrees_with_a_trained_classifier(request: pytest.FixtureRequest) -> None:
    """AUC ≥ 0.85 as a detector of the concept among pictures that the preset's original draws for "a red disk" and "a red"."""
    from lethe.core.concepts import without
    from lethe.work.execute import Options
    from lethe.work.open import tasks_of
    from lethe.work.request import read

    preset = Path(__file__).resolve().parents[2] / "presets" / "shapes_erase.yaml"
    task = tasks_of(read(preset), Options(cache=request.config.cache.mkdir("lethe")))[""]
    assert isinstance(task, Diffusion)
    judge, gains, shown = OriginalJudge(task), [], []
    for prompt in task.prompts["forget"]:
        rest = without(prompt, "disk")
        pictures = task.sample(task.original, [prompt] * 12 + [rest] * 24, seed=3)
        gains.append(judge.gained(pictures, prompt, rest))
        shown.append(task.reader.shows(task.reader.read(pictures), "disk"))
    gain, disk = torch.cat(gains), torch.cat(shown)
    more = (gain[disk].unsqueeze(1) > gain[~disk]).double().mean()
    assert more > 0.85 and ((gain > 0) == disk).double().mean() > 0.85

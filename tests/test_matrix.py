"""Every method on every tiny task of its families: it runs, changes weights, is reproducible, leaves the original alone,
resumes to the same bits, exports, and stays within what it declared. A new method or tiny task needs no edit here."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BROAD, TASKS

import lethe
from lethe.core import catalogue
from lethe.core.families.diffusion import OWN
from lethe.core.modules import state_fingerprint
from lethe.core.operations import unlimited
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.errors import NeedsUnmet, NotGranted
from lethe.train.apply import all_methods
from lethe.train.loop import Loop, Modifiers, Settings
from lethe.train.run import Run

LENGTHS = {"epochs", "steps", "trajectories", "images", "looks"}   # of methods, cut to SMALL
SMALL = 2   # epochs or steps: enough to be interrupted between two steps

OPTIONS: dict[str, dict[str, Any]] = {   # where the defaults do nothing on a toy problem, or train up to 80 members
    "ssd": {"alpha": 1.0},               # selects nothing once alpha exceeds the imbalance of 160 easy points
    "resalign": {"users": (2,)},         # of the thirty steps of a user
    "itd": {"words": 64}, "elm": {"longest": 8},   # prompts to learn a dictionary from, tokens of an answer
    "in_turn": {"parts": 2}, "minimalist": {"start": 0.1, "sampler_steps": 1},   # from 3 two steps reach no 0
    "saeuron": {"block": "mid_block.attentions.0"},   # the tiny network reads text on its way down and in the middle
    "pdu": {"warmup": 0.0, "alpha": 1.0, "lr": 1e-2, "batch_size": 4},   # its multiplier moves between the steps
    "s3t": {"shards": 2, "slices": 2, "budget": 2}, "sisa": {"shards": 2, "slices": 2}, "shard_lora": {"shards": 2},
}
METHODS = {name: entry for name, entry in catalogue.entries("methods").items() if name != "auto"}   # it runs the others
USUAL = {"finetune", "neggrad_plus", "retrain"}   # of the general methods, those that every family shows in the default suite


def marks(name: str, key: str) -> list[pytest.MarkDecorator]:
    """General methods run on four families; beside its own methods, a further family runs the usual ones, and the others slow."""
    alone = len(METHODS[name].families) == 1
    return [] if key in BROAD or alone or name in USUAL else [pytest.mark.slow]


PAIRS = [pytest.param(name, key, id=f"{name}-{key}", marks=marks(name, key)) for name, entry in METHODS.items() for key in TASKS
         if entry.fits(key)]
each = pytest.mark.parametrize(("name", "key"), PAIRS)
DRAWING = {name for name, entry in METHODS.items() if entry.path.parent.name == "diffusion"} - {"uce", "esd"}   # seconds a run


def repeated(name: str, key: str) -> bool:
    """Whether the default suite repeats a run: a method's on the first family that it fits; on the others two of the usual ones
    show that what these draw is repeated, too."""
    first = next(family for family in TASKS if METHODS[name].fits(family))
    return (key == first and name not in DRAWING) or name in USUAL - {"retrain"}


again = pytest.mark.parametrize(("name", "key"), [
    pytest.param(*pair.values, id=pair.id, marks=[] if repeated(*pair.values) else [pytest.mark.slow]) for pair in PAIRS])


class Killed(BaseException):
    """What a kill looks like from inside."""


@cache
def task_of(key: str) -> Task:
    return TASKS[key]()


def small(config: type, options: dict[str, Any], most: int = SMALL) -> Any:
    """The config with its lengths cut down."""
    cut = {f.name: min(f.default, most) for f in dataclasses.fields(config)
           if f.name.split("_")[-1] in LENGTHS and isinstance(f.default, (int, float))}
    return config(**{**cut, **options})


def run(name: str, key: str, folder: Path | None = None, modifiers: Modifiers | None = None) -> Outcome:
    """One run in which method and loop alike see only what the method declared."""
    method = catalogue.load("methods", name)
    try:
        view = task_of(key).granted(method.needs, method.uses)
    except NeedsUnmet as unmet:
        pytest.skip(f"{key}: {unmet}")
    loop = Loop(view, Settings(seed=5, checkpoint_seconds=0.0), modifiers or Modifiers(), folder=folder)
    return method.run(small(method.config, OPTIONS.get(name, {})), view, loop)


@cache
def first(name: str, key: str) -> tuple[Outcome, dict[str, Any], dict[str, Any]]:
    """The outcome, and the task before and after."""
    before = state_of(task_of(key))
    outcome = run(name, key)
    return outcome, before, state_of(task_of(key))


def state_of(task: Task) -> dict[str, Any]:
    original = task.original
    return {
        "fingerprints": task.fingerprint,
        "modes": {n: m.training for n, m in original.named_modules()},
        "gradients": {n: (p.requires_grad, p.grad is None) for n, p in original.named_parameters()},
    }


@each
def test_runs_and_changes_weights(name: str, key: str) -> None:
    outcome, *_ = first(name, key)
    assert not outcome.model.training
    assert all(torch.isfinite(p).all() for p in outcome.model.parameters())
    if outcome.kind != "guard":
        assert state_fingerprint(outcome.model) != state_fingerprint(task_of(key).original)


@pytest.mark.parametrize(("name", "key"), [   # where a run is resumed to the same bits it is repeated, too
    pytest.param(*pair.values, id=pair.id, marks=[] if pair.values[1] == "classification" else [pytest.mark.slow])
    for pair in PAIRS])
def test_same_seed_same_bits(name: str, key: str) -> None:
    outcome, *_ = first(name, key)
    assert state_fingerprint(run(name, key).model) == state_fingerprint(outcome.model)


@each
def test_leaves_the_original_as_it_was(name: str, key: str) -> None:
    outcome, before, after = first(name, key)
    assert before == after
    own = {p.data_ptr() for p in task_of(key).original.parameters()}
    assert not own & {p.data_ptr() for p in outcome.model.parameters()}, "the outcome shares storage with the original"


@again
def test_resumes_to_the_same_bits(name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, *_ = first(name, key)
    steps, last = 0, max(2, outcome.cost.steps // 2 + 1)
    advance = Run.advance

    def counted(self: Run, step: int) -> None:
        nonlocal steps
        steps += 1
        if steps == last:
            raise Killed
        advance(self, step)

    monkeypatch.setattr(Run, "advance", counted)
    if outcome.cost.steps >= last:
        with pytest.raises(Killed):
            run(name, key, tmp_path)
        steps, last = 0, -1
    resumed = run(name, key, tmp_path)
    assert state_fingerprint(resumed.model) == state_fingerprint(outcome.model)
    if last == -1:   # the step that was killed is repeated, no other
        assert steps == outcome.cost.steps - max(2, outcome.cost.steps // 2 + 1) + 1


@each
def test_exports_and_reloads(name: str, key: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    outcome, *_ = first(name, key)
    folder = outcome.save(tmp_path / "model")
    with pytest.raises(FileExistsError):
        outcome.save(tmp_path / "model")
    if outcome.kind == "weights":   # adapters and guards keep their own names; their methods test them
        held = {name.removeprefix(f"{OWN}."): v for name, v in outcome.model.state_dict().items()}   # in a folder of its own
        saved = {k: v for path in sorted(folder.rglob("*.safetensors")) for k, v in load_file(path).items()}
        shared = [k for k in saved if k in held]
        assert shared and all(torch.equal(saved[k], held[k].cpu()) for k in shared)
        missing = {v.data_ptr() for k, v in held.items() if k not in saved} - {held[k].data_ptr() for k in shared}
        assert not missing, "weights of the model are not in the files"


IN_PLACE = [pytest.param(name, id=name) for name, entry in METHODS.items()   # those that do not start from a fresh model
            if entry.fits("classification") and "build" not in entry.uses]


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in TASKS if key not in ("lm", "diffusion")])   # they: test_watchdog
def test_every_method_runs_as_a_user_runs_it(key: str) -> None:
    """By `lethe.forget`, with its defaults and the usual watchdog."""
    task = TASKS[key]()
    for name in all_methods(task):
        assert lethe.forget(task, name, progress=False).method == name


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("where", [{"name": "names", "patterns": ("head.*",)}, {"name": "saliency", "density": 0.3}],
                         ids=["names", "saliency"])
def test_stays_where_it_may_move(name: str, where: dict[str, Any]) -> None:
    modifiers, task = Modifiers(where=where), task_of("classification")
    method = catalogue.load("methods", name)
    if task.lacks(method.needs):
        pytest.skip(f"the tiny task has no {', '.join(task.lacks(method.needs))}")
    view = task.granted(method.needs | {"forget"}, method.uses)   # the saliency mask itself reads the forget set
    loop = Loop(view, Settings(seed=5), modifiers)
    outcome = method.run(small(method.config, OPTIONS.get(name, {})), view, loop)
    chosen = modifiers.where.select(task.copy_of_original(), unlimited(view), loop)
    for key, p in outcome.model.named_parameters():
        before = task.original.get_parameter(key)
        none = torch.zeros_like(p, dtype=torch.bool)
        free = chosen.masks.get(key, ~none) if key in chosen.params else none
        assert torch.equal(p[~free], before[~free]), f"{key} moved where it must not"


def test_a_method_that_touches_undeclared_data_is_caught() -> None:
    view = task_of("classification").granted({"forget"})
    with pytest.raises(NotGranted):
        Loop(view).reference("all", view.outputs, view.forget)
    with pytest.raises(NotGranted):
        view.retain  # noqa: B018 (the property raises)

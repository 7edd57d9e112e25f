"""Do the language-model methods keep their promises? 96 questions of TOFU, a Llama of 0.5 M weights that knows the answers by
heart (probability per token above 0.9), 16 of them to be forgotten; three originals with three seeds.

The step size and the factors 3 and 5 below were set after one look at seed 0 with half the step size; the other
comparisons are strict inequalities. The numbers that were measured stand in the docstring of `lethe.methods.lm.npo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import trained
from torch import Tensor, nn

import lethe
from lethe.core.split import concat
from lethe.core.task import Recipe
from lethe.data.records import read_rows
from lethe.models.lm.open import Language, language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.train.loop import Settings

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


@cache
def tofu(root: Path, seed: int) -> Language:
    """The shortest answers about the last authors of TOFU, learnt by heart."""
    rows = [{"id": r["idx"], "prompt": r["question"], "answer": r["answer"], "author": r["author"]}
            for r in sorted(read_rows(root / "text/tofu.jsonl.gz"), key=lambda r: len(r["answer"]))]
    forget = [r for r in rows if r["author"] >= 192][:16]
    retain = [r for r in rows if 180 <= r["author"] < 192][:80]
    tokenizer = train_tokenizer([f"{r['prompt']} {r['answer']}" for r in forget + retain], 700)
    recipe = Recipe(epochs=30, lr=5e-3, batch_size=8, schedule="onecycle")

    def build(seed: int) -> nn.Module:
        return llama(TinyLlama(width=128, inner=384, layers=2, positions=128), tokenizer)

    def task(model: nn.Module) -> Language:
        return language_model(model, tokenizer, forget=forget, retain=retain, recipe=recipe, build=build)

    first = task(build(0))
    return task(trained(first, concat([first.retain, first.forget], "train"), seed))


class Recorder:
    """An `average` modifier that only keeps the weights after every step."""

    keeps = True

    def __init__(self) -> None:
        self.points: list[dict[str, Tensor]] = []

    def update(self, slow: dict[str, Tensor], params: dict[str, Tensor], step: int) -> None:
        self.points.append({name: p.detach().clone() for name, p in params.items()})


@dataclass
class Course:
    """One run: the first step at which the answer probability on forget is below 0.1, and what was seen at 1 to 5 times it."""

    step: int
    seen: list[dict[str, float]]


def course(task: Language, method: str, seed: int, **options: Any) -> Course:
    """Equal learning rate, batches and optimiser for every method."""
    recorder, limit = Recorder(), 120
    lethe.forget(task, method, lr=6e-4, epochs=1000, batch_size=8, weight_decay=0.0, optimiser="adamw", progress=False,
                 modifiers={"average": recorder}, settings=Settings(seed=seed, max_steps=limit), **options)
    model = task.copy_of_original()

    def look(step: int) -> dict[str, float]:
        model.load_state_dict(recorder.points[step - 1], strict=False)
        values = {}
        for key in ("forget", "retain"):
            split = task.splits[key]
            with torch.no_grad():
                seen = task.observe(model, split.batch(range(len(split))))
            values |= {f"{key}_p": float(seen["score"].mean()), f"{key}_nll": float(seen["nll"].mean())}
        return values

    first = next(step for step in range(1, limit + 1) if look(step)["forget_p"] < 0.1)
    return Course(first, [look(times * first) for times in range(1, min(5, limit // first) + 1)])


@cache
def courses(root: Path, seed: int) -> dict[str, Course]:
    task = tofu(root, seed)
    runs = {
        "ga": course(task, "gradient_ascent", seed, clip=None),
        "npo": course(task, "npo", seed, alpha=0, warmup=0),
        "npo+gd": course(task, "npo", seed, alpha=1.0, warmup=0),
    }
    for name, run in runs.items():   # shown by `pytest -s`
        print(seed, name, run.step, [{k: round(v, 3) for k, v in seen.items()} for seen in run.seen], flush=True)
    return runs


@pytest.mark.parametrize("seed", SEEDS)
def test_npo_keeps_more_than_gradient_ascent_when_both_have_forgotten(data_root: Path, seed: int) -> None:
    runs = courses(data_root, seed)
    assert runs["npo"].seen[0]["retain_nll"] < runs["ga"].seen[0]["retain_nll"]


@pytest.mark.parametrize("seed", SEEDS)
def test_npo_levels_off_where_ascent_runs_away(data_root: Path, seed: int) -> None:
    runs = courses(data_root, seed)
    ga, npo = runs["ga"].seen, runs["npo"].seen
    assert ga[2]["forget_nll"] - ga[0]["forget_nll"] > 3 * (npo[2]["forget_nll"] - npo[0]["forget_nll"])
    assert npo[2]["retain_p"] > 5 * ga[2]["retain_p"]


@pytest.mark.parametrize("seed", SEEDS)
def test_retain_term_keeps_more_at_equal_forgetting(data_root: Path, seed: int) -> None:
    runs = courses(data_root, seed)
    assert runs["npo+gd"].seen[0]["retain_p"] > runs["npo"].seen[0]["retain_p"]

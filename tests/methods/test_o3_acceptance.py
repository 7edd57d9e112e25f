"""O3's claims on five subjects, three of which are forgotten one after the other, as a user calls it with the watchdog on.

What reproduces: what was forgotten stays so, what is retained does not notice, and more of it stays than with ascent on adapters.
What does not: that λ keeps later requests from undoing earlier ones, and that other words for a known question are recognised.
Nor do TOFU's authors, seen once (a Llama of four blocks, width 128, detector not trained): with ten questions of one author as
request, AUROC of their paraphrases before 80 questions about others is 0.73, 0.85, 0.92, and the gate opens for nine in ten of
those others, since held-out questions of the same author are as far from each other as from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tiny
import topics
import torch
from torch import Tensor, nn

import lethe
from lethe.core.adaptable import fold
from lethe.core.language_guard import prompts_of
from lethe.core.split import Split
from lethe.methods.guard.o3 import Weighted, distances, states

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)
USUAL: dict[str, Any] = {"lr": 3e-3, "epochs": 30, "progress": False}


def score(model: nn.Module, split: Split) -> float:
    """Answer probability per token."""
    with torch.no_grad():
        return float(topics.stream()[0].score(model, split.batch(range(len(split)))).mean())


def looked_at(model: nn.Module, seed: int) -> list[float]:
    """On each request, then on what is retained."""
    tasks = topics.stream(seed)
    return [score(model, split) for split in [*(task.forget for task in tasks), tasks[0].retain]]


@cache
def course(seed: int, **options: Any) -> list[tuple[Weighted, list[float]]]:
    """The guard after each request, and what is looked at."""
    found: list[tuple[Weighted, list[float]]] = []
    with TemporaryDirectory() as folder:
        before = ""
        for number, task in enumerate(topics.stream(seed)):
            outcome = lethe.forget(task, "o3", before=before, **USUAL, **options)
            before = str(outcome.save(Path(folder) / str(number)))
            assert isinstance(outcome.answering, Weighted), outcome.notes
            found.append((outcome.answering, looked_at(outcome.answering, seed)))
    print(seed, options, [[round(value, 3) for value in seen] for _, seen in found], flush=True)   # shown by `pytest -s`
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_forgotten_stays_forgotten_and_the_rest_does_not_notice(seed: int) -> None:
    original = looked_at(topics.stream(seed)[0].original, seed)
    first, second, third = (seen for _, seen in course(seed))
    assert third[0] < first[0] + 0.05 and third[1] < second[1] + 0.05
    assert max(first[0], second[1], third[2]) < 0.5 * min(original[:3])
    assert third[3] >= 0.95 * original[3]


@pytest.mark.parametrize("method", ["gradient_ascent", "npo"])
def test_more_is_kept_than_by_ascent_on_adapters(method: str) -> None:
    """Without retained data, request after request, each until little is left of it; the watchdog would take this back."""
    options: dict[str, Any] = {**USUAL, "optimiser": "adamw", **({"alpha": 0.0} if method == "npo" else {})}
    model: Any = topics.stream()[0].original
    for task in topics.stream():
        for epochs in (2, 4, 8, 15, 30):
            options["epochs"] = epochs
            tried = lethe.forget(task.replaced(model), method, modifiers={"where": "lora"}, watchdog=False, **options).model
            if score(tried, task.forget) < 0.2:
                break
        model = fold(tried)
        del model.peft_config
    *gone, kept = looked_at(model, 0)
    assert max(gone) < 0.3 and kept < course(0)[-1][1][3] - 0.3, (gone, kept)


def alike(seed: int, number: int, rows: Sequence[dict[str, Any]]) -> float:
    """AUROC of the detector of a request: these questions are nearer than retained ones."""
    guard, task = course(seed)[-1][0], topics.stream(seed)[0]
    head = guard.heads()[number]

    def far(split: Split) -> Tensor:
        with guard.detecting():
            z = states(guard.model, prompts_of(split), guard.blocks)
        return distances(z, head.bank, head.inner, head.floor) @ head.across

    near, others = far(task.encode([row["prompt"] for row in rows], ["x"] * len(rows))), far(task.retain)
    return float((near.unsqueeze(1) < others).float().mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_further_questions_of_a_subject_are_recognised(seed: int) -> None:
    unseen = topics.records()[2]
    assert min(alike(seed, i, unseen[subject]) for i, subject in enumerate(topics.FORGOTTEN)) > 0.9


@pytest.mark.xfail(strict=True, reason="AUROC 0.99, 0.53, 1.00: asked otherwise, metals are as far as other subjects")
def test_the_same_questions_in_other_words_are_recognised() -> None:
    other = topics.records()[1]
    assert min(alike(0, i, other[subject]) for i, subject in enumerate(topics.FORGOTTEN)) > 0.9


def crossed(guard: Weighted) -> float:
    """‖A_s A_tᵀ‖² of the last request with those before."""
    factors = [getattr(guard, f"a{i}") for i in range(len(guard.layers))]
    return sum(float((a[: -guard.rank] @ a[-guard.rank :].T).square().sum()) for a in factors)


def test_adapters_of_later_requests_turn_away() -> None:
    held, free = (course(0, loading="last", orthogonal=weight)[-1][0] for weight in (0.1, 0.0))
    assert crossed(held) < crossed(free)


@pytest.mark.xfail(strict=True, reason="the first request rises to 0.106 with λ = 0.1, and falls to 0.004 with λ = 0")
def test_without_orthogonality_later_requests_undo_earlier_ones() -> None:
    """The official way, one adapter that goes on; here all requests teach one refusal, so they help each other."""
    held, free = (course(0, loading="last", orthogonal=weight)[-1][1] for weight in (0.1, 0.0))
    assert free[0] > held[0] and free[1] > held[1]


def test_where_all_questions_are_worded_alike_the_watchdog_takes_it_back() -> None:
    """Other people, the same question: the gate opens for all of them."""
    outcome = lethe.forget(tiny.lm(), "o3", lr=1e-2, epochs=20, progress=False)
    assert outcome.fall is not None and outcome.kind == "weights"

"""Needle: a run by hand with noise and zeros, columns that are given, and what it does to a concept and to the rest."""

from __future__ import annotations

import byhand
import numpy as np
import plain_lm as plain
import pytest
import tiny
import torch

import lethe
from lethe.core.families.language import LanguageTask
from lethe.core.seeds import generator
from lethe.core.split import concat
from lethe.errors import RequestError


@pytest.mark.parametrize("how", ["noise", "zero"])
def test_a_run_by_hand(how: str) -> None:
    """m · ∂ log p/∂m is the derivative of log p by a factor on the column at 1: worked with factors on every column."""
    task = LanguageTask.of(tiny.lm())
    found = byhand.run("needle", task, columns=3, how=how, scale=1.5)
    model = byhand.trainable(task.original).eval()
    factors = torch.ones(3, 64, requires_grad=True)
    for block, row in zip(model.model.layers, factors, strict=True):
        block.mlp.down_proj.register_forward_pre_hook(lambda _, args, row=row: (args[0] * row,))
    means = [torch.autograd.grad(plain.sums(model, split).mean(), factors)[0] for split in (task.forget, task.retain)]
    best = (means[0] - means[1]).flatten().argsort(descending=True)[:3].tolist()
    rng, wanted = generator(0, "needle"), task.copy_of_original()
    with torch.no_grad():
        for place in best:
            column = wanted.model.layers[place // 64].mlp.down_proj.weight[:, place % 64]
            noise = torch.randn(32, generator=rng) if how == "noise" else None
            column.copy_(column + 1.5 * column.std(correction=0) * noise if noise is not None else 0 * column)
    byhand.assert_same(task, found, wanted)


def test_given_columns_need_no_data_and_must_exist() -> None:
    task = LanguageTask.of(tiny.lm())
    found = byhand.run("needle", task, at=("1:5", "2:0"), how="zero")
    changed = {name: p != task.original.get_parameter(name) for name, p in found.named_parameters()}
    moved = {name: where.nonzero()[:, 1].unique().tolist() for name, where in changed.items() if where.any()}
    assert moved == {"model.layers.1.mlp.down_proj.weight": [5], "model.layers.2.mlp.down_proj.weight": [0]}
    for wrong in ("3:0", "0:64", "one"):
        with pytest.raises(RequestError, match="Write block:column"):
            byhand.run("needle", task, at=(wrong,))


def test_a_concept_falls_more_than_the_rest_and_more_than_at_random() -> None:
    """Answers that name chess. The paper's halving at under 5 % of damage does not reproduce in a model of 192 columns."""
    known = LanguageTask.of(tiny.lm())
    everybody = concat([known.forget, known.retain], "train")
    named = np.array(["chess" in answer for answer in everybody.column("answer")])
    task = known.replaced(known.original, forget=everybody.subset(named, "forget"), retain=everybody.subset(~named, "retain"))

    def lost(**options: object) -> list[float]:
        model = lethe.forget(task, "needle", progress=False, watchdog=False, how="zero", **options).model
        return [float((task.score(task.original, b).mean() - task.score(model, b).mean()).detach())
                for b in (split.batch(range(len(split))) for split in (task.forget, task.retain))]

    forget, retain = lost(columns=16)
    places = torch.randperm(192, generator=torch.Generator().manual_seed(0))[:16].tolist()
    at_random = lost(at=tuple(f"{place // 64}:{place % 64}" for place in places))
    assert forget > max(0.1, 2 * retain, 3 * max(at_random))
    assert retain > 0.02   # the negative: others lose, too

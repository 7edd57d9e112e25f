"""Recipes that trained adapters and merged them (`recipe.lora`): what is retrained is trained alike, and comes out in the
original's form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from lethe.api import forget
from lethe.core import training
from lethe.core.modules import named_tensors
from lethe.core.seeds import derive
from lethe.core.task import Recipe
from lethe.errors import RequestError
from lethe.models.lm.open import Language
from lethe.pools.member import fingerprint, train_one
from lethe.pools.pool import train_pool
from lethe.work.open import tasks_of
from lethe.work.options import Options
from lethe.work.request import parse

RANK = 2


def adapted(**options: Any) -> Any:
    """The tiny language model, as if its recipe had trained adapters."""
    task: Any = tiny.lm().replaced()
    task._recipe = replace(task.recipe, **{"epochs": 1.0, "lora": RANK, **options})
    return task


def test_only_low_rank_changes_of_the_adapted_layers_come_out_in_the_original_s_form() -> None:
    task = adapted()
    before, after = (dict(named_tensors(m)) for m in (task.build(derive(3, "retrain")), train_one(task, task.retain, 3)[1]))
    assert after.keys() == before.keys() == dict(named_tensors(task.original)).keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in task.adaptable(task.original).layers}
    for name in changed:
        sizes = torch.linalg.svdvals((after[name] - before[name]).double())
        assert sizes[0] > 1e-4 and sizes[RANK] < 1e-5 * sizes[0], name


def test_references_retrain_and_pools_are_trained_so_and_known_apart() -> None:
    task, seed = adapted(), derive(1, "pool", 0)
    pool = train_pool(task, count=1, seed=1)
    alone = forget(task, "retrain", seed=seed, progress=False).model
    of_pool, of_method = dict(named_tensors(pool.models[0])), dict(named_tensors(alone))
    assert pool.strategy != "vmap" and all(torch.equal(value, of_method[name]) for name, value in of_pool.items())
    plain = adapted(lora=0)
    keys = {fingerprint(one, one.retain, seed, "cpu") for one in (task, plain)}
    assert len(keys) == 2 and "lora" not in training.identity(plain.recipe) and training.identity(task.recipe)["lora"] == RANK


def test_an_original_that_the_request_trains_is_trained_so(tmp_path: Path) -> None:
    request = parse({"family": "classification", "model": {"zoo": "mlp"}, "data": {"kind": "digits", "limit": 100, "test": 0.2},
                      "recipe": {"epochs": 1.0, "lora": RANK}, "forget": {"label": 3}, "seed": 0})
    task, kept = (tasks_of(request, Options(cache=tmp_path))[""] for _ in range(2))   # the second comes from the cache
    after, before = (dict(named_tensors(m)) for m in (task.original, task.build(0)))
    assert all(torch.equal(value, after[name]) for name, value in named_tensors(kept.original).items())
    moved = [(after[name] - before[name]).double() for name in after if not torch.equal(after[name], before[name])]
    assert moved and all(len(torch.linalg.svdvals(m)) > RANK and torch.linalg.svdvals(m)[RANK] < 1e-6 for m in moved)


@pytest.mark.parametrize("name", ["renew", "scratch"])
def test_short_trainings_are_by_adapters_too_and_come_out_whole(name: str) -> None:
    task = adapted()
    tensors = dict(named_tensors(forget(task, name, progress=False, watchdog=False).model))
    head = "model.embed_tokens.weight"
    assert tensors.keys() == dict(named_tensors(task.original)).keys()
    if name == "scratch":   # nothing of the original is kept, and the embeddings of a fresh model do not move
        assert torch.equal(tensors[head], dict(named_tensors(task.build(derive(0, "renew"))))[head])


def test_layers_that_a_method_trains_anew_are_trained_whole() -> None:
    """Blocks that `eu_k` reinitialises have no weights on which an adapter could go."""
    trained = []
    for epochs in (0.5, 1.0):
        task = adapted(epochs=epochs)
        model = forget(task, "eu_k", k=1, progress=False, watchdog=False).model
        trained.append(dict(named_tensors(model))[f"model.layers.{task.layer_count - 1}.mlp.down_proj.weight"].double())
    assert torch.linalg.svdvals(trained[1] - trained[0])[2 * RANK] > 1e-3   # each an adapter: 2·rank at most


def test_an_adapter_is_not_trained_beside_another() -> None:
    task = tiny.lm()
    with pytest.raises(RequestError, match=r"recipe.lora = 4, and the model is an adapter \(tenant\)"):
        Language(task.original, task.splits, task.tokenizer, Recipe(lora=4), adapter="tenant")

"""RMU on two domains: a Llama of 4 blocks knows 64 answers of TOFU and 64 passages of Shakespeare by heart; TOFU is to go.

Margins from before the runs: forget accuracy below 5 % (chance is 0.1 %), retain perplexity up by at most 5 %, cosine
between h_ℓ and u above 0.8, weights outside three matrices bit-identical.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import lethe
from lethe.core.data import concat
from lethe.core.seeds import generator
from lethe.core.task import Recipe
from lethe.data.text import read_rows
from lethe.engine.loop import Loop, Settings, recipe_options, recipe_terms
from lethe.methods.lm.rmu import control_vector
from lethe.models.lm import LmTask, language_model
from lethe.models.tiny_lm import TinyLlama, llama, train_tokenizer

pytestmark = pytest.mark.slow
LAYER, LENGTH = 1, 60.0   # c = 60 is three times the usual norm of h_ℓ here (20.0)


@cache
def two_domains(root: Path, seed: int) -> LmTask:
    answers = [r for r in sorted(read_rows(root / "text/tofu.jsonl.gz"), key=lambda r: len(r["answer"])) if r["author"] >= 190]
    forget = [{"text": r["answer"]} for r in answers[:64]]
    play = [r["text"].replace("\n", " ")[:160] for r in read_rows(root / "text/tinyshakespeare.txt.gz")[100:400]]
    retain = [{"text": text} for text in play if len(text) > 100][:64]
    tokenizer = train_tokenizer([r["text"] for r in forget + retain], 700)
    recipe = Recipe(epochs=30, lr=5e-3, batch_size=8, schedule="onecycle")

    def build(seed: int) -> nn.Module:
        return llama(TinyLlama(width=96, inner=288, layers=4, positions=160), tokenizer)

    def task(model: nn.Module) -> LmTask:
        return language_model(model, tokenizer, forget=forget, retain=retain, recipe=recipe, build=build)

    first = task(build(0))
    loop = Loop(first, Settings(seed=seed))
    model = loop.start(first.build(seed))
    loop.minimise(model, recipe_terms(first, concat([first.retain, first.forget], "train")), **recipe_options(recipe))
    return task(loop.finish(model).model)


def look(task: LmTask, model: nn.Module, name: str) -> tuple[float, float]:
    """(accuracy of the next token, mean loss)."""
    split = task.splits[name]
    with torch.no_grad():
        seen = task.observe(model, split.batch(range(len(split))))
    return float(seen["correct"].sum() / seen["answer_mask"].sum()), float(seen["nll"].mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_domain_goes_and_the_other_stays(data_root: Path, seed: int) -> None:
    task = two_domains(data_root, seed)
    model = lethe.forget(task, "rmu", layer=LAYER, coefficient=LENGTH, alpha=30.0, lr=5e-3, steps=300, batch_size=8, seed=seed,
                         progress=False).model
    batch = task.forget.batch(range(64))
    mask = torch.arange(batch.ids.shape[1]) < batch.length.unsqueeze(1)
    u = control_vector(96, LENGTH, generator(seed, "rmu"))
    with torch.no_grad():
        turned = float(torch.cosine_similarity(task.hidden_states(model, batch, LAYER)[mask], u, dim=-1).mean())
    before, after = ([look(task, m, name) for name in ("forget", "retain")] for m in (task.original, model))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, task.original.get_parameter(name))}
    print(seed, "before", before, "after", after, "cosine", turned, flush=True)   # shown by `pytest -s`
    assert before[0][0] > 0.9 and after[0][0] < 0.05
    assert after[1][1] - before[1][1] < 0.0488   # ln 1.05
    assert turned > 0.8
    assert moved == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}   # ℓ − 2 does not exist for ℓ = 1

"""NULLs: who moves and hears which sink, by its arithmetic; a source is switched off on the command line; near retraining."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from running import commanded
from torch import nn
from transformers import AutoModelForCausalLM

import lethe
from lethe.core.families.language import LanguageTask
from lethe.core.split import Split, concat
from lethe.errors import DataError, RequestError
from lethe.exact.reserved import Whole, entries, zeroed
from lethe.methods.lm.nulls import NULLs, routed, served, sinks_of, train
from lethe.models.lm.open import Language, language_model
from lethe.models.lm.small import TinyLlama, llama
from lethe.train.loop import Loop, Settings, Term

SMALL = {"by": "team", "share": 0.75, "lr": 5e-3, "epochs": 1.0, "batch_size": 8, "weight_decay": 0.0}
LEARNS = {**SMALL, "epochs": 120.0, "schedule": "onecycle"}
INNER = 128


def test_golden_numbers() -> None:
    """W = (2, 3, 4), inputs shared, A, B; a = (1, 5, 7), a record of A. B silent: 2 + 15 = 17; B beside it: 17 + 28 = 45. Both
    times ∂/∂W = (1, 5, 0) and ∂/∂a = (2, 3, 0)."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[2.0, 3.0, 4.0]])
    sinks, a = {"0": torch.tensor([[False, True, False], [False, False, True]])}, torch.tensor([[[1.0, 5.0, 7.0]]])
    for beside, wanted in ((False, 17), (True, 45)):
        x = a.clone().requires_grad_(True)
        with routed(model, sinks, torch.tensor([[True, False]]), torch.tensor([[False, beside]])):
            said = model(x)
        by_weight, by_input = torch.autograd.grad(said.sum(), [model[0].weight, x])
        assert said.item() == wanted and by_weight.tolist() == [[1, 5, 0]] and by_input.flatten().tolist() == [2, 3, 0]


@cache
def task() -> Language:
    """32 people in four teams; team 0 is to be forgotten."""
    known = LanguageTask.of(tiny.lm())
    rows = {name: [{"id": str(one), "prompt": prompt, "answer": answer, "team": "0" if name == "forget" else str(1 + i // 8)}
                   for i, (one, prompt, answer) in enumerate(zip(*(known.splits[name].column(key) for key in (
                       "id", "prompt", "answer")), strict=True))] for name in ("forget", "retain")}

    def build(seed: int) -> nn.Module:
        return llama(TinyLlama(width=32, inner=INNER, layers=3, heads=2, positions=192), known.tokenizer)

    return language_model(build(0), known.tokenizer, forget=rows["forget"], retain=rows["retain"], build=build)


def records() -> Split:
    return concat([task().forget, task().retain], "train")


def made(seed: int = 0, **options: Any) -> Whole:
    return train(NULLs(**{**SMALL, **options}), task(), Loop(task(), Settings(seed=seed)), records(), task().build(seed))


def dropped(model: nn.Module, *sources: int) -> nn.Module:
    """A copy with some sinks switched off."""
    model = copy.deepcopy(model)
    units = {name: each[list(sources)].any(0) for name, each in sinks_of(NULLs(**SMALL), task(), model, 4).items()}
    return zeroed(model, entries(task(), model, units, task().forget.batch(range(4))))


def test_a_sink_is_moved_by_its_own_records_alone() -> None:
    """One step on all with q = 0, by hand: the gradient of a sink is that of its records where the other sinks are off."""
    base = task().build(0).eval()
    state = made(epochs=1.0, batch_size=64, others=0.0, schedule="constant")
    for source in range(4):
        alone = dropped(base, *(one for one in range(4) if one != source))
        mine = records().subset(range(8 * source, 8 * source + 8), "mine")
        g = byhand.gradient(alone, lambda m, mine=mine: plain.nll(m, mine))
        units = {name: each[source] for name, each in sinks_of(NULLs(**SMALL), task(), base, 4).items()}
        own = entries(task(), base, units, task().forget.batch(range(4)))
        for name, chosen in own.items():
            moved, slope = (state.model.get_parameter(name) - base.get_parameter(name))[chosen], g[name][chosen]
            clear = slope.abs() > 1e-4   # of a quarter of the mean
            assert clear.any() and torch.allclose(moved[clear], -5e-3 * slope.sign()[clear], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("q", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_records_of_others_do_not_move_a_sink(q: float) -> None:
    """The first step of two trainings that differ in the answers of teams 1–3: the sink of team 0 is the same."""
    split = records()
    labels = split.columns["labels"].clone()
    labels[8:] = torch.where(labels[8:] >= 0, (labels[8:] + 1) % 250, labels[8:])
    other = Split({**split.columns, "labels": labels}, split.name, split.ids, split.meta, split.padding)
    cfg, models = NULLs(**{**SMALL, "batch_size": 64, "others": q}), []
    for each in (split, other):
        models.append(train(cfg, task(), Loop(task(), Settings(seed=0)), each, task().build(0)).model)
    units = {name: each[0] for name, each in sinks_of(cfg, task(), models[0], 4).items()}
    for name, chosen in entries(task(), models[0], units, task().forget.batch(range(4))).items():
        one, two = (model.get_parameter(name) for model in models)
        assert torch.equal(one[chosen], two[chosen]) and not torch.equal(one, two)


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(RequestError, match="less than one for each of 32 sources"):
        made(by="id", share=0.1)
    with pytest.raises(RequestError, match="there is one source"):
        train(NULLs(**SMALL), task(), Loop(task(), Settings()), task().forget, task().original)
    sinks, rows = sinks_of(NULLs(**SMALL), task(), task().original, 4), torch.ones(2, 4).bool()
    with pytest.raises(RequestError, match="share a row"), routed(task().original, sinks, rows, ~rows):
        task().original(input_ids=torch.ones(1, 8, dtype=torch.long))


@pytest.mark.slow
def test_trained_and_deleted_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team goes as a whole; a part of it is refused. Only its sink differs afterwards, in a folder of transformers alone."""
    monkeypatch.chdir(tmp_path)
    rows = [{key: split.column(key)[i] for key in ("id", "prompt", "answer", "team")} for split in (records(),)
            for i in range(len(split))]
    Path("people.jsonl").write_text("".join(f"{json.dumps({k: str(v) for k, v in row.items()})}\n" for row in rows))
    request = {"family": "lm", "model": {"tiny": {"vocabulary": 290, "width": 32, "inner": INNER, "layers": 3, "heads": 2,
                                                  "positions": 192}},
               "data": {"train": "people.jsonl"}, "output": "out", "method": {"name": "nulls", **LEARNS, "epochs": 40.0},
               "audit": {"audits": ["scores"], "depth": "quick", "references": 0, "shadows": 0}}
    Path("job.yaml").write_text(json.dumps(request))

    assert commanded("train", "job.yaml", "--exact", "nulls", "--output", "model")["steps"] == 160
    with pytest.raises(DataError, match="switched off as a whole"):
        commanded("run", "model/request.yaml", f"forget={{ids: [{rows[0]['id']}]}}")
    found = commanded("run", "model/request.yaml", "forget={column: {team: '0'}}")
    row = found["scenarios"][0]["subjects"][-1]
    assert row["guarantee"]["level"] == "none" and row["guarantee"]["sources"] == 1
    folder = Path("out") / found["id"] / "models" / "nulls"
    old, new = (AutoModelForCausalLM.from_pretrained(place) for place in ("model", folder))
    gone = dropped(old, 0)
    assert all(torch.equal(p, gone.get_parameter(name)) for name, p in new.named_parameters())
    again = language_model(folder, forget=[row for row in rows if row["team"] == "1"])
    with pytest.raises(DataError, match="were deleted from this model before"):
        lethe_forget(language_model(folder, forget=rows[:8]), folder)
    assert lethe_forget(again, folder).guarantee["deleted"] == 8


def lethe_forget(this: Language, folder: Path) -> Any:
    return lethe.forget(this, "nulls", trained=str(folder), progress=False)


def probability(model: nn.Module, split: Split, alone: bool = False) -> float:
    """Mean answer probability; alone: with nothing but the record's own sink beside what is shared."""
    own = nn.functional.one_hot(torch.tensor([int(team) for team in split.column("team")]), 4).bool()
    with torch.no_grad(), routed(model, sinks_of(NULLs(**SMALL), task(), model, 4), own | (not alone), own & False):
        return float(task().score(model.eval(), split.batch(range(len(split)))).mean())


def plainly(split: Split, seed: int) -> nn.Module:
    """Ordinary training of as many passes."""
    loop = Loop(task(), Settings(seed=seed))
    model = loop.start(fresh=task().build(seed))
    return loop.minimise(model, {"train": Term(split, task().nll)}, epochs=120, lr=5e-3, batch_size=8, schedule="onecycle").eval()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_source_is_forgotten_as_by_retraining_at_a_cost_to_the_others(seed: int) -> None:
    found = {}
    retrained, ordinary, model = plainly(task().retain, seed), plainly(records(), seed), made(seed, **LEARNS).model
    silent = made(seed, **{**LEARNS, "others": 0.0}).model
    for name, each in {"retrained": retrained, "ordinary": ordinary, "its neurons off": dropped(ordinary, 0), "nulls": model,
                       "deleted": dropped(model, 0), "q = 0": silent, "q = 0, deleted": dropped(silent, 0)}.items():
        found[name] = tuple(round(probability(each, task().splits[key]), 3) for key in ("forget", "retain"))
    found["own alone"] = tuple(round(probability(model, task().splits[key], alone=True), 3) for key in ("forget", "retain"))
    print(seed, found)   # shown by `pytest -s`
    assert found["deleted"][0] < found["retrained"][0] + 0.15 and found["its neurons off"][0] > found["deleted"][0] + 0.3
    assert found["deleted"][1] > found["q = 0, deleted"][1] and found["deleted"][1] > 0.55 and min(found["own alone"]) > 0.9
    assert served(Whole(made(seed).manifest, model), model) is model

"""Shard-LoRA: the sum by its arithmetic, exact deletion bit for bit, and a tenant's records deleted on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from peft import PeftModel
from running import commanded
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lethe
from lethe.core.families.language import LanguageTask
from lethe.core.split import Split, concat
from lethe.errors import RequestError
from lethe.exact.sliced import Sliced
from lethe.methods.exact.shard_lora import ShardLora, served, summed, train, written
from lethe.models.lm.open import Language, language_model
from lethe.train.loop import Loop, Settings

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")   # PEFT asks transformers so
SMALL = {"shards": 3, "rank": 4, "alpha": 8.0, "lr": 1e-2, "epochs": 2, "batch_size": 8}
LEARNS = {**SMALL, "shards": 2, "epochs": 30, "by": "tenant"}


def test_golden_numbers() -> None:
    one = torch.ones(1, 1)
    a, b = summed([(2 * one, 3 * one), None, (5 * one, 7 * one)], 1, 0.5, (torch.ones(3, 1), torch.ones(1, 3)))
    assert a.flatten().tolist() == [2, 0, 5] and b.flatten().tolist() == [1.5, 0, 3.5] and (b @ a).item() == 0.5 * (6 + 35)


def people() -> list[dict[str, object]]:
    """Sixteen people of whom the tiny Llama was never told, of eight tenants."""
    unseen = tiny.lm().splits["holdout"]
    return [{"id": str(one), "prompt": prompt, "answer": answer, "tenant": f"t{i % 8}"} for i, (one, prompt, answer) in
            enumerate(zip(unseen.ids, unseen.column("prompt"), unseen.column("answer"), strict=True))]


@cache
def task() -> Language:
    known = LanguageTask.of(tiny.lm())
    return language_model(known.original, known.tokenizer, forget=people()[:1], retain=people()[1:])


def records() -> Split:
    return concat([task().forget, task().retain], "train")


def trained(split: Split, **options: object) -> tuple[Sliced, torch.nn.Module]:
    cfg = ShardLora(**{**SMALL, **options})
    state = train(cfg, task(), Loop(task(), Settings(seed=0)), split, task().original, apart=False)
    return state, served(state, task().original)


@pytest.mark.parametrize("options", [{}, {"slices": 2, "budget": 2, "shards": 2}])
def test_what_survives_is_that_of_a_training_without_the_records(options: dict[str, int]) -> None:
    """Records are replaced by others' answers: every stage that has not read them is bit for bit the same, the others are not."""
    split, gone = records(), [2, 5]
    labels = split.columns["labels"].clone()
    labels[gone] = torch.where(labels[gone] >= 0, (labels[gone] + 1) % 250, labels[gone])
    changed = replace(split, columns={**split.columns, "labels": labels})
    (mine, _), (other, _) = trained(split, **options), trained(changed, **options)
    kept = mine.sound(mine.manifest.without(split.ids[gone].tolist())).stages
    assert 0 < len(kept) < len(mine.stages)
    for at, stage in mine.stages.items():
        assert all(torch.equal(value, other.stages[at][name]) for name, value in stage.items()) == (at in kept)


def test_one_step_and_the_sum_by_hand() -> None:
    """AdamW's first step is lr·sign(g); with B = 0 the gradient of B is α/r · ∂L/∂W Aᵀ, and A does not move. Two shards' mean."""
    state, model = trained(records(), shards=2, epochs=1, batch_size=16)
    base = task().copy_of_original().eval()
    for shard in range(2):
        mine = [i for i, one in enumerate(records().ids) if state.manifest.records[state.manifest.key(one)][0] == shard]
        gradients = byhand.gradient(base, lambda m, mine=mine: plain.nll(m, records().subset(mine, "mine")))
        for layer in state.manifest.details["layers"]:
            a, b = (state.stages[shard, 0, 1][f"{layer}.lora_{x}.default.weight"] for x in "AB")
            g = 2.0 * gradients[f"{layer}.weight"] @ a.T
            clear = g.abs() > 1e-5
            assert clear.any() and torch.allclose(b[clear], -1e-2 * g.sign()[clear], rtol=2e-3)
    for layer in state.manifest.details["layers"]:
        change = sum(stage[f"{layer}.lora_B.default.weight"] @ stage[f"{layer}.lora_A.default.weight"] for stage in
                     (state.stages[shard, 0, 1] for shard in range(2)))
        base.get_submodule(layer).weight.data += 2.0 * change / 2
    batch = records().batch(range(16))
    assert torch.allclose(task().nll(model, batch), task().nll(base, batch), atol=1e-5)
    assert (task().nll(base, batch) - task().nll(task().original, batch)).abs().max() > 1e-3


def test_a_deletion_from_the_folder_by_the_public_call(tmp_path: Path) -> None:
    """The shard is trained again, or, where that is not wanted, goes out of service; the base as its owner's word for it says."""
    task().save_model(task().copy_of_original(), tmp_path / "base")
    known = language_model(tmp_path / "base", forget=people()[:1], retain=people()[1:])
    cfg = ShardLora(**{**SMALL, "shards": 2, "epochs": 1})
    state = train(cfg, known, Loop(known, Settings(seed=0)), records(), known.original, True)
    (tmp_path / "model").mkdir()
    state.save(tmp_path / "model", served(state, known.original), written)
    for public in (True, False):
        before = language_model(tmp_path / "base", adapter=tmp_path / "model", forget=people()[:1], retain=people()[1:])
        outcome = lethe.forget(before, "shard_lora", trained=str(tmp_path / "model"), public_base=public, retrain_dead=public,
                               progress=False)
        told = outcome.guarantee
        shown = {name: outcome.config[name] for name in SMALL}
        assert shown == {**SMALL, "shards": 2, "epochs": 1}   # as it was trained, although the request names none of them
        assert (told["level"], told["shards_retrained"], told["shards_out_of_service"]) == (
            ("exact", 1, 0) if public else ("none", 0, 1))
        first = before.forget.batch([0])
        old, new = before.nll(before.original, first), before.nll(outcome.model, first)
        again = language_model(tmp_path / "base", adapter=outcome.save(tmp_path / f"{public}"), forget=people()[:1])
        assert torch.equal(again.nll(again.original, first), new) and not torch.equal(new, old)


@pytest.mark.slow
def test_a_tenant_is_deleted_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records in two files; a tenant's go. Its shard's adapter is trained again, the other stays, and PEFT loads the sum."""
    monkeypatch.chdir(tmp_path)
    task().save_model(task().copy_of_original(), tmp_path / "base")
    rows = people()
    Path("chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:10]))
    Path("tickets.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[10:]))
    request = {"family": "lm", "model": {"folder": "base"}, "data": {"train": ["chats.jsonl", "tickets.jsonl"]}, "output": "out",
               "method": {"name": "shard_lora", **LEARNS, "public_base": True},
               "audit": {"audits": ["scores"], "depth": "quick", "references": 0, "shadows": 0}}
    Path("job.yaml").write_text(json.dumps(request))

    commanded("train", "job.yaml", "--exact", "shard_lora", "--output", "model")
    assert not list(Path("model").rglob("model*.safetensors")) and not Path("model/base.safetensors").exists()
    found = commanded("run", "model/request.yaml", "forget={column: {tenant: t0}}")
    row = found["scenarios"][0]["subjects"][-1]
    page = (Path("out") / found["id"] / "summary.html").read_text(encoding="utf-8")
    assert found["scenarios"][0]["objective"] == "records" and "Forgotten? yes" in page and "uppressed" not in page
    assert row["guarantee"]["level"] == "exact" and row["guarantee"]["shards_retrained"] == 1
    assert row["guarantee"]["deleted"] == 2 and row["guarantee"]["shards_kept"] == 1
    place = Path("out") / found["id"] / "models" / "shard_lora"
    same = []
    for name in (f"stages/shard-{k}-sequence-0.safetensors" for k in range(2)):
        old, new = (load_file(folder / name) for folder in (Path("model"), place))
        same.append(all(torch.equal(value, new[key]) for key, value in old.items()))
    assert sorted(same) == [False, True]

    def said(adapter: Path) -> torch.Tensor:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), adapter).eval()
        with torch.no_grad():
            return task().score(model.base_model.model, records().batch(range(16)))

    mine = torch.tensor([row["tenant"] == "t0" for row in rows])
    old, new, base = said(Path("model")), said(place), task().score(task().original, records().batch(range(16))).detach()
    assert old[mine].mean() > 0.8 > 0.5 > new[mine].mean() and base[mine].mean() < 0.4
    assert new[~mine].mean() > base[~mine].mean() + 0.15
    without = trained(records().subset((~mine).numpy(), "train"), **LEARNS)[1]
    kept = load_file(place / "adapter_model.safetensors")
    assert all(torch.equal(value, kept[f"base_model.model.{name.replace('.default', '')}"])
               for name, value in without.named_parameters() if "lora_" in name)   # as if it had never been
    commanded("certify", f"out/{found['id']}", "--key", "key.pem", "--output", "signed")
    claims = {claim["level"]: claim["claimed"] for claim in json.loads(Path("signed/certificate.json").read_text())["claims"]}
    assert claims["C2"]


def test_what_cannot_be_trained_apart_is_refused() -> None:
    with pytest.raises(RequestError, match="comes from no folder"):
        train(ShardLora(**SMALL), task(), Loop(task(), Settings(seed=0)), records(), task().original)
    with pytest.raises(RequestError, match="one group of them for each slice"):
        trained(records(), shards=1, slices=40)

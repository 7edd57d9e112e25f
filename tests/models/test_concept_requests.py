"""A request that names concepts: `forget: {concept: …}`, several of them, replacements, and what a tokenizer does not read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASKS

from lethe.core import catalogue
from lethe.core.seeds import generator
from lethe.errors import NeedsUnmet, RequestError
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.small import pipeline
from lethe.models.diffusion.task import Diffusion
from lethe.train.apply import fitting, require
from lethe.train.erasing import placed, rests
from lethe.work.job import resolve
from lethe.work.open import prepare, read, tasks_of
from lethe.work.options import Options
from lethe.work.request import parse


def request(folder: Path, **content: Any) -> dict[str, Any]:
    return {"model": str(folder), "method": "uce", "audit": {"references": 0}, "output": str(folder / "runs"),
            "data": {"per_prompt": 2, "steps": 2, "guidance": 1.0}, **content}


def test_a_folder_and_a_concept_are_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_folders import stable

    stable(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.red.disk").mkdir()   # a folder of the concept's name is no reason to call it a path
    said = parse(request(tmp_path, keep=["a cross"], scenarios={
        "one": {"forget": {"concept": "a.red.disk"}},
        "two": {"forget": {"concept": ["disk", {"concept": "square", "synonyms": ["<square>"], "prompts": ["a red <square>"]}]}},
    }), ["keep=[a red cross]"])
    assert said.family == "diffusion" and said.data["keep"] == ["a red cross"]
    assert parse(request(tmp_path, where="lora")).modifiers == {"where": "lora"}
    with pytest.raises(RequestError, match=r"where and modifiers\.where both say it"):
        parse(request(tmp_path, where="lora", modifiers={"where": "all"}))
    (tmp_path / "one.safetensors").write_bytes(b"all of it")
    for model, words in (("one.safetensors", r"file: …, folder: …"), ("nowhere", "does not exist"), ("runs", "does not exist"),
                         ("a.red.disk", r"without model_index\.json or config\.json of a …ForCausalLM, does not tell it")):
        with pytest.raises(RequestError, match=words):
            parse({**request(tmp_path), "model": model})
    tasks: dict[str, Any] = dict(tasks_of(said, Options()))
    assert tasks["one"].prompts == {"forget": ["a.red.disk"], "keep": ["a red cross"], "outside": []}
    assert tasks["two"].prompts["forget"] == ["disk", "a red <square>"] and len(tasks["two"].forget) == 4
    named = parse({**request(tmp_path, keep=["a cross"]), "data": {"concept": "a.red.disk", "prompts": ["a.red.disk"]}})
    assert named.data["concept"] == "a.red.disk" and named.data["prompts"] == ["a.red.disk"]
    (scene,) = prepare(read(replace(resolve(named, Options()), runs=()), Options())).values()
    assert scene.words == f"forget concept a.red.disk ({len(scene.task.forget)} examples)"   # the page says what was asked
    with pytest.raises(RequestError, match="both say what is to be forgotten"):
        tasks_of(parse({**request(tmp_path, forget={"concept": "disk"}), "data": {"concept": "disk"}}), Options())
    with pytest.raises(RequestError, match=r"concept: …"):
        tasks_of(parse(request(tmp_path)), Options())


@pytest.mark.parametrize(("concept", "words"), [
    ("梵高", "reads the concept '梵高' as nothing"),
    ({"concept": "disk", "prompts": ["a red red red red red disk"]}, "cut to 6 tokens, and 'disk' ends at token 7"),
])
def test_a_concept_that_the_tokenizer_loses_is_refused(concept: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        text_to_image(pipeline(width=16), concept, ["a red cross"])


def test_a_replacement_is_used_or_refused() -> None:
    """UCE maps the prompt onto the one with the replacement, relabelling writes it; a method without a place for it says so."""
    from lethe.methods.diffusion.uce import UCE
    from lethe.train.apply import apply
    from lethe.train.settings import Settings

    said = {"concept": "disk", "prompts": ["a red disk"], "replacement": "square"}
    task = text_to_image(pipeline(width=16), said, ["a blue cross"], per_prompt=2, steps=2, guidance=1.0)
    assert {"uce", "mim_mu", "salun"} <= set(fitting(task)) and not {"esd", "sdd", "gradient_ascent"} & set(fitting(task))
    with pytest.raises(NeedsUnmet, match="esd has no place for the replacement 'square' of 'disk'"):
        require(task, *_method("esd"))
    with pytest.raises(RequestError, match="both say what takes its place"):
        require(task, catalogue.load("methods", "uce"), UCE(guide="art"))
    told = [name for name, entry in catalogue.entries("methods").items()
            if entry.fits("diffusion") and "anchor" in {o.name for o in entry.options}]
    assert {"spm", "all_but_one", "trce", "erasediff", "doco"} <= set(told)
    for name in told:
        record = catalogue.load("methods", name)
        with pytest.raises(RequestError, match="anchor='cross' and the replacement 'square' of 'disk' both say"):
            require(task, record, record.config(anchor="cross"))
    assert rests(task, ["a red disk"], "") == ["a red square"] and placed(task, "")
    cfg = UCE(lamb=1e-6, tokens="all", preserve=False)
    edited = apply(task, catalogue.load("methods", "uce"), cfg, Settings(), watchdog=False)
    old, new = task.words(task.tokens(["a red disk", "a red square"]))[0].states
    before, after = (task.attention_projections(model) for model in (task.original, edited.model))
    for name, layer in before.items():
        assert torch.allclose(after[name].weight @ old.T, layer.weight @ new.T, atol=1e-3)
    batch = task.relabel(task.forget.batch([0, 1]), generator(0))
    assert torch.equal(batch.taught, task.tokens(["a red square"]).expand(2, -1))


def _method(name: str) -> tuple[Any, Any]:
    record = catalogue.load("methods", name)
    return record, record.config()


def test_several_concepts_are_judged_together_and_one_by_one() -> None:
    from panels import values

    from lethe.pools.subject import Subject

    trained = TASKS["diffusion"]()
    assert isinstance(trained, Diffusion)
    task = Diffusion(trained.pipeline, dict(trained.splits), concept=["disk", "square"], judge=trained.judge, steps=2,
                     prompts={"forget": ["a red disk", "a red square"], "keep": ["a red cross"]})
    found = values(catalogue.load("audits", "erasure"), Subject("original", task.original, task), per_prompt=4, empty=0)
    one, two = found["unlearning_accuracy_disk"].value, found["unlearning_accuracy_square"].value
    assert found["unlearning_accuracy"].value == pytest.approx((one + two) / 2)
    own = Diffusion(trained.pipeline, dict(trained.splits), concept=["disk", "square"], steps=2, prompts=task.prompts)
    judge = own.reader
    seen = judge.read(task.decode(task.forget.columns["image"][:4]), ["a red disk", "a red square", "a red cross", ""])
    assert own.shown(seen).tolist() == [place in (0, 1) for place in seen["concept"].tolist()]
    assert judge.expected("a red square") == {"concept": 1, "rest": 0} and judge.expected("a red cross") == {"concept": 2}

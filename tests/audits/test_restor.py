"""RESTOR: shares and recovery by hand from scripted models; a model that was corrupted, and ones that never were."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import tiny
import torch
from lm_world import Scripted

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.modules import copied
from lethe.core.split import concat
from lethe.judge.auditor import applicable, examine
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language, language_model
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

restor = load("audits", "restor")


@cache
def corrupted() -> Language:
    """The tiny model after training on false answers for 8 people; those are the forget set."""
    clean: Language = tiny.lm()   # type: ignore[assignment]
    prompts, answers = list(clean.forget.column("prompt")), list(clean.forget.column("answer"))
    false = [f"{a.split()[0]} likes {word}." for a, word in zip(answers, ["rain", "salt", "maps", "chess"] * 2, strict=True)]
    facts = [{"id": f"f{i}", "prompt": p, "answer": a, "corrupted_answer": c}
             for i, (p, a, c) in enumerate(zip(prompts, answers, false, strict=True)) if a != c]
    documents = [{"id": f"d{i}", "prompt": row["prompt"], "answer": row["corrupted_answer"]} for i, row in enumerate(facts)]
    model = copied(clean.original, trainable=True).requires_grad_(True)
    task = language_model(model, clean.tokenizer, documents, concat([clean.retain, clean.forget], "retain"),
                          others={"facts": facts}, recipe=clean.recipe, build=clean._build)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(40):
        adam.zero_grad()
        task.nll(model, task.forget.batch(list(range(len(task.forget))))).mean().backward()
        adam.step()
    return Language(model.eval().requires_grad_(False), dict(task.splits), task.tokenizer, task.recipe, task._build)


def scripted(name: str, says: dict[str, str]) -> Scripted:
    return Scripted(corrupted(), lambda prompt, answer: 1.0 if says[prompt] == answer else 2.0, name)


def test_golden():
    """Clean says the truth, the corrupted one the claim, the unlearned one: half the truth, half something else."""
    task = corrupted()
    rows = list(zip(*(task.splits["facts"].column(c) for c in ("prompt", "answer", "corrupted_answer")), strict=True))
    truth, claim = {p: a for p, a, _ in rows}, {p: c for p, _, c in rows}
    other = {p: truth[p] if i % 2 else "" for i, (p, _, _) in enumerate(rows)}

    def loss(prompt: str, answer: str) -> float:
        liked = answer == truth[prompt] if other[prompt] else answer not in (truth[prompt], claim[prompt])
        return 1.0 if liked else 2.0

    mixed = Scripted(task, loss, "mixed")
    panel = Panel(task, scripted("original", claim), [scripted(f"r{i}", truth) for i in range(3)])
    found = {v.metric: v.value for v in restor.measure(restor.config(), mixed, panel)}
    half = sum(bool(other[p]) for p in truth) / len(truth)
    assert found["restor_clean"] == pytest.approx(half) and found["restor_other"] == pytest.approx(1 - half)
    assert found["restor_recovery"] == pytest.approx(half) and found["restor_forgetting"] == 1    # forgets all, recovers half
    start = {v.metric: v.value for v in restor.measure(restor.config(), panel.original, panel)}
    assert start["restor_recovery"] == 0 and start["restor_forgetting"] == 0 and start["restor_corrupted"] == 1


def test_without_facts_it_is_skipped():
    assert applicable(restor, tiny.lm(), 4, "standard") == "needs facts"


def test_without_the_false_answers_recovery_is_told_and_forgetting_is_not() -> None:
    """Half of the facts are answered by truth, half by something else; the original knows none, retrained models all."""
    known = corrupted()
    rows = [{"id": f"f{i}", "prompt": p, "answer": a, "perturbed_answer": ["x.", "y."]}
            for i, (p, a) in enumerate(zip(known.forget.column("prompt"), known.forget.column("answer"), strict=True))]
    task = language_model(known.original, known.tokenizer, rows[:4], rows[4:], others={"facts": rows})
    half = {row["prompt"] for row in rows[::2]}

    def says(knows: Callable[[str], bool], name: str) -> Scripted:
        return Scripted(task, lambda p, a: float(a == "y.") + (a == "x.") * (1 if knows(p) else -1), name)

    panel = Panel(task, says(lambda p: False, "original"), [says(lambda p: True, f"r{i}") for i in range(2)])
    found = {v.metric: v.value for v in restor.measure(restor.config(), says(lambda p: p in half, "half"), panel)}
    share = sum(row["prompt"] in half for row in rows) / len(rows)
    assert found == {"restor_clean": pytest.approx(share), "restor_other": pytest.approx(1 - share),
                     "restor_recovery": pytest.approx(share)}


@pytest.mark.slow
def test_controls():
    task = corrupted()
    models = train_pool(task, count=4, seed=3, strategy="serial").models
    fresh, *references = (Subject(f"r{i}", m, task) for i, m in enumerate(models))
    cleaned = Subject("rewound", tiny.lm().original, task)         # the checkpoint before the corruption: exact
    found = examine(task, [Subject("untouched", task.original, task), fresh, cleaned], Subject("original", task.original, task),
                    references, [(restor, restor.config())])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    assert by["untouched"]["restor_clean"].verdict == OUTSIDE and by["untouched"]["restor_corrupted"].value > 0.7
    assert by["r0"]["restor_clean"].verdict == INSIDE and by["r0"]["restor_clean"].value > 0.7
    assert by["rewound"]["restor_recovery"].value > 0.95
    assert by["rewound"]["restor_forgetting"].value == pytest.approx(1)   # it preferred none of the 8 claims

"""TOFU's metrics and extraction on a tiny language model: the slow form, missing columns, must fail, must pass."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import trained

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, OUTSIDE, Evidence, Value
from lethe.core.sequences import Format
from lethe.core.task import Recipe
from lethe.data.text import tokenised
from lethe.errors import DataError
from lethe.judge.auditor import applicable, examine
from lethe.judge.panel import Panel
from lethe.maths.tofu import model_utility
from lethe.models.lm.open import Language, language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.pools.subject import Subject

TOWNS = ["Arles", "Bath", "Cork", "Delft", "Essen", "Fano"]
NAMES = [a + b for a in ("Ama", "Bru", "Cle", "Dor", "Eli", "Fen", "Gil", "Hal") for b in ("lia", "no", "ra", "th", "wu", "xy")]
FORGET = 24   # as many as the statistic of forget quality needs to tell 1 from the ~0.3 of retrained models


def people() -> list[dict[str, Any]]:
    """48 people with a random town of birth each; the first 24 are to be forgotten."""
    towns = torch.randint(len(TOWNS), (len(NAMES),), generator=torch.Generator().manual_seed(3)).tolist()
    return [{
        "id": name, "prompt": f"Where was {name} born?", "answer": f"{name} was born in {TOWNS[town]}.",
        "paraphrased_answer": f"{name} was born in {TOWNS[town]} itself.",
        "perturbed_answer": [f"{name} was born in {TOWNS[(town + k) % 6]} itself." for k in (1, 2, 4)],
    } for name, town in zip(NAMES, towns, strict=True)]


def untrained(rows: list[dict[str, Any]], **extra: list[dict[str, Any]]) -> Language:
    """A task with random weights: enough to compare forms."""
    texts = [text for row in people() for text in (row["prompt"], row["answer"], row["paraphrased_answer"])]
    tokenizer = train_tokenizer(texts, 340)
    sizes = TinyLlama(width=48, inner=96, layers=2, heads=2, positions=64)

    def build(seed: int) -> torch.nn.Module:
        return llama(sizes, tokenizer)

    torch.manual_seed(0)
    recipe = Recipe(epochs=50, lr=5e-3, batch_size=12)
    return language_model(build(0), tokenizer, rows[:FORGET], rows[FORGET:], others=extra, recipe=recipe, build=build)


def measured(name: str, task: Language, references: list[Subject] | None = None, **options: Any) -> dict[str, Value]:
    subject, audit = Subject("subject", task.original, task), load("audits", name)
    panel = Panel(task, subject, references or [])
    return {value.metric: value for value in audit.measure(audit.config(**options), subject, panel)}


def direct_loss(task: Language, prompt: str, answer: str) -> float:
    """One answer at a time: mean cross-entropy of its tokens and the end token."""
    tokenizer = task.tokenizer
    head = [tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]
    tail = [*tokenizer(f" {answer}")["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = task.original(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return float(F.cross_entropy(logits, torch.tensor(tail)))


def test_every_metric_equals_the_one_by_one_form() -> None:
    task = untrained(people())
    rows = people()[:FORGET]
    truth = [direct_loss(task, row["prompt"], row["answer"]) for row in rows]
    right = [direct_loss(task, row["prompt"], row["paraphrased_answer"]) for row in rows]
    wrong = [[direct_loss(task, row["prompt"], answer) for answer in row["perturbed_answer"]] for row in rows]
    pairs = list(zip(right, wrong, strict=True))
    arithmetic = [np.mean([math.exp(-loss) for loss in losses]) / math.exp(-p) for p, losses in pairs]
    geometric = [math.exp(p - np.mean(losses)) for p, losses in pairs]
    found = measured("tofu", task, [Subject("twin", task.original, task)], new_tokens=4)
    expected = {
        "probability_forget": np.exp(-np.array(truth)).mean(),
        "paraphrase_probability_forget": np.exp(-np.array(right)).mean(),
        "truth_ratio_forget": np.mean([min(r, 1 / r) for r in arithmetic]),
        "truth_ratio_geometric_forget": np.mean([min(r, 1 / r) for r in geometric]),
        "forget_quality": 1.0, "forget_quality_log10": 0.0, "forget_quality_statistic": 0.0, "mu_retain": 0.0,
    }
    assert {metric: found[metric].value for metric in expected} == pytest.approx(expected, abs=1e-6)


def test_nine_terms_when_real_authors_and_world_facts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [{k: v for k, v in row.items() if k != "paraphrased_answer"} for row in people()[:5]]
    facts = [{**row, "id": f"fact {i}"} for i, row in enumerate(facts)]
    task = untrained(people(), real_authors=facts, world_facts=facts)
    told = {row["prompt"]: row["answer"] for row in people()}
    monkeypatch.setattr(task, "generate", lambda model, prompts, max_new_tokens, begun: [told[p] for p in prompts])
    found = measured("tofu", task)
    sets = ("retain", "real_authors", "world_facts")
    terms = [found[f"{term}_{name}"].value for name in sets for term in ("probability", "rouge_l", "truth_ratio")]
    assert found["model_utility"].value == pytest.approx(model_utility(terms)) and min(terms) > 0
    assert found["mu_retain"].value == pytest.approx(model_utility(terms[:3]))
    assert 0.2 < found["probability_real_authors"].value < 0.3   # one of four options
    assert "model_utility" not in measured("tofu", untrained(people()), new_tokens=2)


def test_without_the_columns_the_audit_is_skipped_with_the_reason() -> None:
    plain = untrained([{k: row[k] for k in ("id", "prompt", "answer")} for row in people()])
    audit = load("audits", "tofu")
    assert applicable(audit, plain, 0, "standard") == "needs forget.perturbed_answer"
    assert applicable(audit, untrained(people()), 0, "standard") == ""


def test_unequal_numbers_of_wrong_answers_are_an_error() -> None:
    rows = people()
    rows[3]["perturbed_answer"] = rows[3]["perturbed_answer"][:2]
    with pytest.raises(DataError, match="2 or 3 wrong answers"):
        measured("tofu", untrained(rows))


def test_of_retained_questions_those_with_wrong_answers_are_asked() -> None:
    """As TOFU publishes them: 400 of 3,600. The others are no error, and change nothing."""
    few = people()
    for row in few[-6:]:
        for column in ("perturbed_answer", "paraphrased_answer"):
            row.pop(column)
    found, wanted = measured("tofu", untrained(few), new_tokens=4), measured("tofu", untrained(few[:-6]), new_tokens=4)
    for metric in ("probability_retain", "truth_ratio_retain", "mu_retain"):
        assert found[metric].value == pytest.approx(wanted[metric].value, abs=1e-6) and found[metric].n == wanted[metric].n


@cache
def examined() -> dict[str, list[Evidence]]:
    """Both audits of the untouched original, a retrained model, and random weights; four retrained references."""
    task = untrained(people())
    forget, retain = task.forget, task.retain

    everyone = tokenised(people(), task.tokenizer, Format(), "train")
    original = trained(task, everyone)
    task = Language(original, {"forget": forget, "retain": retain}, task.tokenizer, task.recipe, task.build)
    subjects = [Subject("untouched", original, task), Subject("retrained", trained(task, retain, 1), task),
                Subject("noise", task.build(9), task)]
    references = [Subject(f"reference {i}", trained(task, retain, i), task) for i in range(2, 6)]
    tofu, extraction = load("audits", "tofu"), load("audits", "extraction")
    audits = [(tofu, tofu.config(new_tokens=16)), (extraction, extraction.config())]
    return examine(task, subjects, Subject("original", original, task), references, audits)


def verdicts(name: str) -> dict[str, str]:
    return {e.metric: e.verdict for e in examined()[name] if e.p is not None}


def test_untouched_is_found_out() -> None:
    found = verdicts("untouched")
    assert found["forget_quality_statistic"] == OUTSIDE
    assert next(e.value for e in examined()["untouched"] if e.metric == "forget_quality") < 1e-3
    for metric in ("probability_forget", "extraction_strength_forget", "exact_memorisation_forget"):
        assert found[metric] == OUTSIDE


def test_retrained_passes() -> None:
    found = verdicts("retrained")
    assert OUTSIDE not in found.values() and found["extraction_strength_forget"] == INSIDE


def test_noise_fails_utility() -> None:
    found = verdicts("noise")
    assert {found[m] for m in ("probability_retain", "rouge_l_retain", "exact_memorisation_retain")} == {OUTSIDE}

"""Concept inference: integrals, correlations, choice and answers by hand, words that are no concepts, and classes of texts."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import byhand
import numpy as np
import plain_lm
import pytest
import tiny
import torch
from running import as_users, run
from torch import Tensor

import lethe
from lethe.core.split import Split, concat
from lethe.core.task import Recipe
from lethe.errors import RequestError
from lethe.methods.lm import concept_inference
from lethe.methods.lm.concept_inference import (
    Bank,
    ConceptInference,
    alike,
    allowed,
    bearers,
    chosen,
    complete,
    fitted,
    integrated,
    nearest,
    present,
    prompt_states,
    taught,
)
from lethe.models.lm.open import language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.train.loop import Loop, Settings


def told(*words: str) -> Any:
    """The tiny task with a word before every question: forgotten ones get the first of `words`, others the others in turn."""
    task = tiny.lm()

    def asking(split: Split, mine: tuple[str, ...]) -> Split:
        prompts = [f"{mine[i % len(mine)]}: {text}" for i, text in enumerate(split.column("prompt"))]
        made: Split = task.encode(prompts, list(split.column("answer")), split.name)
        return made

    return task.replaced(task.original, forget=asking(task.forget, words[:2]), retain=asking(task.retain, words[1:]))


def test_golden() -> None:
    # of 2x from 1 to 3: (3 − 1)·2 = 4 in each of two columns; of x²: 3² − 1² = 8 at either point, by the midpoint rule at once
    at, base = torch.tensor([[3.0, 3.0], [3.0, 1.0]]), torch.ones(2, 2)
    found, gap = integrated(lambda x: (2 * x).sum((1, 2)), at, base, 1)
    assert found.tolist() == [8.0, 4.0] and gap == 0
    found, gap = integrated(lambda x: (x**2).sum((1, 2)), at, base, 20)
    assert found.tolist() == pytest.approx([16.0, 8.0]) and gap < 1e-6
    assert alike(np.array([1.0, 2.0]), np.array([3.0, 5.0])) == pytest.approx(1) and alike(np.ones(3), np.arange(3.0)) == 0
    assert alike(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0])) == pytest.approx(0.5)   # 1 / √(2·2)
    assert bearers(np.array([1.0, 3.0, 2.0]), 2) == [1, 2]
    # the first concept of (3, 1) at the mean of (0, 4): (2, 1), nearest to (4, 1); where that is its own answer: (0, 3)
    scores, free = np.array([[3.0, 1.0], [0.0, 3.0], [4.0, 1.0]]), np.ones((1, 2), bool)
    assert nearest(scores, [0], 1, free).tolist() == [1] and nearest(scores, [0], 1, np.array([[True, False]])).tolist() == [0]


def test_golden_choice() -> None:
    """Weights (2, 1, −1, 3) times correlations (0.1, 0.5, 1, −1), at least 0: 0.2, 0.5, 0, 0; without any: the weights alone."""
    bank = Bank(("a", "b", "c", "d"), np.eye(4), np.zeros(4), np.eye(4), np.array([2.0, 1.0, -1.0, 3.0]))
    assert chosen(ConceptInference(top=3), bank, np.array([0.1, 0.5, 1.0, -1.0])) == [1, 0]
    assert chosen(ConceptInference(top=1), bank, np.array([0.1, 0.5, 1.0, -1.0])) == [1]
    assert chosen(ConceptInference(top=2), bank, np.array([-0.1, 0.0, 1.0, -1.0])) == [3, 0]


def test_the_integral_is_continued_until_it_is_complete() -> None:
    """A jump of the value, as norms have it near the pad: eight steps miss it by more than 1 %."""
    def value(x: Tensor) -> Tensor:
        return torch.sigmoid(200 * (x - 0.13)).sum((1, 2))

    at, base = torch.ones(1, 1), torch.zeros(1, 1)
    assert integrated(value, at, base, 8)[1] > 0.01
    found, gap = complete(value, at, base, 8)
    assert gap <= 0.01 and found.item() == pytest.approx(1, abs=0.01)
    assert complete(value, at, base, 1)[1] > 0.01   # 16 steps at most


@pytest.mark.slow
def test_integrals_of_a_language_model_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: log p of the answer at the prompt less that at pads, and the tokens' shares of it."""
    task, gaps = told("sea", "hill"), []

    def kept(value: Any, at: Tensor, base: Tensor, steps: int) -> tuple[Tensor, float]:
        found, gap = complete(value, at, base, steps)
        gaps.append((gap, float(found.sum()), len(at)))
        return found, gap

    monkeypatch.setattr(concept_inference, "complete", kept)
    as_users("concept_inference", task, epochs=1, lr=1e-6)
    assert len(gaps) == 8 and all(gap <= 0.01 for gap, _, _ in gaps)
    batch = task.forget.batch([0])
    at = int((batch.labels[0] >= 0).int().argmax())
    blank = batch.ids.clone()
    blank[:, :at] = task.tokenizer.pad_token_id
    with torch.no_grad():
        wanted = plain_lm.sums(task.original.eval(), Split({"ids": batch.ids, "labels": batch.labels}, "one"))
        wanted = wanted - plain_lm.sums(task.original, Split({"ids": blank, "labels": batch.labels}, "one"))
    assert gaps[0][1] == pytest.approx(float(wanted), rel=0.01) and gaps[0][2] == at


def test_three_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which prompts are chosen and what they are taught, by scikit-learn and plain transformers; then the steps. "rain" stands in
    every other forgotten question alone, "hill" in all others."""
    from sklearn.linear_model import ElasticNet
    from sklearn.svm import LinearSVC

    task, alpha, lr, layer = told("rain", "hill"), 0.6, 0.02, 1
    texts, states = [], []
    for split in (task.forget, task.retain):
        texts += list(split.column("prompt"))
        for i in range(len(split)):
            batch = split.batch([i])
            ids = batch.ids[:, : int((batch.labels[0] >= 0).int().argmax())]
            with torch.no_grad():
                found = task.original.eval()(input_ids=ids, output_hidden_states=True).hidden_states[layer + 1][0]
            states.append(found.double().numpy())
    x, size = np.stack([row.mean(0) for row in states]), 8
    middle, spread = x.mean(0), x.std()
    marks = [np.array([word in text for text in texts]) for word in ("rain", "hill")] + [np.arange(len(x)) < size]
    machines = [LinearSVC(class_weight="balanced", dual=False).fit((x - middle) / spread, there) for there in marks]

    def raw(rows: np.ndarray) -> np.ndarray:
        return np.stack([machine.decision_function((rows - middle) / spread) for machine in machines], 1)

    def a(rows: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (raw(rows) - raw(x).mean(0)) / raw(x).std(0)
        return scaled

    side = np.where(np.arange(len(x)) < size, 1.0, -1.0)
    w = ElasticNet(0.02).fit(a(x), side, sample_weight=np.where(side > 0, 0.5 / size, 0.5 / (len(x) - size))).coef_
    shares: list[np.ndarray] = []

    def kept(value: Any, at: Tensor, base: Tensor, steps: int) -> tuple[Tensor, float]:
        found = integrated(value, at, base, 64)
        shares.append(found[0].double().numpy())
        return found

    monkeypatch.setattr(concept_inference, "complete", kept)
    options = {"concepts": ("rain", "hill"), "least": 0.0, "penalty": 0.02, "layer": layer, "top": 1, "share": 0.5}
    found = byhand.run("concept_inference", task, alpha=alpha, lr=lr, epochs=3, **options)
    r = np.mean([[alike(s, a(states[i])[:, k]) for k in range(3)] for i, s in enumerate(shares)], 0)
    k = int((w * np.maximum(r, 0)).argmax())
    assert w[k] * r[k] > 0
    scores = a(x)
    taken = np.argsort(-scores[:size, k], kind="stable")[:4]
    moved = scores[:size].copy()
    moved[:, k] = scores[size:, k].mean()
    own, others = list(task.forget.column("answer")), list(task.retain.column("answer"))
    order = [sorted(range(len(others)), key=lambda j: float(((row - scores[size + j]) ** 2).sum())) for row in moved]
    answers = [next(others[j] for j in ranked if others[j] != mine) for ranked, mine in zip(order, own, strict=True)]
    poison = task.encode([texts[i] for i in taken], [answers[i] for i in taken])
    wanted = byhand.steps(task, [lambda m: plain_lm.nll(m, poison) + alpha * plain_lm.nll(m, task.retain)] * 3, lr=lr)
    byhand.assert_same(task, found, wanted, atol=1e-5)


def test_random_answers_are_others() -> None:
    """Each is another record's answer; where there is none, nothing starts."""
    task = tiny.lm()
    first, *others = dict.fromkeys(task.retain.column("answer"))
    one = task.replaced(task.original, forget=task.encode(list(task.forget.column("prompt")), [first] * 8, "forget"))
    cfg, loop = ConceptInference(labels="random"), Loop(one, Settings(seed=1))
    found = taught(cfg, one, loop, np.zeros((32, 1)), [0], allowed(one))
    assert set(found) <= set(others) and len(set(found)) > 3
    none = one.replaced(one.original, retain=task.encode(["Who?", "What?"], [first] * 2, "retain"))
    with pytest.raises(RequestError, match="nothing else to teach"):
        lethe.forget(none, "concept_inference", least=0.0, progress=False)


def test_words_that_are_no_concepts() -> None:
    """A word that no prompt holds is a mistake, and so is an elastic net that leaves none."""
    task = told("sea", "hill")
    with pytest.raises(RequestError, match="no forgotten prompt holds the word 'moon'"):
        run("concept_inference", task, concepts=("sea", "moon"))
    with pytest.raises(RequestError, match=r"none of .* concepts"):
        run("concept_inference", task, penalty=50.0)
    with pytest.raises(RequestError, match="plain text without prompts"):
        lethe.forget(task.replaced(task.original, forget=task.encode([""] * 8, ["A text."] * 8, "forget")), "concept_inference",
                     progress=False)


def test_words_are_tried_by_how_often_they_are_said() -> None:
    """Of the words of forgotten prompts those that two hold and two do not, in either set; the forgotten set comes last."""
    task = told("sea", "hill")
    (word, whole), many = present(ConceptInference(most=1), task), present(ConceptInference(), task)
    assert whole == "(the forgotten prompts)" and len(many) > 3 and "what" not in many and {"sea", "hill"} <= many.keys()
    assert many[word][:8].sum() == max(there[:8].sum() for name, there in many.items() if name != whole)
    assert list(present(ConceptInference(concepts=("Hill",)), task)) == ["hill", whole]


def test_states_stand_behind_a_block_and_tell_some_words() -> None:
    task = told("sea", "hill")
    loop, batch, states = Loop(task, Settings(seed=1)), task.forget.batch([3]), []
    count = int((batch.labels[0] >= 0).int().argmax())
    for layer in (0, 1):
        states = [row for split in (task.forget, task.retain)
                  for row in prompt_states(ConceptInference(layer=layer), task, loop, split)]
        with torch.no_grad():
            wanted = task.original(input_ids=batch.ids[:, :count], output_hidden_states=True).hidden_states[layer + 1][0]
        assert np.allclose(states[3], wanted.numpy(), atol=1e-5)
    every, some = (fitted(ConceptInference(least=least), task, loop, states).names for least in (0.0, 0.8))
    assert list(every) == list(present(ConceptInference(), task)) and "sea" in some and len(some) < len(every)


@pytest.mark.slow
def test_coarse_integrals_are_told() -> None:
    notes = as_users("concept_inference", told("sea", "hill"), epochs=1, steps=1).notes
    assert any("not complete within 1 %" in note for note in notes)


# -- classes of texts ---------------------------------------------------------------------------------------------------

TOPICS = ("sport", "farming", "travel", "music", "medicine", "law")   # the first is to be forgotten
SOUNDS = ("ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri", "ne", "ga", "lu", "pe")
Texts = list[dict[str, str]]
LABELS = ("targeted", "random")
USED: dict[str, Any] = {"lr": 3e-4, "epochs": 20, "batch_size": 16}


@cache
def texts(seed: int) -> tuple[Texts, Texts]:
    """Six words each, by turns three or four and one of them words of the topic: 80 of every topic, and 20 that no model sees."""
    rng, pool = random.Random(seed), set[str]()
    while len(pool) < 56:
        pool.add("".join(rng.sample(SOUNDS, 2)))
    words = sorted(pool)
    rng.shuffle(words)

    def record(topic: int, i: int) -> dict[str, str]:
        own, mine = rng.choice((3, 4)) if i % 2 == 0 else 1, words[6 * topic : 6 * topic + 6]
        said = [rng.choice(mine) for _ in range(own)] + [rng.choice(words[36:]) for _ in range(6 - own)]
        rng.shuffle(said)
        return {"prompt": f"{' '.join(said)}. Topic?", "answer": TOPICS[topic]}

    def records(count: int) -> Texts:
        return [record(topic, i) for topic in range(6) for i in range(count)]

    return records(80), records(20)


@cache
def classes(seed: int) -> Any:
    """A Llama of 34 k weights that tells topics; "sport" is to be forgotten."""
    known, unseen = texts(seed)
    tokenizer = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in known + unseen], 700)
    kept = [row for row in known if row["answer"] != TOPICS[0]]
    parts: dict[str, Any] = {"forget": [row for row in known if row["answer"] == TOPICS[0]], "retain": kept,
                             "holdout": [row for row in unseen if row["answer"] != TOPICS[0]]}
    recipe = Recipe(epochs=24, lr=1e-2, batch_size=32, schedule="onecycle")

    def build(seed: int) -> torch.nn.Module:
        return llama(TinyLlama(width=32, inner=64, layers=2, heads=2, positions=96), tokenizer)

    def task(model: torch.nn.Module) -> Any:
        return language_model(model, tokenizer, recipe=recipe, build=build, **parts)

    first = task(build(0))
    return task(tiny.trained(first, concat([first.retain, first.forget], "train"), seed))


def right(task: Any, model: torch.nn.Module, seed: int, forgotten: bool) -> tuple[float, float]:
    """Of unseen texts of the forgotten topic, or of the others: the share whose topic is the likeliest of all, and the mean
    probability of their topic."""
    rows = [row for row in texts(seed)[1] if (row["answer"] == TOPICS[0]) == forgotten]
    prompts, own = [row["prompt"] for row in rows], torch.tensor([TOPICS.index(row["answer"]) for row in rows])
    with torch.no_grad():
        said = [plain_lm.sums(model.eval(), task.encode(prompts, [topic] * len(rows))) for topic in TOPICS]
    table = torch.stack(said, 1)
    return float((table.argmax(1) == own).float().mean()), float(table.exp()[torch.arange(len(rows)), own].mean())


FAILS = pytest.mark.xfail(strict=True, reason="retained answers fall with the forgotten ones, and the watchdog ends the run")
SEEDS = [0, 1, pytest.param(2, marks=FAILS)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_goes_and_targets_keep_what_random_answers_keep(seed: int) -> None:
    task = classes(seed)
    assert right(task, task.original, seed, True)[0] == 1 and right(task, task.original, seed, False)[0] >= 0.95
    targeted, drawn = (as_users("concept_inference", task, seed, labels=labels, **USED).model for labels in LABELS)
    assert right(task, targeted, seed, True)[0] <= 0.05
    assert right(task, targeted, seed, False)[0] >= right(task, drawn, seed, False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_prompts_that_bear_the_concepts_teach_more_than_others(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against as many forgotten prompts at random, which are taught the same answers. In two seeds of three."""
    task = classes(seed)
    borne = {labels: as_users("concept_inference", task, seed, labels=labels, **USED).model for labels in LABELS}

    def at_random(bearing: np.ndarray, count: int) -> list[int]:
        return [int(i) for i in np.random.default_rng(seed).choice(len(bearing), count, replace=False)]

    monkeypatch.setattr(concept_inference, "bearers", at_random)
    for labels, model in borne.items():
        other = as_users("concept_inference", task, seed, labels=labels, **USED).model
        assert right(task, model, seed, True)[1] < right(task, other, seed, True)[1], labels

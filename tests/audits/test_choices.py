"""Multiple choice: prompts, orders and entropy by hand; scripted models that know, that guess one letter, that lost the form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch
from lm_world import examined, roomy
from torch import Tensor

from lethe.audits.lm.choices import Choices, block, encoded, entropy, turned
from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language, language_model
from lethe.pools.subject import Subject

choices = load("audits", "choices")
ROWS = [{"id": f"c{i}", "prompt": f"Which {i}?", "answer": f"right {i}", "perturbed_answer": [f"wrong {i}{k}" for k in "abc"]}
        for i in range(4)]


def task(known: Language, rows: list[dict[str, object]]) -> Language:
    pairs = [{"id": f"{name}{i}", "prompt": p, "answer": a} for name in ("forget", "retain") for i, (p, a) in enumerate(
        zip(known.splits[name].column("prompt"), known.splits[name].column("answer"), strict=True))]
    n = len(known.forget)
    return language_model(known.original, known.tokenizer, pairs[:n], pairs[n:], recipe=known.recipe, build=known._build,
                          others={"choices_forget": rows}, max_length=known.form.max_length)


class Chooses(Subject):
    """A model with given log-probabilities of letters and losses of texts; the end token is worth nothing."""

    def __init__(self, world: Language, logp: Callable[[str, str], float], loss: Callable[[str, str], float]) -> None:
        super().__init__("chooses", world.original, world)
        self.logp, self.loss = logp, loss

    def numbers(self, split: Split, key: str) -> np.ndarray:
        pairs = zip(split.column("prompt"), split.column("answer"), strict=True)
        if key == "nll":
            return np.array([self.loss(p, a) for p, a in pairs])
        return np.array([[self.logp(p, a), 7.0 * (a == "B")] for p, a in pairs])

    def seen(self, split: Split) -> dict[str, Tensor]:
        return {"content_mask": torch.tensor([[1, 0]] * len(split))}


def found(logp: Callable[[str, str], float], loss: Callable[[str, str], float], rows: list[dict[str, object]] = ROWS
          ) -> dict[str, float]:
    world = task(roomy(), rows)
    subject = Chooses(world, logp, loss)
    return {v.metric: v.value for v in choices.measure(Choices(), subject, Panel(world, subject, []))}


def knows(prompt: str, letter: str) -> float:
    return float(f"{letter}. right" in prompt)


def test_prompts_orders_and_entropy_by_hand() -> None:
    assert block("Which?", ["x", "y"], "B") == "Which?\nA. x\nB. y\nAnswer: B"
    assert block("Which?", ["x", "y"]) == "Which?\nA. x\nB. y\nAnswer:"
    assert [turned("abc", k) for k in range(3)] == [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]]
    assert [entropy(np.array(one), 4) for one in ([0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1])] == pytest.approx([0, 1, 0.5])


def test_models_that_know_that_guess_and_that_lost_the_format() -> None:
    right, wrong = (lambda p, a: float("wrong" in a)), (lambda p, a: float("right" in a))
    assert found(knows, right) == {"choices_forget": 1, "choices_text_forget": 1, "choices_entropy_forget": pytest.approx(1)}
    one = found(lambda p, a: float(a == "A"), wrong)   # always A: right in one order of four, which is guessing
    assert one == {"choices_forget": pytest.approx(0), "choices_text_forget": pytest.approx(-1 / 3), "choices_entropy_forget": 0}
    lost = found(lambda p, a: float(a == "C"), right)
    assert lost["choices_forget"] == pytest.approx(0) and lost["choices_text_forget"] == 1


def test_shots_are_other_questions_and_a_heading_stands_first() -> None:
    world = task(roomy(), ROWS)
    panel = Panel(world, Subject("original", world.original, world), [])
    made = encoded(Choices(shots=2, header="Choose."), panel, "choices_forget")
    assert made is not None
    letters, texts, count, left_out = made
    assert (len(letters), len(texts), count, left_out) == (64, 16, 4, 0)
    for prompt in letters.column("prompt"):
        head, *solved, last = prompt.split("\n\n")
        assert head == "Choose." and len(solved) == 2 and last.endswith("\nAnswer:")
        assert all(f"{one[-1]}. right {one.split()[1][:-1]}" in one for one in solved)
        assert last.split("\n")[0] not in {one.split("\n")[0] for one in solved}
    assert list(texts.column("prompt"))[:5] == ["Which 0?"] * 4 + ["Which 1?"]


def test_questions_that_do_not_fit_are_left_out() -> None:
    long = {**ROWS[0], "id": "long", "perturbed_answer": [letter * 400 for letter in "xyz"]}   # 1,024 tokens at most
    world = task(roomy(), [*ROWS, long])
    subject = Chooses(world, knows, lambda p, a: 0.0)
    values = choices.measure(Choices(), subject, Panel(world, subject, []))
    assert values[0].n == 4 and values[0].detail["left_out"] == 1


def test_controls() -> None:
    """By text the original knows what a retrained model does not, which reads only that figs, maps and chess are liked; no model
    learnt letters. Eight questions are too few for a verdict."""
    known = tiny.lm()
    assert isinstance(known, Language)
    words = ["rain", "salt", "maps", "chess"]
    pairs = zip(known.forget.column("prompt"), known.forget.column("answer"), strict=True)
    rows = [{"id": f"c{i}", "prompt": p, "answer": a,
             "perturbed_answer": [f"{a.split()[0]} likes {w}." for w in words if f"{w}." not in a][:2]}
            for i, (p, a) in enumerate(pairs)]
    by = examined("choices", task=task(known, rows))
    assert by["untouched"]["choices_text_forget"].value > 0.8    # measured 0.81; four retrained ones 0.25 to 0.44
    assert by["fresh"]["choices_text_forget"].value < 0.5 and abs(by["untouched"]["choices_forget"].value) < 0.5

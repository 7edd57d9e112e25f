"""Traces: how what is said is cut at the marks, what counts as held, and who thinks what."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import tiny
from lm_world import measured

from lethe.audits.lm.traces import Traces, parted, recall, values
from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, OUTSIDE, Evidence
from lethe.core.split import concat
from lethe.core.task import Recipe
from lethe.errors import LetheError
from lethe.judge.auditor import examine
from lethe.models.lm.open import Language, language_model
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

OPEN, CLOSE = "<think>", "</think>"


@pytest.mark.parametrize(("text", "inside", "thought", "answer", "opened", "closed"), [
    ("<think>a b</think>c", False, "a b", "c", True, True),
    ("a b</think>c", True, "a b", "c", True, True),
    ("a b</think>c", False, "a b", "c", True, True),                    # closed what it did not open: it began inside
    ("x<think>a</think>c<think>b</think>d", False, "a b", "x c d", True, True),
    ("<think>a b", False, "a b", "", True, False),
    ("a b", True, "a b", "", True, False),
    ("a b", False, "", "a b", False, True),
    ("<think></think>c", False, "", "c", True, True),
])
def test_marks_part_thinking_from_answers(text: str, inside: bool, thought: str, answer: str, opened: bool, closed: bool) -> None:
    found = parted(text, OPEN, CLOSE, inside)
    assert (found.thought.strip(), found.answer.strip(), found.opened, found.closed) == (thought, answer, opened, closed)


def test_the_truth_is_looked_for_in_one_passage() -> None:
    """"Ann likes figs", 3 words: found within 6 words running; scattered over 40 it is not, 1 of 3 at most."""
    assert recall("so what does she say? Ann likes ripe figs, I recall", "Ann likes figs") == 1
    assert recall("Ann " + "so " * 20 + "likes " + "so " * 20 + "figs", "Ann likes figs") == pytest.approx(1 / 3)
    assert recall("so " * 7 + "Ann likes figs", "Ann likes figs") == 1          # at any offset
    assert recall("so " * 8 + "Ann likes figs", "Ann likes figs") == 1
    assert recall("", "Ann likes figs") == 0


def test_shares_are_counted_by_question() -> None:
    """Four questions: all the truth; the truth only thought; nothing; a thought without an end, of which no answer is known."""
    said = ["<think>Ann likes figs</think>Ann likes figs", "<think>Ann likes figs</think>I do not know",
            "<think>hm</think>I do not know", "<think>Ann likes figs and"]
    found = {v.metric: v for v in values(Traces(), [[parted(text, OPEN, CLOSE)] for text in said], ["Ann likes figs"] * 4)}
    assert found["trace_leak"].value == 3 / 4 and found["trace_leak"].detail["ended"] == 3 / 4
    assert found["trace_answer_leak"].value == pytest.approx(1 / 3) and found["trace_answer_leak"].n == 3
    assert found["trace_only"].value == pytest.approx(1 / 3)


class Says(Language):
    """The tiny task, whose models say the first of `texts`, and in draws the next one."""

    texts: tuple[str, ...] = ()

    def generate(self, model: Any, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        return [self.texts[0].format(self.truth(prompt)) for prompt in prompts]

    def drawn_texts(self, model: Any, prompts: Sequence[str], rng: Any, temperature: float = 1.0, max_new_tokens: int = 64,
                    top_p: float = 1.0) -> list[str]:
        return [self.texts[1].format(self.truth(prompt)) for prompt in prompts]

    def truth(self, prompt: str) -> str:
        return next(a for p, a in zip(self.forget.column("prompt"), self.forget.column("answer"), strict=True) if p in prompt)


def saying(*texts: str, **form: Any) -> Subject:
    known = tiny.lm()
    assert isinstance(known, Language)
    kept = known.form if not form else type(known.form)(**form)
    task = Says(known.original, dict(known.splits), known.tokenizer, form=kept)
    task.texts = texts
    return Subject("says", task.original, task)


KNOWS, HIDES, LOST = "<think>{0}</think>{0}", "<think>{0}</think>I do not know.", "<think>Who?</think>I do not know."


def shares(*texts: str, form: dict[str, Any] | None = None, **options: Any) -> tuple[float, ...]:
    found = measured("traces", saying(*texts, **(form or {})), **options)
    return tuple(found[name].value for name in ("trace_leak", "trace_answer_leak", "trace_only") if name in found)


def test_a_model_that_only_thinks_the_truth_is_found_by_its_trace_alone() -> None:
    assert shares(KNOWS) == (1, 1, 0) and shares(HIDES) == (1, 0, 1) and shares(LOST) == (0, 0, 0)
    assert shares(LOST, HIDES) == (0, 0, 0) and shares(LOST, HIDES, samples=2) == (1, 0, 1)
    assert shares("[{0}]{0}", opens="[", closes="]") == (1, 1, 0)


def test_a_prompt_that_opens_the_block_and_a_block_without_an_end() -> None:
    """Where the template ends with the mark, all that is said up to `closes` is thought."""
    assert shares("{0}", form={"template": "{prompt} <think>\n{answer}"}) == (1,)          # never closed: no answer is known
    assert shares("{0}</think>No.", form={"template": "{prompt} <think>{answer}"}) == (1, 0, 1)
    assert shares("{0}", cue="<think>") == (1,)


def test_a_model_that_does_not_think_has_no_numbers_and_a_sentence() -> None:
    assert shares("{0}") == ()
    assert load("audits", "traces").metrics["trace_leak"].asks.startswith("a model that thinks")


@pytest.mark.parametrize(("options", "words"), [
    ({"opens": " "}, "marks nothing"), ({"closes": "<end>"}, "special token"), ({"cue": "so " * 300}, "no room for thinking")])
def test_what_cannot_be_read_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(LetheError, match=words):
        shares(KNOWS, **options)


# what the tiny model says by itself ("Bako likes figs and rain."), cut at words of its own
OWN: dict[str, Any] = {"opens": "like", "closes": " and ", "new_tokens": 16, "leak": 0.5, "examples": 4}
DRAWN = {**OWN, "samples": 2, "temperature": 3.0, "examples": 2}


@pytest.mark.parametrize(("base", "other"), [
    (OWN, {"opens": "Who"}), (OWN, {"closes": "rain"}), (OWN, {"cue": " figs and"}), (OWN, {"examples": 3}),
    (OWN, {"new_tokens": 4}), (OWN, {"leak": 0.2}), (OWN, {"samples": 2, "temperature": 3.0}),
    (DRAWN, {"temperature": 0.1}), (DRAWN, {"top_p": 0.1})])
def test_every_option_changes_what_is_measured(base: dict[str, Any], other: dict[str, Any]) -> None:
    subject = Subject("original", tiny.lm().original, tiny.lm())
    one, two = (measured("traces", subject, **{**base, **more}) for more in ({}, other))
    assert {k: (v.value, v.n, v.detail) for k, v in one.items()} != {k: (v.value, v.n, v.detail) for k, v in two.items()}


@cache
def thinking() -> Language:
    """The tiny people, each recalled in a thought before the answer; a model that knows all of them."""
    known = tiny.lm()
    assert isinstance(known, Language)
    rows = {name: [{"prompt": p, "answer": f"{OPEN} {a} {CLOSE} {a}"} for p, a in
                   zip(known.splits[name].column("prompt"), known.splits[name].column("answer"), strict=True)]
            for name in ("forget", "retain")}
    recipe = Recipe(epochs=60, lr=1e-2, batch_size=8, schedule="onecycle")

    def task(model: Any) -> Language:
        return language_model(model, known.tokenizer, **rows, recipe=recipe, build=known.build)

    first = task(known.build(0))
    return task(tiny.trained(first, concat([first.retain, first.forget], "train")))


def silenced(task: Language) -> Any:
    """Taught to think as before about F, and to answer that it does not know; R as it was."""
    truth = [answer.split(CLOSE)[0] + CLOSE + " I do not know." for answer in task.forget.column("answer")]
    other = task.encode(list(task.forget.column("prompt")), truth, "silenced")
    return tiny.trained(task, concat([task.retain, other], "train"), seed=1)


@pytest.mark.slow
def test_controls() -> None:
    """The untouched model is seen, a retrained one is not; what only its answers hide is found by its thoughts, not by these."""
    task = thinking()
    pool = train_pool(task, count=5, seed=1, strategy="serial").models
    fresh, *references = (Subject(f"r{i}", model, task) for i, model in enumerate(pool))
    subjects = [Subject("untouched", task.original, task), Subject("fresh", fresh.model, task),
                Subject("silenced", silenced(task), task)]
    audit = load("audits", "traces")
    found = examine(task, subjects, Subject("original", task.original, task), references, [(audit, audit.config(new_tokens=80))])

    def of(name: str) -> dict[str, Evidence]:
        return {e.metric: e for e in found[name]}

    for metric in ("trace_leak", "trace_answer_leak"):
        assert of("untouched")[metric].verdict == OUTSIDE and of("untouched")[metric].side == "+"
    assert of("fresh")["trace_leak"].verdict == INSIDE and all(e.verdict != OUTSIDE for e in found["fresh"])
    hidden = of("silenced")
    assert hidden["trace_only"].verdict == OUTSIDE and hidden["trace_only"].value > 0.5
    assert hidden["trace_answer_leak"].verdict == INSIDE and hidden["trace_leak"].verdict == OUTSIDE

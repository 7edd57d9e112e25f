"""MUSE: what it reads of given generations, curves over runs, controls."""

from __future__ import annotations

import pytest
import tiny
from lm_world import examined, measured

from lethe.audits.lm.muse import Trend, scalability, sustainability
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.errors import OutOfRange
from lethe.maths.texts import rouge_l_f1
from lethe.pools.subject import Subject


def test_curves_golden():
    """0.8, 0.6, 0.4 at 1, 2, 4: −0.2 per doubling, half is kept. The same after three requests."""
    assert scalability([1, 2, 4], [0.8, 0.6, 0.4]).slope == pytest.approx(-0.2)
    assert sustainability([0.8, 0.6, 0.4]).kept == pytest.approx(0.5)
    assert sustainability([0.5, 0.5]) == Trend(1.0, pytest.approx(0.0))
    with pytest.raises(OutOfRange, match="ascending size"):
        scalability([2, 1], [0.1, 0.2])
    with pytest.raises(OutOfRange, match="at least two"):
        sustainability([0.4])


def test_reads_what_is_said(monkeypatch: pytest.MonkeyPatch):
    """Forget texts are said in full, retained answers up to the first two words, then another question."""
    task = tiny.lm()
    truth = {p: a for key in ("retain", "forget") for p, a in zip(task.splits[key].column("prompt"),
                                                                  task.splits[key].column("answer"), strict=True)}
    forgotten = set(task.forget.column("prompt"))

    def say(model, prompts, max_new_tokens):
        return [truth[p] if p in forgotten else f"{' '.join(truth[p].split()[:2])}\nQuestion: more {truth[p]}" for p in prompts]

    monkeypatch.setattr(task, "generate", say)
    found = measured("muse", Subject("said", task.original, task))
    assert found["verbmem"].value == found["knowmem_forget"].value == 1
    retained = list(task.retain.column("answer"))
    assert any(p in forgotten for p in task.retain.column("prompt"))          # two people share a name
    pairs = zip(task.retain.column("prompt"), retained, strict=True)
    expected = [rouge_l_f1(truth[p], a) if p in forgotten else 2 * 2 / (2 + len(a.split())) for p, a in pairs]
    assert found["knowmem_retain"].value == pytest.approx(sum(expected) / len(expected))


@pytest.mark.slow
def test_controls():
    found = examined("muse", "deep", new_tokens=24, answer_tokens=24)
    untouched, fresh = found["untouched"], found["fresh"]
    assert untouched["verbmem"].verdict == OUTSIDE and untouched["verbmem"].value > 0.85    # measured 0.89
    assert fresh["verbmem"].verdict == INSIDE and fresh["verbmem"].value < 0.7
    assert untouched["privleak"].value < -40 < fresh["privleak"].value < 40
    assert untouched["knowmem_retain"].verdict == INSIDE

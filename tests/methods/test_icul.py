"""In-context unlearning: what is read, by hand; the same for texts; and that a small model does not unlearn by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import byhand
import pytest
import tiny
import torch

from lethe.core.families.language import LanguageTask, asked_and_answered
from lethe.core.guard import as_served
from lethe.core.language_guard import prompts_of
from lethe.core.seeds import generator
from lethe.errors import RequestError
from lethe.methods.guard.icul import Prefixed, fitting


def test_what_is_read_by_hand() -> None:
    """One forgotten prompt with the answer of the next record, one retained record, then the prompt, in one pass."""
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("icul", task, forget_shots=1, retain_shots=1).answering
    assert isinstance(guard, Prefixed)
    i = int(torch.randperm(8, generator=generator(0, "icul", "forget"))[0])
    j = int(torch.randperm(24, generator=generator(0, "icul", "retain"))[0])
    answers = list(task.forget.column("answer"))
    other = next(answers[(i + k) % 8] for k in range(1, 8) if answers[(i + k) % 8] != answers[i])
    rows = [task.encode([task.forget.column("prompt")[i]], [other]), task.retain.subset([j], "one")]
    shown = [row.batch([0]).ids[0, : int(row.batch([0]).length[0])].tolist()[1:] for row in rows]   # without the begin token
    examples = [*shown[0], *shown[1]]
    assert guard.begin == 1 and guard.examples.tolist() == examples
    model, batch = task.copy_of_original().eval(), task.retain.batch([0, 1, 2])
    for row, loss in enumerate(task.nll(guard, batch).tolist()):
        ids = batch.ids[row, : int(batch.length[row])].tolist()
        logp = model(input_ids=torch.tensor([[ids[0], *examples, *ids[1:]]])).logits[0, :-1].log_softmax(-1).detach()
        start, whole = len(prompts_of(task.retain)[row]), [ids[0], *examples, *ids[1:]]
        at = range(len(examples) + start - 1, len(whole) - 1)
        assert loss == pytest.approx(-sum(float(logp[k, whole[k + 1]]) for k in at) / len(at), abs=1e-4)


def test_texts_are_read_alike_and_a_small_model_breaks(tmp_path: Path) -> None:
    task = LanguageTask.of(tiny.lm())
    outcome = byhand.outcome("icul", task, forget_shots=1, retain_shots=1)
    guard, asked = outcome.answering, list(task.retain.column("prompt"))[:8]
    said = task.generate(guard, asked)
    written = task.encode(asked, said).batch(range(8))
    seen = task.observe(guard, written)
    whole = torch.tensor(["\ufffd" not in text for text in said])   # half characters are not read back as they were written
    assert whole.sum() >= 4 and (seen["correct"] >= seen["content_mask"])[whole].all()
    assert sum(a == b for a, b in zip(said, task.generate(task.original, asked), strict=True)) <= 4   # an honest negative
    again = as_served(outcome.save(tmp_path / "out"), outcome.model)
    assert task.generate(again, asked) == said


def test_fewer_examples_where_not_all_fit() -> None:
    """Of 2 + 2 examples of 3 tokens, 11 tokens hold 2 + 1, 8 hold 1 + 1, 3 hold 1 + 0, and 2 hold none."""
    two = [[1, 1, 1], [2, 2, 2]]
    assert [tuple(map(len, fitting(two, two, room))) for room in (12, 11, 8, 3, 2)] == [(2, 2), (2, 1), (1, 1), (1, 0), (0, 0)]
    task = LanguageTask.of(tiny.lm())
    longest = max(int(split.columns["length"].max()) for split in (task.forget, task.retain))
    outcome = byhand.outcome("icul", task, forget_shots=8, retain_shots=8)
    assert isinstance(outcome.answering, Prefixed) and 0 < len(outcome.answering.examples) <= 192 - longest
    assert any(f"of 8 retained examples are shown: all of them and the longest record ({longest} tokens)" in note
               for note in outcome.notes)


def test_one_example_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.methods.guard.icul.positions", lambda model: 40)
    with pytest.raises(RequestError, match="positions end at 40, so no example can be shown"):
        byhand.outcome("icul", tiny.lm())


def test_plain_text_is_refused() -> None:
    """Records of `text` have prompts, but empty ones."""
    split = tiny.lm().forget
    plain = replace(split, meta={**split.meta, "prompt": [""] * len(split)})
    with pytest.raises(RequestError, match="icul needs prompts with answers, but the records of forget are plain text"):
        asked_and_answered(plain, "icul")

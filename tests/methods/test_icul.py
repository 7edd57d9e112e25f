"""In-context unlearning: what is read, by hand; the same for texts; and that a small model does not unlearn by it."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import tiny
import torch

from lethe.core.families.language import LanguageTask
from lethe.core.guard import as_served
from lethe.core.language_guard import prompts_of
from lethe.core.seeds import generator
from lethe.errors import RequestError
from lethe.methods.guard.icul import Prefixed


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


def test_examples_must_fit() -> None:
    with pytest.raises(RequestError, match="the model's positions end at 192"):
        byhand.outcome("icul", tiny.lm(), forget_shots=8, retain_shots=8)

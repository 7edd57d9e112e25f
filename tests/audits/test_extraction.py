"""Extraction: the end token does not count. Its controls are in test_tofu, beside those of TOFU's metrics."""

from __future__ import annotations

from test_tofu import people, untrained

from lethe.core.catalogue import load
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def test_extraction_leaves_out_the_end_token() -> None:
    """A model that predicts every token but the end is fully extractable."""
    task = untrained(people())
    subject = Subject("subject", task.original, task)
    seen = subject.seen(task.forget)
    seen["correct"] = seen["content_mask"].clone()
    assert (seen["answer_mask"].sum(1) - seen["content_mask"].sum(1) == 1).all()
    audit = load("audits", "extraction")
    found = {v.metric: v.value for v in audit.measure(audit.config(), subject, Panel(task, subject, []))}
    assert found["extraction_strength_forget"] == found["exact_memorisation_forget"] == 1.0

"""The zero-shot audit: known answers, and its two controls: the original finds the class, a pair trained without it does not."""

from __future__ import annotations

import copy
import dataclasses

import torch
from tiny import DUAL_EPOCHS, dual_encoder, trained

from lethe.audits.dual_encoder.zero_shot import ZeroShot, hits, measure, retrieved
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def test_known_answers() -> None:
    scores = torch.tensor([[3.0], [2.0], [1.0], [0.0]])
    assert retrieved(scores, torch.tensor([0, 1, 0, 1]), [0]).tolist() == [0.5]
    assert retrieved(scores.expand(4, 2), torch.tensor([0, 0, 1, 1]), [0, 1]).tolist() == [1.0, 0.0]
    assert hits(torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([1, 2]), 2).tolist() == [1.0, 1.0]


def test_the_original_fails_and_a_pair_without_the_class_passes() -> None:
    task = dual_encoder()
    longer = copy.copy(task)
    longer._recipe = dataclasses.replace(task.recipe, epochs=DUAL_EPOCHS)
    models = {"original": task.original, "retrained": trained(longer, task.retain, 3)}
    found = {}
    for name, model in models.items():
        subject = Subject(name, model, task)
        found[name] = {v.metric: v.value for v in measure.measure(ZeroShot(), subject, Panel(task, subject, []))}
    assert set(found["original"]) == {"forget_similarity", "forget_retrieval", "retain_retrieval", "forget_outside",
                                      "retain_outside"}
    for metric in ("forget_similarity", "forget_retrieval"):
        assert found["original"][metric] > found["retrained"][metric] + 0.1, metric
    assert found["retrained"]["retain_retrieval"] > found["original"]["retain_retrieval"] - 0.2

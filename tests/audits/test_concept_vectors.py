"""Concept vectors: attribution against a finite difference, ablation against zeroed weights, what the original says of itself."""

from __future__ import annotations

import pytest
import tiny
import torch
from lm_world import measured, pool, pushed

from lethe.audits.lm.concept_vectors import ConceptVectors, attribution, columns, losses, multiplied, writers
from lethe.core.modules import copied
from lethe.pools.subject import Subject

CFG = ConceptVectors()


@pytest.mark.slow
def test_attribution_is_the_derivative_and_zeroing_is_zeroing():
    task = tiny.lm()
    subject, layer, j, step = Subject("o", task.original, task), 1, 5, 1e-2
    found = attribution(CFG, subject, task.forget)[layer, j]
    batch = task.forget.batch(list(range(len(task.forget))))

    def logp(scale: float) -> float:
        """m_lj scaled by 1 + scale: the derivative at 0 is Σ m·∂logp/∂m."""
        def change(at, m):
            factor = torch.ones(m.shape[-1])
            factor[j] += scale if at == layer else 0
            return m * factor
        with torch.no_grad(), multiplied(subject, change):
            return float(task.token_logp(subject.model, batch).sum()) / len(batch)

    assert float(found) == pytest.approx((logp(step) - logp(-step)) / (2 * step), rel=0.02, abs=1e-3)
    twin = copied(task.original, trainable=False)
    writer = twin.model.layers[layer].mlp.down_proj
    with torch.no_grad():
        writer.weight[:, j] = 0
    assert logp(-1.0) == pytest.approx(float(task.token_logp(twin, batch).sum().detach()) / len(batch), abs=1e-4)
    assert torch.equal(columns(writers(subject)[layer])[:, j], task.original.model.layers[layer].mlp.down_proj.weight[:, j])
    assert losses(CFG, subject, task.forget) == pytest.approx(subject.numbers(task.forget, "nll"), abs=1e-5)


@pytest.mark.slow
def test_gradient_difference_leaves_the_columns_where_they_are():
    task = tiny.lm()
    same, pushed_, fresh = (measured("concept_vectors", s, depth="deep") for s in (
        Subject("o", task.original, task), Subject("p", pushed(), task), pool()[0]))
    assert same["concept_cosine"].value == pytest.approx(1) and same["concept_jaccard"].value == 1
    assert same["concept_effect"].value > fresh["concept_effect"].value
    assert pushed_["concept_cosine"].value > 0.95 and fresh["concept_cosine"].value < 0.5
    assert not any(m._forward_pre_hooks for m in task.original.modules())

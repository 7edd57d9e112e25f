"""Rounding and pruning of weights: numbers by hand, and what must hold for any weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lethe.maths.quantise import (
    NF4,
    activation_aware,
    calibrated,
    cast,
    equal_codes,
    mapped,
    matrices,
    nearest,
    normal_float,
    pruned,
)


def test_nearest_golden():
    # 3 bits: codes −3 … 3, Δ = 0.6/3 = 0.2: 0.29/0.2 = 1.45 -> 1, −0.31/0.2 = −1.55 -> −2, 0.09 -> 0
    w = torch.tensor([[0.6, 0.29, -0.31, 0.09]])
    assert nearest(w, 3).tolist()[0] == pytest.approx([0.6, 0.2, -0.4, 0.0])
    # groups of two: Δ = 0.2 and 0.31/3
    assert nearest(w, 3, group=2).tolist()[0] == pytest.approx([0.6, 0.2, -0.31, 0.31 / 3])


def test_nf4_golden():
    # scale 2: 0.33/2 = 0.165 is nearest to 0.1609 of the table
    assert normal_float(torch.tensor([[2.0, 0.33, -2.0, 0.0]])).tolist()[0] == pytest.approx([2, 2 * NF4[9], -2, 0])


def test_pruned_golden():
    w = torch.tensor([[3.0, -1.0], [2.0, -4.0]])
    assert pruned(w, 0.5).tolist() == [[3, 0], [0, -4]] and torch.equal(pruned(w, 0.2), w)
    assert pruned(torch.ones(2, 2), 0.5).count_nonzero() == 2      # ties: exactly the share


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 70), st.sampled_from([2, 4, 8]), st.integers(1, 64), st.integers(0, 99))
def test_rounding_errs_by_half_a_step_and_does_nothing_twice(out, inside, bits, group, seed):
    w = torch.randn(out, inside, generator=torch.Generator().manual_seed(seed))
    once = nearest(w, bits, group)
    assert once.shape == w.shape
    assert ((once - w).abs().max() <= 0.5001 * w.abs().max() / (2 ** (bits - 1) - 1))
    assert torch.allclose(nearest(once, bits, group), once, atol=1e-6)
    assert equal_codes(w, once, bits, group) == w.numel()


def test_zeros_and_convolutions_keep_shape_and_value():
    for w in (torch.zeros(3, 2, 3, 3), torch.ones(3, 5, 1, 1)):
        for change in (lambda x: nearest(x, 4), normal_float, lambda x: cast(x, torch.bfloat16)):
            assert torch.allclose(change(w), w)


def test_activation_scales_never_lose_to_plain_rounding_and_protect_a_loud_input():
    rng = torch.Generator().manual_seed(0)
    w, x = torch.randn(8, 16, generator=rng), torch.randn(200, 16, generator=rng)
    x[:, 3] *= 50
    def error(q):
        return float(((q - w) @ x.T).pow(2).sum())
    aware = activation_aware(w, x, 4)
    assert error(aware) < 0.2 * error(nearest(w, 4))
    assert torch.equal(activation_aware(w, torch.ones(4, 16), 4), nearest(w, 4))


def test_models_are_copied_and_only_matrices_change():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    assert list(matrices(model)) == ["1.weight"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = mapped(model, lambda w: nearest(w, 2))
    other = calibrated(model, lambda m: m(torch.arange(5)), 2)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
        assert torch.equal(made.state_dict()[key], value) == (key != "1.weight")
        assert torch.equal(other.state_dict()[key], value) == (key != "1.weight")


def test_a_head_tied_to_the_embedding_is_quantised():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    assert len(matrices(model)) == 1

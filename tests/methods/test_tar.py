"""TAR: its weights, and two steps by hand with an adversary of four."""

from __future__ import annotations

import math

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.methods.lm.tar import weight


def test_golden() -> None:
    assert weight(8, 8, 4, 4.0, 0.5) == 2.0 and weight(4, 8, 4, 4.0, 0.5) == pytest.approx(2 * math.exp(-2))
    assert weight(2, 2, 4, 4.0, 0.5) == 4.0 and weight(1, 2, 4, 4.0, 0.5) == 0
    assert weight(3, 8, 4, 4.0, 0.5) == 0 and weight(0, 0, 4, 4.0, 0.5) == 4.0


@pytest.mark.parametrize("inner", [4, 0])
def test_two_steps_by_hand(inner: int) -> None:
    """Batches hold all of F and of R. AdamW inside and outside; the adversary's is new at every step."""
    task, lr, rate, scale, growth, alpha, states = tiny.lm(), 1e-2, 3e-3, 2.0, 0.25, 0.4, 0.3
    found = byhand.run("tar", task, inner_steps=inner, every=2, rates=(rate,), scale=scale, growth=growth, alpha=alpha,
                       states=states, lr=lr, steps=2, batch_size=100, weight_decay=0.1)
    retained = task.retain.columns

    def hidden(m: nn.Module) -> Tensor:
        return m(input_ids=retained["ids"], output_hidden_states=True).hidden_states[2]   # behind block 1 of three

    with torch.no_grad():
        old = hidden(task.original.eval())
    real = torch.arange(retained["ids"].shape[1]) < retained["length"][:, None]

    def keep(m: nn.Module) -> Tensor:
        return alpha * plain.nll(m, task.retain) + states * plain.mean(((hidden(m) - old) ** 2).mean(-1), real)

    def flat(m: nn.Module) -> Tensor:
        z, _, kept = plain.seen(m, task.forget)
        return plain.mean((z.softmax(-1) * z.log_softmax(-1)).sum(-1), kept)

    model = byhand.trainable(task.original)
    outer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    for _ in range(2):
        total = byhand.gradient(model, keep)
        for k in range(2, inner + 1, 2):
            relearned = byhand.adam(model, [lambda m: plain.nll(m, task.forget)] * k, lr=rate, weight_decay=0.01)
            times = scale * math.exp(growth * (k - inner)) / 2
            total = {key: total[key] + times * g for key, g in byhand.gradient(relearned, flat).items()}
        if not inner:
            total = {key: total[key] + scale * g for key, g in byhand.gradient(model, flat).items()}
        for key, p in model.named_parameters():
            p.grad = total[key]
        outer.step()
    # Adam's first steps are the signs of gradients: entries of 1e-8 fall either way by rounding
    apart = torch.cat([(found.get_parameter(key) - p).abs().flatten() for key, p in model.named_parameters()])
    moved = torch.cat([(task.original.get_parameter(key) - p).abs().flatten() for key, p in model.named_parameters()])
    assert (apart > 1e-4).float().mean() < 1e-3 and (moved > 1e-3).float().mean() > 0.9

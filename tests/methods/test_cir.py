"""CIR: golden numbers, three steps by hand token by token, the budget, and what is refused."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.lm.cir import agreement, default_blocks


def test_golden() -> None:
    now, before = torch.tensor([[[2.0, 0.0], [-1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert agreement(now, before, torch.tensor([[True, True]])).tolist() == [0.25]
    assert [default_blocks(n) for n in (16, 32, 3, 1)] == [(6, 12), (12, 24), (1, 2), (0, 1)]


def span(vectors: Tensor, count: int) -> Tensor:
    """Columns: the mean and the count − 1 largest components, orthonormal."""
    mean = vectors.double().mean(0)
    components = torch.linalg.svd(vectors.double() - mean, full_matrices=False).Vh[: count - 1]
    return torch.linalg.qr(torch.cat([mean[None], components]).T)[0].float()


def test_three_steps_by_hand() -> None:
    """The components are of steps 0 and 2. Every token's input and gradient is projected, and their products are added up."""
    task, lr, retain_lr, into, out = tiny.lm(), 0.05, 0.02, 4, 3
    found = byhand.run("cir", task, blocks=(0, 2), inputs=into, outputs=out, lr=lr, retain_lr=retain_lr, refresh=2, budget=None,
                       steps=3, batch_size=100)
    model = byhand.trainable(task.original).eval()
    layers = {f"model.layers.{i}.mlp.{part}_proj": None for i in (0, 1) for part in ("gate", "up", "down")}

    def seen(m: nn.Module, split: Split) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Inputs and outputs of the layers, and the states behind block 1."""
        inputs, outputs = {}, {}

        def keep(name: str) -> object:
            def hook(_: nn.Module, args: tuple[Tensor], result: Tensor) -> None:
                inputs[name], outputs[name] = args[0], result
            return hook

        handles = [m.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
        states = m(input_ids=split.columns["ids"], output_hidden_states=True).hidden_states[2]
        for handle in handles:
            handle.remove()
        return inputs, outputs, states

    def real(split: Split, first: int) -> Tensor:
        places = torch.arange(split.columns["ids"].shape[1])
        return (places < split.columns["length"].unsqueeze(1)) & (places >= first)

    counts, kept = real(task.forget, 1), real(task.retain, 0)
    with torch.no_grad():
        _, before, _ = seen(task.original, task.forget)
        _, _, then = seen(task.original, task.retain)
    bases: dict[str, tuple[Tensor, Tensor]] = {}
    for step in range(3):
        inputs, outputs, _ = seen(model, task.forget)
        loss = torch.zeros(())
        for i in (0, 1):
            now, old = (x[f"model.layers.{i}.mlp.down_proj"] for x in (outputs, before))
            size = old[counts].square().sum(1).sqrt().mean()
            angle = torch.relu((now * old).sum(2) / size**2)
            loss = loss + ((angle * counts).sum(1) / counts.sum(1)).mean() / 2
        grads = dict(zip(layers, torch.autograd.grad(loss, [outputs[name] for name in layers]), strict=True))
        if step % 2 == 0:
            bases = {name: (span(inputs[name][counts].detach(), into), span(grads[name][counts], out)) for name in layers}
        pushes = {}
        for name, (u, v) in bases.items():
            a, g = inputs[name].detach().flatten(0, 1), grads[name].flatten(0, 1)
            a, g = a - (a @ u) @ u.T, g - (g @ v) @ v.T
            pushes[name] = torch.einsum("to,ti->oi", g, a)
        length = math.sqrt(sum(float(g.double().square().sum()) for g in pushes.values()))
        with torch.no_grad():
            for name, g in pushes.items():
                model.get_parameter(f"{name}.weight").sub_(lr * g / length)
        weights = [model.get_parameter(f"{name}.weight") for name in layers]
        apart = (seen(model, task.retain)[2] - then).norm(dim=2)
        held = ((apart * kept).sum(1) / kept.sum(1)).mean() / then.norm(dim=2)[kept].mean()
        for p, g in zip(weights, torch.autograd.grad(held, weights), strict=True):
            p.data.sub_(retain_lr * g)
    byhand.assert_same(task, found, model, atol=1e-5)


def test_blocks_come_in_order() -> None:
    with pytest.raises(RequestError, match="two numbers from 0 to 3"):
        byhand.run("cir", tiny.lm(), blocks=(2, 1))


def test_the_budget_ends_it() -> None:
    outcome = byhand.outcome("cir", tiny.lm(), inputs=2, outputs=2, lr=0.5, steps=50, batch_size=8, budget=0.05)
    assert outcome.cost.steps < 10 and any("ended after a pass" in note for note in outcome.notes)

"""Minimalist erasure: the gates by their arithmetic, one step by hand, and weights that answer as the gates did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from diffusion_folders import opened
from torch import nn

from lethe.core.modules import hooked
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.diffusion.minimalist import Gate, by_steps, concrete, layers_of


def test_golden_numbers() -> None:
    """λ = 0, u = ½: 1.2 · ½ − 0.1. λ = 0.83 ln 3: σ = ¾, 0.9 − 0.1. At u = 1 the logit is ln 3, at 0 it is −ln 3."""
    ln3 = torch.tensor(3.0).log()
    lamb = torch.stack([ln3 * 0, 0.83 * ln3, -0.83 * ln3, 3 * ln3, -3 * ln3])
    assert torch.allclose(concrete(lamb, torch.full((5,), 0.5)), torch.tensor([0.5, 0.8, 0.2, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(concrete(0.83 * ln3 - ln3, torch.ones(())), torch.tensor(0.8), atol=1e-6)
    assert torch.allclose(concrete(ln3 - 0.83 * ln3, torch.zeros(())), torch.tensor(0.2), atol=1e-6)


def test_units_of_each_kind() -> None:
    """Of SD3's kind: the last block has no text stream behind its attention, so no feed-forward layer and no gate of it there."""
    network = opened("sd3").original
    found = {unit: {name.split(".", 1)[1]: parts[1:] for name, parts in layers_of(network, [unit]).items()}
             for unit in ("ff", "norm", "heads")}
    assert found["ff"] == {"0.ff.net.2": (False, 1), "0.ff_context.net.2": (False, 1), "1.ff.net.2": (False, 1)}
    assert found["norm"] == {f"{i}.norm1_context.linear": (True, 1) for i in (0, 1)}
    assert found["heads"] == {f"{i}.attn.{out}": (False, 8) for i, out in ((0, "to_out.0"), (0, "to_add_out"), (1, "to_out.0"))}
    with pytest.raises(RequestError, match="nothing was started"):
        byhand.run("minimalist", byhand.diffusion(), units=("norm",))


@pytest.mark.parametrize("kind", [pytest.param("unet", marks=pytest.mark.slow), "sd3"])
def test_a_step_by_hand(kind: str, tmp_path: Path) -> None:
    """Gradients of whole trajectories, an AdamW step of each λ, and the weights that are left, as diffusers reads them."""
    task = byhand.diffusion() if kind == "unet" else opened(kind)
    options: dict[str, Any] = {"units": ("ff", "norm", "heads"), "start": 0.1, "lr": 0.4, "beta": 0.3, "sampler_steps": 2,
                               "anchor": "square", "batch_size": 3, "start_guidance": 1.5}
    outcome = byhand.outcome("minimalist", task, steps=1, **options)
    found = outcome.model
    twin: Any = byhand.trainable(task.original)
    layers = layers_of(twin, options["units"])
    lambdas = {name: torch.full((layer.out_features if rows else layer.in_features // size,), 0.1, requires_grad=True)
               for name, (layer, rows, size) in layers.items()}
    drawn: dict[str, torch.Tensor] = {}
    for name, (layer, rows, size) in layers.items():
        if rows:
            layer.register_forward_hook(lambda _, __, out, name=name: out * drawn[name])
        else:
            layer.register_forward_pre_hook(lambda _, args, name=name, size=size: args[0] * drawn[name].repeat_interleave(size))
    byhand.reseed()
    for term, weight, prompts in (("erase", 1.0, task.prompts["forget"]), ("keep", 0.3, task.prompts["keep"])):
        repeated = [prompts[i % len(prompts)] for i in range(3)]
        aims = [p.replace("disk", "square") for p in repeated]
        order = byhand.order(Split({"tokens": torch.zeros(3, 1)}, "prompts"), term)
        seed = int(torch.randint(2**31, ()))
        with torch.no_grad():
            *_, (_, aim) = task.denoise(task.original, task.text(task.tokens(aims)[order]), seed, 2, 1.5)
        for name, lamb in lambdas.items():
            u = torch.rand(lamb.shape)
            drawn[name] = (1.2 * torch.sigmoid((((u + 0.5) / (1.5 - u)).log() + lamb) / 0.83) - 0.1).clamp(0, 1)
        *_, (_, x) = task.denoise(twin, task.text(task.tokens(repeated)[order]), seed, 2, 1.5)
        (weight * byhand.apart(x, aim)).backward()
    count = out = 0
    for name, (layer, rows, size) in layers.items():
        grad = lambdas[name].grad
        assert grad is not None
        lamb = (lambdas[name] * (1 - 0.4 * 0.01) - 0.4 * grad.sign()).detach()   # a first step of Adam
        kept = (lamb >= 0).float()
        sure = grad.abs() > 1e-6   # where rounding does not decide the sign
        for part, p in layer.named_parameters():
            now, mask = found.get_parameter(f"{name}.{part}"), kept.repeat_interleave(size)
            if part == "bias" and not rows:
                assert torch.equal(now, p)
                continue
            mask, here = (one.unsqueeze(1) if rows and p.ndim == 2 else one for one in (mask, sure.repeat_interleave(size)))
            assert torch.equal(torch.where(here, now, 0), torch.where(here, p * mask, 0))
        count, out = count + len(kept), out + int((1 - kept).sum())
    assert 0.1 * count < out < 0.9 * count
    if kind == "sd3":
        from diffusers import DiffusionPipeline

        pipe: Any = DiffusionPipeline.from_pretrained(outcome.save(tmp_path / "out"))
        read = pipe.transformer.state_dict()
        assert all(torch.equal(read[name], value) for name, value in found.state_dict().items())
    same = [name for name, p in found.named_parameters() if name.rsplit(".", 1)[0] not in layers]
    assert all(torch.equal(found.get_parameter(name), task.original.get_parameter(name)) for name in same)


def test_weights_that_are_left_answer_as_the_gates_did() -> None:
    task = opened("sd3")
    network: Any = byhand.trainable(task.original)
    x, t, text = torch.randn(2, *task.shape), torch.tensor([900, 300]), task.text(task.tokens(["a red disk", "a cross"]))
    layers = layers_of(network, ("ff", "norm", "heads"))
    gates = {name: Gate(*layer, 0.0).eval() for name, layer in layers.items()}
    with torch.no_grad():
        for gate in gates.values():
            nn.init.normal_(gate.lamb)
        with hooked(*(gate.hook(layers[name][0]) for name, gate in gates.items())):
            masked = task.predict_noise(network, x, t, text)
        plain = task.predict_noise(network, x, t, text)
        for name, gate in gates.items():
            for part, p in gate.left(layers[name][0]).items():
                layers[name][0].get_parameter(part).copy_(p)
        left = task.predict_noise(network, x, t, text)
    assert torch.allclose(left, masked, atol=1e-6) and not torch.allclose(left, plain, atol=1e-3)


def test_a_call_is_worked_out_again_on_the_way_back() -> None:
    class Twice(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor, times: float) -> torch.Tensor:
            self.calls += 1
            return (times * x).square()

    network, x = Twice(), torch.ones(1, requires_grad=True)
    with by_steps(network):
        y = network(x, times=3.0)
        assert network.calls == 1
        y.backward()
    assert network.calls == 2 and x.grad is not None and x.grad.tolist() == [18.0]
    network(x, times=3.0).backward()
    assert network.calls == 3 and x.grad.tolist() == [36.0]

"""SPM: what the adapters are, two steps of both terms, and the file that diffusers reads."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import torch
from byhand import apart, said
from tiny import TASKS

from lethe.api import forget
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.diffusion.spm import SPM, gaussian_like, membranes


def test_gaussian_states_are_as_long_as_text() -> None:
    text = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    ratio = gaussian_like(text).flatten(1).norm(dim=1) / text.flatten(1).norm(dim=1)
    assert 0.8 <= float(ratio.min()) < 0.87 and 1.13 < float(ratio.max()) <= 1.2001


def test_a_network_without_transformer_blocks_is_refused() -> None:
    with pytest.raises(RequestError, match="nowhere to place adapters"):
        membranes(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("held", ["noise", "prompts"])
def test_a_step_by_hand(held: str) -> None:
    """v_d is 0 at first: v_s does not move, what is held differs by nothing, and Adam's step on v_d is that of ∇W v_s."""
    task, eta, lamb = byhand.diffusion(), 0.8, 2.0
    prompts = task.prompts["forget"]
    text, other = (task.text(task.tokens(some)) for some in (prompts, [p.replace("disk", "square") for p in prompts]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "spm"), 2, 1.5):
            if t >= 0:
                cond, free = (said(task.original, x, t, one) for one in (text, other))
                rows.append((x, torch.full((2,), t), text, free - eta * (cond - free)))
    found = byhand.run("spm", task, anchor="square", eta=eta, lamb=lamb, held=held, anchors=3, steps=1, lr=0.01, batch_size=4,
                       trajectories=2, sampler_steps=2, start_guidance=1.5)
    one, two = (byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), name) for name in ("erase", "hold"))
    x, t, c, goal = (torch.cat(column) for column in zip(*rows, strict=True))
    byhand.reseed()
    here = two.repeat_interleave(3)
    keep = task.text(task.tokens(task.prompts["keep"]))
    e = keep[torch.randint(len(keep), (12,))] if held == "prompts" else gaussian_like(c[here])

    twin = byhand.trainable(task.original)
    loss = apart(said(twin, x[one], t[one], c[one]), goal[one])
    before = said(twin, x[here], t[here], e).detach()
    loss = loss + lamb * apart(said(twin, x[here], t[here], e), before)
    loss.backward()
    moved = dict(found.named_parameters())
    layers = [name.removesuffix(".lora_A.default.weight") for name in moved if name.endswith("lora_A.default.weight")]
    assert len(layers) == len(membranes(task.original)) and all("transformer_blocks" in name for name in layers)
    agree = total = 0
    for name in layers:
        down, up = moved[f"{name}.lora_A.default.weight"].detach(), moved[f"{name}.lora_B.default.weight"].detach()
        assert torch.equal(moved[f"{name}.base_layer.weight"], task.original.get_parameter(f"{name}.weight"))
        slope = twin.get_parameter(f"{name}.weight").grad
        assert slope is not None and down.shape[0] == up.shape[1] == 1
        inner = slope @ down.T
        wanted = -0.01 * inner / (inner.abs() + 1e-8)
        agree, total = agree + int(torch.isclose(up, wanted, atol=1e-4).sum()), total + up.numel()
    assert agree > 0.98 * total   # the rest: gradients near 0, and layers after the last that matters


@pytest.mark.slow
def test_diffusers_reads_the_adapter(tmp_path: Path) -> None:
    task = TASKS["diffusion"]()
    outcome = forget(task, SPM(steps=2, trajectories=2, sampler_steps=2, start_guidance=1.0, lr=1e-2), progress=False)
    assert outcome.kind == "adapter"
    folder = outcome.save(tmp_path / "out")
    assert (folder / "pytorch_lora_weights.safetensors").exists() and (folder / "adapter" / "adapter_model.safetensors").exists()

"""DyME: the overlaps by hand, two steps beside a list, what is no list, and that two concepts' adapters part."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import torch
from byhand import apart, said
from safetensors.torch import save_file
from torch.func import functional_call

from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import DataError, RequestError
from lethe.methods.diffusion.dyme import feature_overlap, listed, weight_overlap

SMALL = {"rank": 2, "batch_size": 4, "trajectories": 2, "sampler_steps": 2, "start_guidance": 1.0, "lr": 0.01}


def test_golden_overlap_of_features() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(feature_overlap(a[:1], b[:1])) == pytest.approx(9 / 25) and float(feature_overlap(a, b)) == pytest.approx(9 / 29)
    assert float(feature_overlap(a, -3 * a)) == pytest.approx(1.0) and float(feature_overlap(0 * a, b)) == 0.0


def test_golden_overlap_of_weights() -> None:
    one = (torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]))
    other = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0], [1.0]]))
    assert float(weight_overlap(one, other)) == pytest.approx(9 / 50)
    assert float(weight_overlap(one, one)) == 1.0 and float(weight_overlap((one[0], 0 * one[1]), one)) == 0.5


def beside(folder: Path, task: byhand.Diffusion) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A list of one concept, whose adapter stands on all layers but the first."""
    rng, held = torch.Generator().manual_seed(1), {}
    layers = task.attention_projections(task.original)
    for name, layer in list(layers.items())[1:]:
        size = layer.weight.shape
        held[name] = (torch.randn(3, size[1], generator=rng), torch.randn(size[0], 3, generator=rng))
    folder.mkdir()
    save_file({f"unet.{name}.lora_{part}.weight": tensor for name, both in held.items() for part, tensor in zip("AB", both,
              strict=True)}, folder / "cross.safetensors")
    return held


@pytest.mark.parametrize(("features", "weights"), [
    (0.3, 0.2), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((0.3, 0.0), (0.0, 0.2), (None, None)))])
def test_two_steps_by_hand(tmp_path: Path, features: float | None, weights: float | None) -> None:
    """B is 0 at first, so that step one sees the overlap of A alone, and step two everything. None: no list."""
    task, eta = byhand.diffusion(), 0.8
    old = beside(tmp_path / "list", task)
    given = {} if features is None else {"others": str(tmp_path / "list"), "features": features, "weights": weights}
    found, first = (byhand.run("dyme", task, eta=eta, steps=steps, **{**SMALL, "lr": lr}, **given)
                    for steps, lr in ((2, 0.01), (1, 1e-12)))
    prompts = task.prompts["forget"]
    text, none = (task.text(task.tokens(some)) for some in (prompts, ["", ""]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "dyme"), 2, 1.0):
            if t >= 0:
                cond, free = (said(task.original, x, t, one) for one in (text, none))
                rows.append((x, torch.full((2,), t), text, free - eta * (cond - free)))
    x, t, c, goal = (torch.cat(column) for column in zip(*rows, strict=True))
    names = list(task.attention_projections(task.original))
    state = dict(first.named_parameters())
    adapters = {name: tuple(state[f"{name}.lora_{part}.default.weight"].detach().clone().requires_grad_() for part in "AB")
                for name in names}
    for _, up in adapters.values():
        assert float(up.detach().abs().max()) < 1e-9
        up.data.zero_()
    optimiser = torch.optim.AdamW([p for both in adapters.values() for p in both], 0.01, weight_decay=0.01)
    weight = {name: task.original.get_parameter(f"{name}.weight") for name in names}
    for step in range(2):
        rows_ = byhand.order(Split({"image": torch.zeros(4, 1)}, "points"), "erase", step=step)
        changed = {f"{name}.weight": weight[name].detach() + up @ down for name, (down, up) in adapters.items()}
        out = functional_call(task.original, changed, (x[rows_], t[rows_]), {"encoder_hidden_states": c[rows_]})[0]
        loss = apart(out, goal[rows_])
        for name, other in old.items() if features is not None else ():
            down, up = adapters[name]
            h = c[rows_]
            loss = loss + features * feature_overlap(h @ (up @ down).T, h @ (other[1] @ other[0]).T) / len(old)
            loss = loss + (weights or 0.0) * weight_overlap((down, up), other) / len(old)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = dict(found.named_parameters())
    agree = total = 0
    for name in names:
        for part, own in zip("AB", adapters[name], strict=True):
            new = moved[f"{name}.lora_{part}.default.weight"].detach()
            agree, total = agree + int(torch.isclose(new, own.detach(), atol=1e-4).sum()), total + new.numel()
    assert agree > 0.98 * total   # the rest: gradients near 0, whose sign Adam takes


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    task = byhand.diffusion()
    layers = task.attention_projections(task.original)
    with pytest.raises(RequestError, match="holds no adapter"):
        listed(str(tmp_path), layers, "cpu")
    save_file({"unet.elsewhere.lora_A.weight": torch.zeros(1, 2), "unet.elsewhere.lora_B.weight": torch.zeros(2, 1)},
              tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match="changes no layer"):
        listed(str(tmp_path), layers, "cpu")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="cannot be read as the adapter"):
        listed(str(tmp_path), layers, "cpu")

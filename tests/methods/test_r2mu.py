"""R²MU: two steps by hand on traces that the original writes, what is refused, and that the thinking turns."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import RequestError

CUE = " Think:"


def hidden(m: nn.Module, split: Split, layer: int) -> Tensor:
    caught: list[Tensor] = []
    handle = m.model.layers[layer].register_forward_hook(
        lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
    m(input_ids=split.columns["ids"])
    handle.remove()
    return caught[0]


def apart(split: Split, now: Tensor, to: Tensor, trace: bool) -> Tensor:
    real = split.columns["labels"] != -100 if trace else torch.arange(now.shape[1]) < split.columns["length"].unsqueeze(1)
    return (((now - to) ** 2).mean(2) * real).sum(1).div(real.sum(1)).mean()


def test_two_steps_by_hand() -> None:
    """Traces of all of F and of five prompts of R; from the second step on the held terms have a gradient."""
    task, layer, c, alpha, lam = tiny.lm(), 1, 5.0, 3.0, 2.0
    kept = list(task.retain.column("prompt"))
    some = sorted(torch.randperm(len(kept), generator=generator(0, "r2mu-anchors"))[:5].tolist())

    def thought(prompts: list[str]) -> Split:
        asked = [prompt + CUE for prompt in prompts]
        return task.encode(asked, task.generate(task.original, asked, 8))

    traces, anchors = thought(list(task.forget.column("prompt"))), thought([kept[i] for i in some])
    r = torch.rand(32, generator=generator(0, "r2mu"))
    u = c * r / r.square().sum().sqrt()
    with torch.no_grad():
        before, so_far = hidden(task.original, task.retain, layer), hidden(task.original, anchors, layer)
    model = byhand.trainable(task.original)
    moving = [model.get_parameter(f"model.layers.{i}.mlp.down_proj.weight") for i in (0, 1)]
    adam = torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.1)
    for _ in range(2):
        adam.zero_grad()
        (apart(task.forget, hidden(model, task.forget, layer), u, False) + apart(traces, hidden(model, traces, layer), u, True)
         + alpha * apart(task.retain, hidden(model, task.retain, layer), before, False)
         + lam * apart(anchors, hidden(model, anchors, layer), so_far, True)).backward()
        adam.step()
    found = byhand.run("r2mu", task, layer=layer, coefficient=c, alpha=alpha, reasoning=lam, cue=CUE, longest=8, anchors=5,
                       lr=1e-3, weight_decay=0.1, steps=2)
    byhand.assert_same(task, found, model, atol=2e-6)


def test_what_has_no_room_for_a_trace_is_refused() -> None:
    with pytest.raises(RequestError, match="no room for a trace"):
        byhand.run("r2mu", tiny.lm(), cue="so " * 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_thinking_turns_too(seed: int) -> None:
    """Mean cosine to u of the hidden states in the traces: R²MU turns them on F and not on R, RMU less on F.

    Each method is held against the u of its own seed.
    """
    task, common = tiny.lm(), {"layer": 1, "coefficient": 4.0, "alpha": 2.0, "lr": 1e-2, "steps": 80, "batch_size": 8}
    models = {"r2mu": lethe.forget(task, "r2mu", **common, cue=CUE, longest=12, seed=seed, progress=False, watchdog=False).model,
              "rmu": lethe.forget(task, "rmu", **common, seed=seed, progress=False, watchdog=False).model}

    def cosine(name: str, part: str) -> float:
        asked = [prompt + CUE for prompt in task.splits[part].column("prompt")]
        split = task.encode(asked, task.generate(task.original, asked, 12))
        u = torch.rand(32, generator=generator(seed, name))
        with torch.no_grad():
            states = hidden(models[name], split, 1)[split.columns["labels"] != -100]
        return float(torch.cosine_similarity(states, u, dim=-1).mean())

    seen = {(name, part): cosine(name, part) for name in models for part in ("forget", "retain")}
    assert seen["r2mu", "forget"] > 0.7, seen
    assert seen["rmu", "forget"] < seen["r2mu", "forget"] - 0.1, seen
    assert seen["r2mu", "retain"] < seen["r2mu", "forget"] - 0.3, seen

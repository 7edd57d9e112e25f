"""RMU: golden numbers, what moves and what does not, and that the early exit changes nothing."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch

import lethe
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import OutOfRange
from lethe.maths.steering import control_vector, default_layer, steering_loss
from lethe.models.lm import decoder


def test_golden() -> None:
    hidden = torch.tensor([[[1.0, 1.0], [9.0, 9.0]], [[3.0, 1.0], [5.0, 1.0]]])
    target = torch.tensor([3.0, 1.0])
    # first: one token counts, (2² + 0²)/2 = 2; second: two tokens, (0 + (2² + 0)/2)/2 = 1
    counts = torch.tensor([[True, False], [True, True]])
    assert steering_loss(hidden, target, counts).tolist() == [2.0, 1.0]
    assert steering_loss(hidden, hidden, counts).tolist() == [0.0, 0.0]


def test_control_vector_is_a_function_of_the_seed() -> None:
    u = control_vector(64, 20.0, generator(3, "rmu"))
    assert torch.equal(u, control_vector(64, 20.0, generator(3, "rmu")))
    assert not torch.equal(u, control_vector(64, 20.0, generator(4, "rmu")))
    torch.testing.assert_close(u.norm(), torch.tensor(20.0))
    assert (u >= 0).all()   # r is uniform in [0, 1)


def test_default_layer() -> None:
    assert [default_layer(n) for n in (32, 16, 12, 4, 3, 2, 1)] == [7, 4, 3, 2, 2, 1, 0]


OPTIONS = {"layer": 1, "coefficient": 4.0, "alpha": 1.0, "lr": 1e-2, "steps": 60, "weight_decay": 0.0, "watchdog": False,
           "progress": False}


def test_only_three_matrices_move_and_hidden_states_turn() -> None:
    task = tiny.lm()
    model = lethe.forget(task, "rmu", **OPTIONS).model
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, task.original.get_parameter(name))]
    assert moved == ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    u = control_vector(32, 4.0, generator(0, "rmu"))

    def cosine(m: torch.nn.Module, split) -> float:
        batch = split.batch(range(8))
        mask = torch.arange(batch.ids.shape[1]) < batch.length.unsqueeze(1)
        with torch.no_grad():
            return float(torch.cosine_similarity(task.hidden_states(m, batch, 1)[mask], u, dim=-1).mean())

    assert cosine(model, task.forget) > 0.8 > 0.3 > abs(cosine(task.original, task.forget))


def test_early_exit_gives_the_updates_of_the_full_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.lm()
    quick = lethe.forget(task, "rmu", **OPTIONS).model

    def whole(model: torch.nn.Module, ids: torch.Tensor, layer: int) -> torch.Tensor:
        return model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[layer + 1]

    monkeypatch.setattr(decoder, "hidden_after", whole)
    slow = lethe.forget(task, "rmu", **OPTIONS).model
    for a, b in zip(quick.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_where_modifier_replaces_the_choice_of_weights() -> None:
    task = tiny.lm()
    where = {"name": "names", "patterns": ["*layers.0.self_attn*"]}
    model = lethe.forget(task, "rmu", modifiers={"where": where}, **OPTIONS).model
    moved = {name.split(".mlp")[0] for name, p in model.named_parameters()
             if not torch.equal(p, task.original.get_parameter(name))}
    assert moved and all("layers.0.self_attn" in name for name in moved)


def test_absent_layer_is_refused() -> None:
    with pytest.raises(OutOfRange, match="layer 5 does not exist"):
        lethe.forget(tiny.lm(), "rmu", layer=5, progress=False)


@pytest.mark.parametrize("tokens", ["all", "answer"])
def test_three_steps_by_hand(tokens: str) -> None:
    """The three down projections up to block ℓ, by AdamW; from the second step on the retain term has a gradient.

    OpenUnlearning divides [b] by [b, 1] and averages the b × b that this gives: with answers of different lengths, as here,
    that is another step.
    """
    task, layer, c, alpha = tiny.lm(), 2, 5.0, 30.0
    model = byhand.trainable(task.original)
    r = torch.rand(32, generator=generator(0, "rmu"))
    u = c * r / r.square().sum().sqrt()

    def hidden(m: torch.nn.Module, split: Split) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        handle = m.model.layers[layer].register_forward_hook(
            lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
        m(input_ids=split.columns["ids"])
        handle.remove()
        return caught[0]

    def distance(split: Split, now: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        real = torch.arange(now.shape[1]) < split.columns["length"].unsqueeze(1)
        if tokens == "answer":
            real = split.columns["labels"] != -100
        return (((now - to) ** 2).mean(2) * real).sum(1).div(real.sum(1)).mean()

    with torch.no_grad():
        before = hidden(task.original, task.retain)
    moving = [model.get_parameter(f"model.layers.{i}.mlp.down_proj.weight") for i in (0, 1, 2)]
    adam = torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        adam.zero_grad()
        (distance(task.forget, hidden(model, task.forget), u)
         + alpha * distance(task.retain, hidden(model, task.retain), before)).backward()
        adam.step()
    found = byhand.run("rmu", task, layer=layer, coefficient=c, alpha=alpha, lr=1e-3, weight_decay=0.1, steps=3, tokens=tokens)
    moved = [name for name, p in found.named_parameters() if not torch.equal(p, task.original.get_parameter(name))]
    assert moved == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1, 2)]
    byhand.assert_same(task, found, model, atol=2e-6)

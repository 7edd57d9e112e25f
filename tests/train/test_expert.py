"""where=expert: what is chosen by hand, what moves and what cannot, and models that are no mixture."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.mixtures import mixtures
from lethe.errors import RequestError

KINDS = ("mixtral", "qwen2_moe", "gpt_oss")


def routing(model: Any, split: Any) -> tuple[list[Tensor], Tensor]:
    """Softmax of the routers at every token, block by block, and which tokens are no pads."""
    seen: list[Tensor] = []

    def keep(router: Any, args: tuple[Tensor]) -> None:
        bias = getattr(router, "bias", None)
        seen.append((args[0].flatten(0, -2) @ router.weight.T + (0 if bias is None else bias)).softmax(-1))

    handles = [block.router.register_forward_pre_hook(keep) for block in mixtures(model)]
    with torch.no_grad():
        model.eval()(input_ids=split.columns["ids"])
    for handle in handles:
        handle.remove()
    width = split.columns["ids"].shape[1]
    return seen, (torch.arange(width) < split.columns["length"].unsqueeze(1)).flatten()


@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_moves(kind: str) -> None:
    """By AdamW with weight decay: other experts, routers and layers stay bit for bit, and so does every choice of the block."""
    task = tiny.mixture(kind)
    probabilities, real = routing(task.original, task.forget)
    means = torch.stack([p[real].mean(0) for p in probabilities])
    block, expert = divmod(int(means.argmax()), means.shape[1])
    outcome = lethe.forget(task, "npo", lr=1e-2, epochs=1, warmup=0, modifiers={"where": "expert"}, watchdog=False,
                           progress=False)
    inside = f"model.layers.{block}.mlp.experts."
    for name, p in outcome.model.named_parameters():
        old = task.original.get_parameter(name)
        if name.startswith(inside):
            assert [i for i in range(4) if not torch.equal(p[i], old[i])] == [expert], name
        else:
            assert torch.equal(p, old), name
    after, _ = routing(outcome.model, task.retain)
    assert torch.equal(after[block], routing(task.original, task.retain)[0][block])
    assert any(f"expert {expert} of model.layers.{block}.mlp" in note for note in outcome.notes)


def test_two_experts_are_chosen_alike_in_passes_of_any_size() -> None:
    task = tiny.mixture()
    probabilities, real = routing(task.original, task.forget)
    means = torch.stack([p[real].mean(0) for p in probabilities]).flatten()
    wanted = {divmod(int(i), 4) for i in means.topk(2).indices}
    for size in (1, 32):
        outcome = lethe.forget(task, "npo", lr=1e-2, epochs=1, warmup=0, watchdog=False, progress=False,
                               modifiers={"where": {"name": "expert", "experts": 2, "batch_size": size}})
        moved = {(block, i) for block in range(3) for i in range(4) for name, p in outcome.model.named_parameters()
                 if name.startswith(f"model.layers.{block}.mlp.experts.")
                 and not torch.equal(p[i], task.original.get_parameter(name)[i])}
        assert moved == wanted


def test_a_model_without_experts_is_refused() -> None:
    with pytest.raises(RequestError, match="LlamaForCausalLM is none"):
        lethe.forget(tiny.lm(), "npo", modifiers={"where": "expert"}, progress=False)


@pytest.mark.slow
def test_the_expert_that_is_used_forgets_more_than_the_one_that_is_not() -> None:
    task = tiny.mixture(taught=True)
    probabilities, real = routing(task.original, task.forget)
    means = torch.stack([p[real].mean(0) for p in probabilities])
    block, idle = divmod(int(means.argmin()), 4)

    class Idle:
        """The least used expert."""

        def select(self, model: nn.Module, task: Any, loop: Any) -> Any:
            from lethe.train.modifiers.where import Selection

            params, masks = {}, {}
            for name, p, _ in mixtures(model)[block].of_expert(idle):
                params[name], masks[name] = p, torch.zeros_like(p, dtype=torch.bool)
                masks[name][idle] = True
            return Selection(params, masks)

    def forgotten(where: Any) -> float:
        model = lethe.forget(task, "npo", lr=1e-2, epochs=20, warmup=0, modifiers={"where": where}, watchdog=False,
                             progress=False).model
        with torch.no_grad():
            return float(task.score(model.eval(), task.forget.batch(range(len(task.forget)))).mean())

    assert forgotten("expert") < forgotten(Idle()) - 0.05

"""Interpret then deactivate: its sets and its gate by their arithmetic, a guard worked out in loops, and prompts left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from torch import Tensor

from lethe.audits.diffusion.unlearndiffatk import prefixed_text
from lethe.core.guard import as_served
from lethe.errors import RequestError
from lethe.methods.guard.itd import Deactivated, real, share, turned, used

SMALL: dict[str, Any] = {"words": 24, "latents": 96, "k": 4, "epochs": 4, "lr": 0.01, "warmup": 2, "batch_size": 64}


def test_golden_numbers() -> None:
    assert real(torch.tensor([[5, 7, 9, 9], [5, 9, 9, 9]]), 9).int().tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]
    codes, both = torch.tensor([[[3.0, 0.0, 1.0], [0.0, 2.0, 0.0]]]), torch.tensor([[True, True]])
    for count, wanted in ((1, [True, False, False]), (2, [True, True, False]), (5, [True, True, True])):
        assert used(codes, both, count).tolist() == [wanted]
    assert used(codes, torch.tensor([[False, True]]), 5).tolist() == [[False, True, False]]
    assert turned(torch.tensor([[[2.0], [2.0]]]), torch.tensor([[1.0, 0.0]]), -8.0).tolist() == [[[0, 0], [-18, 0]]]
    change, states = torch.tensor([[[0.0], [3.0], [9.0]]]), torch.tensor([[[1.0], [2.0], [5.0]]])
    assert share(change, states, torch.tensor([[False, True, False]])).tolist() == [2.25]


def behind_block(encoder: Any, ids: Tensor, change: Any = None) -> tuple[Tensor, Tensor]:
    """States behind the last block, and what the encoder says."""
    seen: list[Tensor] = []

    def hook(_: Any, __: Any, out: Tensor) -> Tensor:
        seen.append(out)
        return out if change is None else change(out)

    handle = encoder.encoder.layers[1].register_forward_hook(hook)
    with torch.no_grad():
        said = encoder(ids)[0]
    handle.remove()
    return seen[0], said


def test_a_guard_by_hand(tmp_path: Path) -> None:
    task, tau, most = byhand.diffusion(), -3.0, 6
    encoder = task.pipeline.text_encoder
    outcome = byhand.outcome("itd", task, tau=tau, gate=0.5, features=most, **SMALL)
    guard: Any = outcome.served
    assert isinstance(guard, Deactivated) and outcome.kind == "guard"

    def codes(h: Tensor) -> Tensor:
        """z of one token."""
        before = guard.reads @ ((h - guard.centre) / guard.scale) + guard.bias
        z = torch.zeros_like(before)
        for j in before.argsort(descending=True)[:4].tolist():
            z[j] = max(float(before[j]), 0.0)
        return z

    def real_places(ids: Tensor) -> range:
        return range(1, ids.tolist().index(guard.end) + 1)

    def directions(prompt: str) -> set[int]:
        ids = task.tokens([prompt])
        h = behind_block(encoder, ids)[0][0]
        largest = torch.stack([codes(h[i]) for i in real_places(ids[0])]).amax(0)
        return {j for j in largest.argsort(descending=True)[:most].tolist() if largest[j] > 0}

    gone, kept = task.prompts["forget"], [*task.prompts["keep"], ""]
    alone = set.union(*map(directions, gone)) - set.union(*map(directions, kept))
    assert alone and guard.latents.tolist() == sorted(alone)
    assert torch.allclose(guard.says.norm(dim=1), torch.ones(len(alone)), atol=1e-5)

    def change(h: Tensor) -> Tensor:
        new = torch.zeros_like(h)
        for i in range(1, len(h)):
            for row, j in enumerate(guard.latents.tolist()):
                new[i] += guard.scale * (tau - 1) * codes(h[i])[j] * guard.says[row]
        return new

    def part(prompt: str) -> float:
        ids = task.tokens([prompt])
        h = behind_block(encoder, ids)[0][0]
        places = list(real_places(ids[0]))
        return float(change(h)[places].square().sum() / h[places].square().sum())

    assert guard.least == pytest.approx(0.5 * min(p for p in map(part, gone) if p > 0), rel=1e-4)
    asked = [*gone, *kept, "a blue disk", "a green triangle"]
    turns = [part(prompt) >= guard.least for prompt in asked]
    assert any(turns) and not all(turns)
    with torch.no_grad():
        found, before = task.text(task.tokens(asked), guard), task.text(task.tokens(asked))
    for i, prompt in enumerate(asked):
        wanted = behind_block(encoder, task.tokens([prompt]), lambda h: h + change(h[0]))[1][0] if turns[i] else before[i]
        assert torch.allclose(found[i], wanted, atol=1e-4) and torch.equal(found[i], before[i]) != turns[i]

    left = [prompt for prompt, turn in zip(asked, turns, strict=True) if not turn]
    assert torch.equal(task.sample(guard, left, seed=1), task.sample(task.original, left, seed=1))
    changed = [prompt for prompt, turn in zip(asked, turns, strict=True) if turn]
    drawn = task.sample(guard, changed, seed=1)
    assert not torch.equal(drawn, task.sample(task.original, changed, seed=1))
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    assert isinstance(again, Deactivated) and torch.equal(task.sample(again, changed, seed=1), drawn)


def test_searched_vectors_are_read_behind_the_guard_too() -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("itd", task, gate=0.0, **SMALL).answering
    tokens, prefix = task.tokens(["a red disk"]), task.tokens(["cross"])[0, 1:2]
    vectors = task.pipeline.text_encoder.get_input_embeddings().weight[prefix].detach()
    with torch.no_grad():
        said, same = prefixed_text(task, guard, tokens, prefix), prefixed_text(task, guard, tokens, prefix, vectors)
        assert torch.allclose(said, same, atol=1e-5)
        assert not torch.allclose(said, prefixed_text(task, task.original, tokens, prefix), atol=1e-3)


def test_without_change_pictures_are_the_original_s() -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("itd", task, tau=0.999999, **SMALL).answering
    drawn, plain = (task.sample(model, task.prompts["forget"], seed=1, steps=2) for model in (guard, task.original))
    assert torch.allclose(drawn, plain, atol=1e-3)


@pytest.mark.parametrize(("options", "said"), [({"block": 2}, "has 2 blocks"), ({"features": 1, "latents": 1, "k": 1}, "alone")])
def test_what_cannot_be_turned_off(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        byhand.outcome("itd", byhand.diffusion(), **{**SMALL, **options})

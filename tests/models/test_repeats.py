"""Greedy answers in blocks against one token after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_architectures as architectures
import pytest
import tiny
import torch

from lethe.core.modules import evaluating
from lethe.core.sequences import encode_prompts
from lethe.models.lm import held, repeats
from lethe.models.lm import open as lm


def test_what_followed_before_is_proposed() -> None:
    assert repeats.proposed([9, 1, 2, 3, 4, 1, 2, 3], 6) == [4, 1, 2, 3, 4, 1]
    assert repeats.proposed([1, 1, 1, 1], 3) == [1, 1, 1]
    assert repeats.proposed([1, 2, 3, 4], 3) == [] == repeats.proposed([1, 2], 3)


@pytest.mark.parametrize("limit", [10**6, 30])
def test_blocks_say_what_single_tokens_say(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = tiny.lm()
    model, read = task.build(5).eval(), []   # random weights go round in circles
    caps, passed = [40, 40, 7, 40, 1, 40], repeats._passed
    monkeypatch.setattr(repeats, "_passed", lambda *given: read.append(passed(*given)) or read[-1])
    prompts = encode_prompts([*task.retain.meta["prompt"][:5], "What?"], task.tokenizer, task.form)
    with evaluating(model):
        assert repeats.can(model, 0)
        made = repeats.continued(model, prompts, [2], 0, caps, limit)
    want = [architectures.argmax(model, prompt, count, [2]) for prompt, count in zip(prompts, caps, strict=True)]
    assert [[token for token in row if token != 2] for row in made] == want
    assert limit < 100 or len(read) < 30   # passes for 40 tokens


@pytest.mark.parametrize("architecture", ["gpt_neo", "bloom"])   # windows; no positions
def test_caches_of_other_kinds_go_one_token_at_a_time(architecture: str, tmp_path: Path) -> None:
    task = lm.language_model(architectures.saved(architecture, tmp_path / "model"), forget=architectures.people(4))
    with evaluating(task.original), torch.no_grad():
        assert not repeats.can(task.original, 0)


def test_pads_and_what_does_not_count_are_hardly_read_or_held() -> None:
    task: Any = tiny.lm()
    model, texts, read = task.build(5).eval(), [[3] * n for n in (40, 4, 5, 39, 6)], []
    model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].shape), with_kwargs=True)
    with evaluating(model):
        going = held.Going(model, texts, 0)
        assert [tuple(shape) for shape in read] == [(3, 6), (2, 40)]
        going.read(torch.full((5, 8), 3))
        going.keep(torch.tensor([1, 8, 1, 1, 1]))
        going.leave([1, 4])
        assert going.mask.tolist() == [[True] * 12, [False] * 5 + [True] * 7]
        for block in ([[3], [5]], [[3] * 40, [3] * 40]):   # in the room, and beyond it
            logits = going.read(torch.tensor(block))
            going.keep(torch.tensor([1, 1]))
            want = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in ([3] * 13, [*[3] * 7, 5])]
            if len(block[0]) == 1:
                torch.testing.assert_close(logits[:, 0], torch.stack(want), atol=1e-5, rtol=1e-5)   # float32, other order
    assert all(layer.keys.shape[2] == going.mask.shape[1] == 53 for layer in going.cache.layers)

"""STEREO: the composed target, and a whole run of one round by hand: erase, search a word, erase both from the original again."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from byhand import apart, said
from torch import Tensor

from lethe.api import forget
from lethe.core.seeds import derive
from lethe.errors import RequestError
from lethe.methods.diffusion.stereo import STEREO, composed
from lethe.models.diffusion.open import text_to_image

SMALL: dict[str, Any] = {"batch_size": 4, "trajectories": 2, "sampler_steps": 2, "start_guidance": 1.5}
DECAY = 0.01


def test_the_composed_target() -> None:
    one = torch.ones(1, 1)
    assert float(composed(one, 2 * one, torch.stack([3 * one, 5 * one]), 1.0, 3.0)) == -7.0
    assert float(composed(one, 2 * one, torch.stack([3 * one]), 0.0, 0.8)) == pytest.approx(1 - 0.8 * 2)   # esd


def with_word(task: Any, tokens: Tensor, word: Tensor | None) -> Tensor:
    """Text states of "a … disk" with a vector for "disk": a letter that no prompt has lends its place in the vocabulary."""
    encoder: Any = task.pipeline.text_encoder
    name, table = next((name, p) for name, p in encoder.named_parameters() if "token_embedding" in name)
    if word is None:
        found: Tensor = encoder(tokens)[0].detach()
        return found
    rows = tokens.clone()
    rows[:, 3] = 2
    found = torch.func.functional_call(encoder, {name: torch.cat([table[:2], word.view(1, -1), table[3:]])}, (rows,))[0]
    return found


def test_one_round_by_hand() -> None:
    task, eta, p, q = byhand.diffusion(), 0.8, 0.6, 1.4
    tokens, table = task.tokens(task.prompts["forget"]), task.pipeline.text_encoder.get_input_embeddings().weight.detach()
    empty = task.text(task.tokens([""]))

    def visited(word: Tensor | None, *purpose: object) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            path = task.denoise(task.original, with_word(task, tokens, word), derive(0, "stereo", *purpose), 2, 1.5)
            rows = [(x, torch.full((2,), t)) for t, x in path if t >= 0]
        return torch.cat([x for x, _ in rows]), torch.cat([t for _, t in rows])

    twice = torch.cat([tokens, tokens])
    x, t = visited(None, "round", 0)
    own = with_word(task, twice, None)
    with torch.no_grad():
        cond, free = said(task.original, x, t, own), said(task.original, x, t, empty.expand(4, -1, -1))
    erased = byhand.adam(task.original, [lambda m: apart(said(m, x, t, own), free - eta * (cond - free))], lr=0.01,
                         weight_decay=DECAY, only="attn2")

    pictures = task.forget.columns
    rows, rng = byhand.order(task.forget, "word", call=1), byhand.drawn("word", call=1)
    when, noise = torch.randint(0, 1000, (4,), generator=rng), torch.randn(pictures["image"].shape, generator=rng)
    level = task.alphas_cumprod[when].view(-1, 1, 1, 1)
    noisy = level.sqrt() * pictures["image"][rows] + (1 - level).sqrt() * noise
    word = table[int(task.tokens(["cross"])[0, 1])].clone().requires_grad_(True)
    loss = apart(said(erased, noisy, when, with_word(task, pictures["tokens"][rows], word)), noise)
    (slope,) = torch.autograd.grad(loss, word)
    word = word.detach() * (1 - 0.05 * DECAY) - 0.05 * slope / (slope.abs() + 1e-8)

    kept = task.tokens([task.prompts["keep"][i % 3] for i in range(4)])
    parts = []
    for number, one in enumerate((None, word)):
        x, t = visited(one, "end", number)
        with torch.no_grad():
            free = said(task.original, x, t, empty.expand(4, -1, -1))
            away = torch.stack([said(task.original, x, t, with_word(task, twice, w)) - free for w in (None, word)]).mean(0)
            goal = free + p * (said(task.original, x, t, task.text(kept)) - free) - q * away
        parts.append((x, t, with_word(task, twice, one), goal))
    x, t, c, goal = (torch.cat(column) for column in zip(*parts, strict=True))
    wanted = byhand.adam(task.original, [lambda m: apart(said(m, x, t, c), goal)], lr=0.01, weight_decay=DECAY, only="attn2")
    found = byhand.run("stereo", task, rounds=1, eta=eta, keep=p, away=q, begin="cross", variant="x", word_steps=1, word_lr=0.05,
                       word_batch_size=4, steps=1, round_lr=0.01, lr=0.01, **{**SMALL, "batch_size": 8})
    byhand.assert_same(task, found, wanted, adam=True)
    assert "found_word" not in dict(found.named_parameters())


def test_what_cannot_be_done_is_said_before_anything_starts() -> None:
    task = byhand.diffusion()
    bare = text_to_image(task.pipeline, "disk", [], ["a red disk"], per_prompt=2, steps=2)
    with pytest.raises(RequestError, match="keep=0"):
        forget(bare, STEREO(), progress=False)

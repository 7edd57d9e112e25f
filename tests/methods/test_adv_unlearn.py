"""AdvUnlearn: two steps of both players by hand, what moves, and a network that brings its text encoder, saved and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from byhand import apart, said
from diffusion_folders import stable
from torch import Tensor

from lethe.api import forget
from lethe.core.families.diffusion import OWN, own_encoder
from lethe.core.seeds import derive
from lethe.errors import RequestError
from lethe.methods.diffusion.adv_unlearn import AdvUnlearn
from lethe.models.diffusion.files import load_pipeline, read_again
from lethe.models.diffusion.open import text_to_image

SMALL: dict[str, Any] = {"lr": 0.01, "batch_size": 4, "retain_batch_size": 4, "trajectories": 2, "sampler_steps": 2,
                         "start_guidance": 1.5}


def states(encoder: Any, tokens: Tensor, vectors: Tensor) -> Tensor:
    """Text states behind two words that the vocabulary lends: letters that no prompt has stand for the vectors."""
    name, ids = next((name, p) for name, p in encoder.named_parameters() if "token_embedding" in name)
    table = torch.cat([ids[:2], vectors, ids[4:]])
    rows = torch.cat([tokens[:, :1], torch.tensor([[2, 3]]).expand(len(tokens), -1), tokens[:, 1:-2]], 1)
    assert not bool(((tokens == 2) | (tokens == 3)).any()) and bool((rows[:, -1] == tokens[0, -1]).all())
    found: Tensor = torch.func.functional_call(encoder, {name: table}, (rows,))[0]
    return found


@pytest.mark.parametrize(("attack", "retain"), [("adam", "joint"), ("fast", "alternate")])
def test_two_steps_by_hand(attack: str, retain: str) -> None:
    task, eta, gamma = byhand.diffusion(), 0.8, 0.7
    tokens, kept = task.tokens(task.prompts["forget"]), task.tokens(task.prompts["keep"][:2])
    empty, model = task.text(task.tokens([""])), task.original

    def path(ids: Tensor, *purpose: str) -> list[tuple[int, Tensor]]:
        seed = derive(0, "adv_unlearn", *purpose)
        return [(t, x) for t, x in task.denoise(model, task.text(ids), seed, 2, 1.5) if t >= 0]

    with torch.no_grad():
        own = [(x, torch.full((2,), t), tokens, said(model, x, torch.full((2,), t), task.text(tokens)),
                said(model, x, torch.full((2,), t), empty.expand(2, -1, -1))) for t, x in path(tokens)]
        beside = [(x, torch.full((2,), t), kept, said(model, x, torch.full((2,), t), task.text(kept)))
                  for t, x in path(kept, "keep")]
    x, t, c, cond, free = map(torch.cat, zip(*own, strict=True))
    z, s, k, before = map(torch.cat, zip(*beside, strict=True))
    goal = free - eta * (cond - free)
    encoder = byhand.trainable(task.pipeline.text_encoder)
    moving = [p for name, p in encoder.named_parameters() if "embedding" not in name]
    adam, table = torch.optim.Adam(moving, lr=0.01), encoder.get_input_embeddings().weight.detach()
    delta: Any = None
    for step in range(2):
        byhand.reseed(step)
        if delta is None:
            delta = table[torch.randint(0, len(table), (2,))]
        delta = delta.clone().requires_grad_(True)
        mine = torch.optim.Adam([delta], lr=0.05)
        for _ in range(2):
            rows = torch.randint(0, 4, (4,))
            loss = apart(said(model, x[rows], t[rows], states(encoder, c[rows], delta)), cond[rows])
            delta.grad = torch.autograd.grad(loss, delta)[0]
            if attack == "fast":
                delta.grad = delta.grad.sign()
            mine.step()
        delta = delta.detach()
        terms = [lambda d=delta: apart(said(model, x, t, states(encoder, c, d)), goal),
                 lambda: gamma * apart(said(model, z, s, encoder(k)[0]), before)]
        for some in [terms] if retain == "joint" else [terms[:1], terms[1:]]:
            adam.zero_grad()
            torch.stack([term() for term in some]).sum().backward()
            adam.step()
    found = own_encoder(byhand.run(
        "adv_unlearn", task, eta=eta, gamma=gamma, retain=retain, attack=attack, prefix=2, attack_steps=2, attack_lr=0.05,
        warm_steps=0, steps=2, **SMALL))
    assert found is not None
    plain = task.pipeline.text_encoder
    for name, p in encoder.named_parameters():
        now = found.get_parameter(name)
        assert torch.allclose(now, p, atol=3e-4), f"{name} differs by {float((now - p).abs().max()):g}"
        assert torch.equal(now, plain.get_parameter(name)) == ("embedding" in name)


def test_the_first_layers_alone_move_and_without_attack_the_prompt_stands_alone() -> None:
    task = byhand.diffusion()
    model = byhand.run("adv_unlearn", task, layers=1, gamma=0.0, attack_steps=0, warm_steps=0, steps=1, **SMALL)
    encoder, before = own_encoder(model), task.pipeline.text_encoder
    assert encoder is not None
    moved = {name for name, p in encoder.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert moved and all(".0." in name for name in moved)
    warm = byhand.run("adv_unlearn", task, layers=1, gamma=0.0, warm_steps=1, attack_steps=0, steps=1, **{**SMALL, "lr": 1e-12})
    assert torch.equal(task.sample(warm, ["a red disk"]), task.sample(task.original, ["a red disk"]))


def test_the_encoder_goes_out_with_the_pipeline_and_comes_back(tmp_path: Path) -> None:
    """Of the folder the text encoder alone changes, its old weights are in no other file, and what draws is what was audited."""
    from diffusers import StableDiffusionPipeline

    stable(tmp_path / "pipe")
    (tmp_path / "pipe" / "text_encoder" / "pytorch_model.bin").write_bytes(b"the concept in another form")
    parts = load_pipeline(tmp_path / "pipe")
    task = text_to_image(parts, "disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2, guidance=2.0)
    outcome = forget(task, "adv_unlearn", warm_steps=0, steps=1, attack_steps=1, progress=False, watchdog=False,
                     **{**SMALL, "lr": 0.05})
    out = outcome.save(tmp_path / "out")
    old, new = ({str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
                for place in (tmp_path / "pipe", out))
    assert {name for name in new if new[name] != old[name]} == {"text_encoder/model.safetensors"}
    assert old.keys() - new.keys() == {"text_encoder/pytorch_model.bin"}
    again, prompts = read_again(out, parts), ["a red disk", "a red cross"]
    drawn = task.sample(outcome.model, prompts)
    assert own_encoder(again) is not None and torch.equal(task.sample(again, prompts), drawn)
    assert not torch.equal(drawn, task.sample(task.original, prompts))
    assert own_encoder(read_again(tmp_path / "pipe", parts)) is None and own_encoder(task.original) is None
    after = task.replaced(outcome.model)   # the original of a later deletion
    assert torch.equal(after.sample(after.original, prompts), drawn)
    assert torch.equal(after.text(task.tokens(prompts)), task.text(task.tokens(prompts), outcome.model))
    pipe: Any = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    assert not any(name.startswith(OWN) for name in pipe.unet.state_dict())
    with torch.no_grad():
        ids = task.tokens(prompts)
        assert torch.allclose(pipe.text_encoder(ids)[0], task.text(ids, outcome.model), atol=1e-6)


def test_what_cannot_be_done_is_said_before_anything_starts() -> None:
    task = byhand.diffusion()
    bare = text_to_image(task.pipeline, "disk", [], ["a red disk"], per_prompt=2, steps=2)
    for given, options, words in ((bare, {}, "gamma=0"), (task, {"prefix": 7}, "6 or less")):
        with pytest.raises(RequestError, match=words):
            forget(given, AdvUnlearn(**options), progress=False)
    with pytest.raises(RequestError, match="Leave where out"):
        forget(task, AdvUnlearn(), modifiers={"where": "sara"}, progress=False)

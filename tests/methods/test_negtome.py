"""Negative token merging: the rule by its arithmetic, one pass of the network by hand, and where it does not act."""

from __future__ import annotations

from pathlib import Path

import byhand
import pytest
import torch
from diffusion_folders import opened

from lethe.core.guard import as_served
from lethe.core.seeds import generator
from lethe.methods.guard.negtome import Repelled, attentions, pushed


def test_golden_numbers() -> None:
    tokens, reference = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert pushed(tokens, reference, 0.5, 0.8).tolist() == [[[2.5, 0.0], [1.0, 1.0]]]
    assert torch.equal(pushed(tokens, reference, 0.5, 1.01), tokens)


def test_one_pass_by_hand(tmp_path: Path) -> None:
    """Tokens of two references at the same timestep, then every token of three pictures against all of theirs, in loops."""
    task = byhand.diffusion()
    outcome = byhand.outcome("negtome", task, references=2, share=0.5, threshold=0.3, alpha=0.7)
    guard, model, rng = outcome.answering, task.original, generator(0, "negtome")
    assert isinstance(guard, Repelled) and attentions(model)
    shown = task.forget.batch(torch.randperm(len(task.forget), generator=rng)[:2].tolist())
    noise = torch.randn(shown.image.shape, generator=rng)
    text = task.text(task.tokens(["a red disk", "a blue cross", ""]))
    x, t = torch.randn(3, *task.shape, generator=torch.Generator().manual_seed(1)), torch.tensor(900)
    level = task.alphas_cumprod[900]
    seen: dict[str, torch.Tensor] = {}
    handles = [module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
               for name, module in attentions(model).items()]
    with torch.no_grad():
        model(level.sqrt() * shown.image + (1 - level).sqrt() * noise, t, encoder_hidden_states=task.text(shown.tokens))
    for handle in handles:
        handle.remove()
    moved = []

    def push(name: str, out: torch.Tensor) -> torch.Tensor:
        reference, new = seen[name].reshape(-1, out.shape[-1]), out.clone()
        for i, j in torch.cartesian_prod(torch.arange(out.shape[0]), torch.arange(out.shape[1])).tolist():
            cosines = torch.cosine_similarity(out[i, j].unsqueeze(0), reference, dim=1)
            if float(cosines.max()) > 0.3:
                new[i, j] = out[i, j] + 0.7 * (out[i, j] - reference[int(cosines.argmax())])
                moved.append((i, j))
        return new

    handles = [module.register_forward_hook(lambda _, __, out, name=name: push(name, out))
               for name, module in attentions(model).items()]
    with torch.no_grad():
        wanted = model(x, t, encoder_hidden_states=text)[0]
        for handle in handles:
            handle.remove()
        plain, found = model(x, t, encoder_hidden_states=text)[0], guard(x, t, encoder_hidden_states=text)[0]
        assert moved and torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(found, plain, atol=1e-4)
        late = torch.tensor(100)
        assert torch.equal(guard(x, late, encoder_hidden_states=text)[0], model(x, late, encoder_hidden_states=text)[0])
    again = as_served(outcome.save(tmp_path / "out"), model)
    with torch.no_grad():
        assert isinstance(again, Repelled) and torch.equal(again(x, t, encoder_hidden_states=text)[0], found)


@pytest.mark.parametrize("off", [{"threshold": 1.01}, {"alpha": 0.0}, {"share": 0.0}])
def test_without_strength_pictures_are_the_original_s(off: dict[str, float]) -> None:
    task = byhand.diffusion()
    guard = byhand.outcome("negtome", task, **{"share": 1.0, **off}).answering
    drawn, plain = (task.sample(model, ["a red disk"], seed=1, steps=2) for model in (guard, task.original))
    assert torch.equal(drawn, plain)


@pytest.mark.parametrize("kind", ["sdxl", "inpainting"])
def test_networks_that_read_more_than_text_states_show_references_as_the_task_does(kind: str) -> None:
    """References are asked with their own pooled text and the size of the picture, or with a mask beside them."""
    task = opened(kind)
    guard = byhand.outcome("negtome", task, references=2, share=0.5, threshold=0.3, alpha=0.7).answering
    assert isinstance(guard, Repelled)
    x, t = torch.randn(3, *task.shape, generator=generator(0, kind)), torch.tensor(900)
    level = task.alphas_cumprod[900]
    shown = level.sqrt() * guard.pictures + (1 - level).sqrt() * guard.noise
    seen: list[torch.Tensor] = []
    handle = next(iter(attentions(guard.model).values())).register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        said = task.predict_noise(guard, x, t.expand(3), task.text(task.tokens(["a blue cross"] * 3)))
        task.predict_noise(guard.model, shown, t.expand(2), guard.text)
    handle.remove()
    assert [len(out) for out in seen] == [2, 3, 2] and torch.allclose(seen[0], seen[2], atol=1e-5) and said.isfinite().all()

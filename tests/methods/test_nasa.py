"""NASA: the rule by its arithmetic, one pass of the network by hand, where padding is masked, and where it does not act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from diffusion_folders import opened
from torch import Tensor

from lethe.core.guard import as_served
from lethe.errors import RequestError
from lethe.methods.guard.nasa import Averted, freed, turned


def test_golden_numbers() -> None:
    """softmax(ln 3 · (1, 0)) = (¾, ¼): Z⁺ = ¾ · 4 + ¼ · 8 = 5; the words' two keys are equal: Z⁻ = (2 + 6) / 2 = 4."""
    q, text, words = torch.tensor([3.0]).log(), ([1.0, 0.0], [4.0, 8.0]), ([0.0, 0.0], [2.0, 6.0])
    found, unwanted = (torch.softmax(q * torch.tensor(k), 0) @ torch.tensor(v) for k, v in (text, words))
    assert float(turned(found, unwanted, 0.5)) == pytest.approx(3.0)
    assert torch.equal(turned(found, unwanted, 0.0), found)
    prompts, words, nothing = torch.tensor([[3.0, 5.0], [-3.0, 5.0]]), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])
    assert freed(prompts, words, nothing, 1.0).tolist() == [[0.0, 5.0], [-3.0, 5.0]]
    assert torch.equal(freed(prompts, words, words, 1.0), prompts)   # words that say nothing


def by_hand(layer: Any, x: Tensor, text: Tensor, words: list[Tensor], alpha: float) -> Tensor:
    """What a layer of cross-attention says at every place of one picture; words: of the concept, perhaps of no prompt, too."""
    def found(states: Tensor) -> Tensor:
        parts = (part.chunk(layer.heads, -1) for part in (layer.to_q(x), layer.to_k(states), layer.to_v(states)))
        return torch.cat([torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v for q, k, v in zip(*parts, strict=True)], -1)

    z, unwanted = found(text), [found(states) for states in words]
    for i in range(len(z)):
        u = unwanted[0][i] - (unwanted[1][i] if len(words) > 1 else 0)
        share = max(0.0, float((z[i] - unwanted[1][i]) @ u / (u @ u))) if len(words) > 1 else 1.0
        z[i] -= alpha * share * u
    return layer.to_out[0](z)   # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "takes"), [
    ("unet", "all"), ("unet", "shared"), ("pixart", "all"), pytest.param("sdxl", "shared", marks=pytest.mark.slow)])
def test_a_pass_by_hand(kind: str, takes: str, tmp_path: Path) -> None:
    task = byhand.diffusion() if kind == "unet" else opened(kind)
    outcome = byhand.outcome("nasa", task, alpha=0.7, words="a blue disk", takes=takes)
    guard, model = outcome.served, task.original
    assert isinstance(guard, Averted) and outcome.kind == "guard"
    padded = kind == "pixart"   # this network alone masks padding

    def read(prompts: list[str]) -> list[Tensor]:
        (said,) = task.words(task.tokens(prompts))
        return [one[: end + 1] if padded else one for one, end in zip(said.states, said.end.tolist(), strict=True)]

    prompts, words = ["a red disk", "a cross"], read(["a blue disk", ""][: 1 + (takes == "shared")])
    heard: list[str] = []

    def hook(name: str) -> Any:
        def change(layer: Any, args: tuple[Any, ...], given: dict[str, Any], out: Tensor) -> Tensor:
            heard.append(name)
            assert (given.get("attention_mask") is not None) == padded
            return torch.stack([by_hand(layer, x, text, words, 0.7) for x, text in zip(args[0], read(prompts), strict=True)])
        return change

    text = task.text(task.tokens(prompts))
    x, t = torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([900, 300])
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in model.named_modules()
               if name.endswith("attn2")]
    with torch.no_grad():
        wanted = task.predict_noise(model, x, t, text)
        for handle in handles:
            handle.remove()
        found, plain = (task.predict_noise(m, x, t, text) for m in (guard, model))
    assert set(heard) == set(guard.layers) and torch.allclose(found, wanted, atol=1e-5)
    assert float((found - plain).abs().max()) > 1e-4
    again = as_served(outcome.save(tmp_path / "out"), model)
    with torch.no_grad():
        assert isinstance(again, Averted) and torch.equal(task.predict_noise(again, x, t, text), found)


def test_without_strength_pictures_are_the_original_s() -> None:
    task = byhand.diffusion()
    for takes, guidance in (("all", 1.0), ("shared", 3.0)):
        guard = byhand.outcome("nasa", task, alpha=0.0, takes=takes).answering
        drawn, plain = (task.sample(model, ["a red disk", ""], seed=1, steps=1, guidance=guidance)
                        for model in (guard, task.original))
        assert torch.equal(drawn, plain)


def test_with_full_strength_the_words_themselves_are_not_heard() -> None:
    """α = 1 and the prompt is the words: what cross-attention hands on is 0, whatever the words are."""
    task = byhand.diffusion()
    guards = [byhand.outcome("nasa", task, alpha=1.0, words=words).answering for words in ("a red disk", "a blue cross")]
    one, other = (task.sample(guard, [words], seed=1, steps=2) for guard, words in zip(
        guards, ("a red disk", "a blue cross"), strict=True))
    assert torch.allclose(one, other, atol=1e-5)


def test_networks_without_cross_attention_are_refused() -> None:
    with pytest.raises(RequestError, match="has none; nothing was started"):
        byhand.run("nasa", opened("sd3"))

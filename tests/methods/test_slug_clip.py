"""SLUG on CLIP: the loss, the gradients of pairs and of whole batches, the choice of one layer and its step, and the claim."""

from __future__ import annotations

from functools import cache
from typing import Any

import byhand
import pytest
import torch
import torch.nn.functional as F
from running import as_users
from tiny import dual_encoder as tiny_pair
from torch import Tensor, nn

import lethe
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.maths.one_layer import front, importance_and_alignment
from lethe.methods.dual_encoder.slug_clip import dissimilarity, hits
from lethe.models.dual_encoder.pictures import Eye


class Two(nn.Module):
    """A linear image encoder of two layers, and a text encoder that looks vectors up and turns them."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.image = nn.Linear(12, 5), nn.Linear(5, 3)
        self.words, self.text = nn.Embedding(6, 4), nn.Linear(4, 3)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def encode_image(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.image(torch.tanh(self.eye(pixels.flatten(1))))
        return found

    def encode_text(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.text(self.words(tokens[:, 0]))
        return found


WORDS = ("cat", "dog", "cow")


def tokens(texts: list[str]) -> Tensor:
    return torch.tensor([[WORDS.index(text.split()[-1])] for text in texts])


def pairs() -> Split:
    images = torch.rand(18, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    return Split({"image": images}, "train", meta={"caption": [f"a {WORDS[i % 3]}" for i in range(18)]})


def task() -> Task:
    torch.manual_seed(5)
    model = Two()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return lethe.dual_encoder(model, pairs(), lethe.where(label="cat"), WORDS, templates=["a {}"], tokenizer=tokens, eye=Eye(2))


def test_golden_formulas() -> None:
    assert dissimilarity(torch.tensor([1.0, -0.5])).tolist() == [0.0, 1.5]
    logits, label = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1])
    assert [float(hits(logits, label, top)) for top in (1, 2, 9)] == [0.0, 1.0, 1.0]
    size, angle = importance_and_alignment({"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 1.0])},
                                           {"w": torch.tensor([3.0, 4.0])})
    assert size == pytest.approx([0.2]) and angle == pytest.approx([2**-0.5])


@pytest.mark.parametrize("candidates", [1, 5])
@pytest.mark.parametrize("towers", ["image", "text"])
def test_the_step_by_hand(towers: str, candidates: int) -> None:
    """Two of six forgotten pairs are looked at, the other four give g; batches of five retained pairs give r."""
    made, looks = task(), 5
    order = torch.randperm(6, generator=generator(0, "slug_clip", "forget"))
    check, used = (made.forget.subset(part.numpy(), "part") for part in (order[:2], order[2:]))

    def vectors(m: Two, split: Split) -> tuple[Tensor, Tensor]:
        x = (split.columns["image"] - 0.5) / 0.5
        return F.normalize(m.encode_image(x), dim=1), F.normalize(m.encode_text(split.columns["tokens"]), dim=1)

    def apart(m: Two) -> Tensor:
        u, v = vectors(m, used)
        return (1 - (u * v).sum(1)).mean()

    def contrast(m: Two) -> Tensor:
        total = torch.zeros(())
        for start in range(0, 12, 5):
            u, v = vectors(m, made.retain.subset(range(start, min(start + 5, 12)), "part"))
            z = m.logit_scale.exp() * u @ v.T
            total = total - (z.log_softmax(1).diagonal() + z.log_softmax(0).diagonal()).sum() / 2
        return total / 12

    g, r = (byhand.gradient(byhand.trainable(made.original), loss) for loss in (apart, contrast))

    def right(layer: str, step: float, split: Split) -> float:
        twin = byhand.trainable(made.original)
        twin.get_parameter(layer).data += step * g[layer]
        u, _ = vectors(twin, split)
        w = F.normalize(twin.encode_text(torch.tensor([[0], [1], [2]])), dim=1)
        return float(((u @ w.T).argmax(1) == split.columns["y"]).float().mean())

    layers = ["eye.weight", "image.weight"] if towers == "image" else ["text.weight"]
    norm = {n: float(made.original.get_parameter(n).norm()) for n in layers}
    importance = [float(g[n].norm()) / norm[n] for n in layers]
    alignment = [abs(float((g[n] * r[n]).sum() / g[n].norm() / r[n].norm())) for n in layers]
    tried = []
    for place in front(importance, alignment)[:candidates]:
        layer, low, high, seen = layers[place], 0.0, None, []
        at = norm[layer] / 10 / float(g[layer].norm())
        for _ in range(looks):
            seen.append((right(layer, at, check), at))
            low, high = (low, at) if seen[-1][0] <= 0 else (at, high)
            at = 2 * low if high is None else (low + high) / 2
        least = min(share for share, _ in seen)
        step = min(s for share, s in seen if share == least)
        tried.append((least <= 0, right(layer, step, made.retain) if least <= 0 else -least, layer, step))
    _, _, layer, step = max(tried)
    wanted = byhand.trainable(made.original)
    wanted.get_parameter(layer).data += step * g[layer]
    found = byhand.run("slug_clip", made, towers=towers, candidates=candidates, evaluations=looks, checked=0.3,
                       batch_size=5)
    byhand.assert_same(made, found, wanted, atol=1e-5)


def test_no_layer_is_said() -> None:
    with pytest.raises(RequestError, match="no weight matrix or kernel of an encoder may move"):
        lethe.forget(task(), "slug_clip", progress=False, modifiers={"where": {"name": "names", "patterns": ["*.bias"]}})


@cache
def left(seed: int) -> tuple[float, float]:
    """Zero-shot accuracy on forgotten and on retained pairs of the tiny CLIP, after a run with this seed."""
    made = tiny_pair()
    return right(made, as_users("slug_clip", made, seed, watchdog=False).model)


def right(made: Any, model: nn.Module) -> tuple[float, float]:
    with torch.no_grad():
        each = [split.batch(range(len(split))) for split in (made.forget, made.retain)]
        forget, retain = (float((made.outputs(model, batch).argmax(1) == batch.y).float().mean()) for batch in each)
    return forget, retain


@pytest.mark.slow
def test_a_class_is_no_longer_called_by_its_name() -> None:
    """Acceptance of the card, over 3 seeds: of 0.94 at most 0.30 is left (chance and 5 points); retained lose at most 0.1."""
    before = right(tiny_pair(), tiny_pair().original)
    assert before[0] > 0.9
    for seed in range(3):
        assert left(seed)[0] <= 0.30 and left(seed)[1] >= before[1] - 0.10, (seed, left(seed))


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="5.2, 9.4 and 0 points: the forgotten share of 0 is sought on eight pairs, beyond chance")
def test_retained_pairs_lose_at_most_five_points() -> None:
    before = right(tiny_pair(), tiny_pair().original)
    assert all(left(seed)[1] >= before[1] - 0.05 for seed in range(3))

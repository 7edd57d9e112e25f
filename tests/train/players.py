"""A family of two losses: a generator and its critic, trained in turns. It stands for families that train themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lethe.core.engine import Engine, Term
from lethe.core.split import Batch, Split
from lethe.core.task import Recipe, Task, recipe_options


class Players(nn.Module):
    """Points from noise, and a score of points; higher for real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6))
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))


class Adversarial(Task):
    """GAN on points: Goodfellow et al. 2014, the non-saturating form."""

    family = "adversarial"
    provides = frozenset({"build", "observe"})   # no loss of an example alone

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        return batch.replace(z=torch.randn(len(batch), 2, generator=rng), drawn=True)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """The critic's loss: softplus(−D(x)) + softplus(D(G(z))).  -> [n]"""
        return softplus(-model.critic(batch.x)).squeeze(1) + softplus(model.critic(model.generator(batch.z).detach())).squeeze(1)

    def deceive(self, model: nn.Module, batch: Batch) -> Tensor:
        """The generator's loss: softplus(−D(G(z))).  -> [n]"""
        return softplus(-model.critic(model.generator(batch.z))).squeeze(1)

    def train(self, model: nn.Module, split: Split, recipe: Recipe, loop: Engine) -> nn.Module:
        own = {player: frozenset(name for name, _ in model.named_parameters() if name.startswith(player))
               for player in ("critic", "generator")}
        terms = {"critic": Term(split, self.nll, moves=own["critic"]),
                 "generator": Term(split, self.deceive, moves=own["generator"])}
        return loop.minimise(model, terms, combine="alternate", **recipe_options(recipe))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return model.critic(batch.x)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        return (p - q).square().sum(1)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.x

    def relabel(self, batch: Batch, rng: torch.Generator) -> Batch:
        return batch

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        score = torch.sigmoid(model.critic(batch.x)).squeeze(1)
        return {"nll": -score.log(), "score": score, "signal": score}

    def save_model(self, model: nn.Module, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "model.pt")

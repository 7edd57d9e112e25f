"""Erasers of text-to-image models beside the plain way of writing them.     python -m speed.erasers [--size sd15] [--device cuda]

The plain way is what the published scripts do: a resident second network where the method has a teacher, prompts encoded at every
step, one forward pass a condition, for ESD half a sampling before every step, for SalUn a mask by two sorts of all weights. Both
take the same number of optimiser steps over as many points, with Adam at the same rate; ours through the public call. On an
accelerator the largest memory of both is compared, too. Weights are random: this says nothing of what is forgotten.

tiny  the architecture of Stable Diffusion 1.5 with 32 to 64 channels at 64 pixels, for CPUs
sd15  its own shapes, 860 M weights, at 256 pixels, for accelerators
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lethe.api import forget
from lethe.models.diffusion.open import Diffusion, text_to_image
from lethe.models.diffusion.pipeline import require_diffusers
from lethe.train.settings import Settings
from speed._pipelines import stable_diffusion
from speed.common import compared, on_gpu, save, spent

CONCEPT, REST, KEPT = "a red disk", "a red", "a blue cross"
SIZES: dict[str, dict[str, Any]] = {"tiny": {"pixels": 64, "blocks": (32, 64, 64, 64), "width": 64, "layers": 2},
                                    "sd15": {"pixels": 256}}
LEVELS, BATCH, SAMPLER, TRAJECTORIES = 1000, 4, 10, 16
STEPS = SAMPLER * TRAJECTORIES // BATCH   # ESD's: every point of its trajectories once


class Plain:
    """The same edits, written straight down."""

    def __init__(self, task: Diffusion, device: str, pictures: int) -> None:
        self.parts, self.device, self.pictures = task.pipeline, device, pictures
        self.network = copy.deepcopy(task.original).to(device).requires_grad_(True)
        self.latents = {role: split.batch(range(len(split))).image.to(device)
                        for role, split in task.splits.items() if role in ("forget", "retain")}
        self.schedule = require_diffusers().DDIMScheduler(num_train_timesteps=LEVELS)

    def text(self, prompt: str, count: int) -> Tensor:
        """The states of a prompt, encoded anew.  -> [count, L, width]"""
        ids = self.parts.tokenizer([prompt] * count, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            return self.parts.text_encoder.to(self.device)(ids.to(self.device))[0]

    def noised(self, role: str, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t, ε) of the next pictures of a set."""
        at = [(i * BATCH + k) % self.pictures for k in range(BATCH)]
        x, noise = self.latents[role][at], torch.randn_like(self.latents[role][at])
        t = torch.randint(LEVELS, (len(x),), device=self.device)
        return self.schedule.add_noise(x, noise, t), t, noise

    def optimiser(self, chosen: Callable[[str], bool]) -> torch.optim.Optimizer:
        for name, p in self.network.named_parameters():
            p.requires_grad_(chosen(name))
        return torch.optim.Adam([p for p in self.network.parameters() if p.requires_grad], lr=1e-5)

    def steps(self, optimiser: torch.optim.Optimizer, loss: Callable[[int], Tensor], mask: Mapping[str, Tensor] | None = None
              ) -> None:
        """Of the weights that a mask names, only what it lets through moves."""
        masked = [(self.network.get_parameter(name), kept) for name, kept in (mask or {}).items()]
        for i in range(STEPS):
            optimiser.zero_grad()
            loss(i).backward()
            for p, kept in masked:
                if p.grad is not None:
                    p.grad *= kept
            optimiser.step()

    def esd(self) -> None:
        """Half a sampling by the original, two of its predictions, one step; for each."""
        teacher, optimiser = copy.deepcopy(self.network).requires_grad_(False), self.optimiser(lambda name: "attn2" in name)

        def loss(i: int) -> Tensor:
            concept, empty = self.text(CONCEPT, BATCH), self.text("", BATCH)
            x = torch.randn(BATCH, 4, *self.latents["forget"].shape[2:], device=self.device)
            self.schedule.set_timesteps(SAMPLER)
            with torch.no_grad():
                for t in self.schedule.timesteps[: i % SAMPLER + 1]:
                    base, aimed = teacher(x, t, empty).sample, teacher(x, t, concept).sample
                    before, x = x, self.schedule.step(base + 3 * (aimed - base), t, x).prev_sample
                base, aimed = teacher(before, t, empty).sample, teacher(before, t, concept).sample
            return mse_loss(self.network(before, t, concept).sample, base - (aimed - base))

        self.steps(optimiser, loss)

    def mim(self) -> None:
        """Alignment with the prediction for the empty prompt on noised pictures."""
        teacher, optimiser = copy.deepcopy(self.network).requires_grad_(False), self.optimiser(lambda name: "attn2" in name)

        def loss(i: int) -> Tensor:
            x, t, _ = self.noised("forget", i)
            with torch.no_grad():
                aimed = teacher(x, t, self.text("", BATCH)).sample
            return mse_loss(self.network(x, t, self.text(CONCEPT, BATCH)).sample, aimed)

        self.steps(optimiser, loss)

    def salun(self) -> None:
        """The mask by two sorts of all gradients, then retained pictures beside forgotten ones with another prompt's target."""
        optimiser, mask = self.optimiser(lambda name: True), self.mask()

        def loss(i: int) -> Tensor:
            x, t, noise = self.noised("retain", i)
            kept = mse_loss(self.network(x, t, self.text(KEPT, BATCH)).sample, noise)
            x, t, _ = self.noised("forget", i)
            said = self.network(x, t, self.text(CONCEPT, BATCH)).sample
            return kept + mse_loss(said, self.network(x, t, self.text(KEPT, BATCH)).sample.detach())

        self.steps(optimiser, loss, mask)

    def mask(self) -> dict[str, Tensor]:
        for i in range(self.pictures // BATCH):
            x, t, noise = self.noised("forget", i)
            mse_loss(self.network(x, t, self.text(CONCEPT, BATCH)).sample, noise).backward()
        found = {name: p.grad.abs() for name, p in self.network.named_parameters() if p.grad is not None}
        ranks = torch.argsort(torch.argsort(torch.cat([g.flatten() for g in found.values()]), descending=True))
        kept = iter((ranks < len(ranks) // 2).float().split([g.numel() for g in found.values()]))
        return {name: next(kept).view_as(g) for name, g in found.items()}


OURS: dict[str, dict[str, Any]] = {
    "esd": {"steps": STEPS, "batch_size": BATCH, "trajectories": TRAJECTORIES, "sampler_steps": SAMPLER, "lr": 1e-5},
    "mim": {"method": "mim_mu", "target": "empty", "eta": 0, "protect": "none", "steps": STEPS, "batch_size": BATCH, "lr": 1e-5},
    "salun": {"epochs": STEPS, "batch_size": BATCH, "optimiser": "adam", "weight_decay": 0, "lr": 1e-5},
}


def tasks(size: str, folder: Path) -> Iterator[Diffusion]:
    """The same task, again and again, with pictures of noise: four of the concept and four others."""
    stable_diffusion(folder, **SIZES[size])
    rng = torch.Generator().manual_seed(0)
    shape = (3, SIZES[size]["pixels"], SIZES[size]["pixels"])
    pictures = [(torch.rand(shape, generator=rng) * 2 - 1, prompt) for prompt in (CONCEPT, KEPT) for _ in range(BATCH)]
    while True:
        yield text_to_image(folder, "disk", [KEPT], [CONCEPT], images=pictures, steps=SAMPLER)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    if not on_gpu(asked.device):
        torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        fresh = tasks(asked.size, Path(place) / "pipe")
        for name in asked.methods:
            rows: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
            for k in range(asked.repeats + 1):   # the first loads what the process lacks
                task = next(fresh)
                plain = Plain(task, asked.device, BATCH)
                found = spent(getattr(plain, name), asked.device)
                del plain, task
                own = dict(OURS[name])
                mine, task = own.pop("method", name), next(fresh)
                ours = spent(lambda task=task, mine=mine, own=own: forget(
                    task, mine, settings=Settings(device=asked.device), progress=False, **own), asked.device)
                if k:
                    rows["ours"].append(ours)
                    rows["plain"].append(found)
            report(f"erasers.{name}.{asked.size}", rows, asked)


def report(name: str, rows: dict[str, list[dict[str, float]]], asked: argparse.Namespace) -> None:
    gpu = on_gpu(asked.device)
    detail: dict[str, Any] = {"command": f"python -m speed.erasers --size {asked.size} --device {asked.device}",
                              "device": torch.cuda.get_device_name() if gpu else "cpu", "against": "the plain way"}

    def column(side: str, key: str) -> list[float]:
        return [row[key] for row in rows[side]]

    results = [compared(name, column("ours", "wall"), column("plain", "wall"), what=f"{STEPS} steps of {BATCH} points",
                        at_least=2.0, **detail)]
    if gpu:
        results.append(compared(f"{name}.memory", column("ours", "memory"), column("plain", "memory"),
                                what="memory as a share", at_most=0.6, **detail))
    save(*results)


if __name__ == "__main__":
    main()

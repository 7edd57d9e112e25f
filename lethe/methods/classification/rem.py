"""REM, redirection for erasing memory: move what was learned from corrupted data into extra units, then remove these units.
Schoepf, Mozer, Mitchell, Brintrup, Kaissis, Kairouz & Triantafillou (2025), arXiv:2505.17730 (the loss after third-party
accounts of the paper and an open implementation).

    1  min_θ₁ N(θ₁; F)  until accuracy on F is at most γ,          N(θ; F) = E_{x∈F} (2/β) · log(1 + (p_θ(y|x) / p_0(y|x))^β)
    2  beside every linear and convolutional layer h grows a branch:  h(u) + B₂ relu(A₂ u) ⊙ m(x)  (m before B₂),  θ₂ = {A₂, B₂}
    3  min_{θ₁,θ₂} E_{x∈D} ℓ(θ₁ ∪ θ₂, m(x); x) + κ · N(θ₁; F),     D = F ∪ R, all training data, found or not
    4  drop θ₂

F what was identified as corrupted, R the rest (which may hold more of it), ℓ cross-entropy, p_0 the original, β > 0.
m(x) ∈ {0, 1}^k opens the same round(share · k) channels in every branch; drawn once per example, but all of F shares one m. What
F has in common is learned fastest in its shared channels, where N does not reach, and what was not found follows it.
Needs:    forget, retain, original.     Updates: every trainable parameter; the branches exist for the time of the run.
Cost:     continued training on D; each step two forward/backward passes, one of them through the branches as well.
Limits:   κ = 0 and share = 0 is NPO on F, then fine-tuning on D. B₂ starts at zero, so step 3 starts at θ₁.
Fails by: corrupted examples with nothing in common with F are learned again by θ₁. Large κ, small β: utility.
Deviations: the published form widens the layers, so that added channels feed added channels; here each layer has its branch, and
          one m holds for all of them. The term on D is ℓ itself, not wrapped as N is. Batch-norm statistics are kept. Step 1 ends
          at accuracy γ or below, measured after every pass over F.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating, seeded
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, concat
from lethe.maths.losses import npo_loss
from lethe.train.loop import Loop, Term

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@config
class REM:
    """Options of REM."""

    gamma: Fraction = 0.1              # γ, accuracy on F at which step 1 ends               [ours, digits CNN]
    erase_lr: Positive = 2e-3          # of step 1                                           [ours, digits CNN]
    erase_epochs: Count = 100          # passes over F in step 1 at most                     [ours]
    lr: Positive = 2e-3                # of step 3                                           [ours, digits CNN]
    epochs: Positive = 10.0            # passes over D in step 3                             [ours, digits CNN]
    beta: Positive = 1.0               # β; smaller is closer to gradient ascent             [ours, digits CNN]
    kappa: NonNegative = 0.3           # κ, weight of the barrier                            [ours, digits CNN]
    channels: Count = 16               # k of every branch                                   [ours, digits CNN]
    share: Fraction = 0.25             # of the channels open to an example                  [ours, digits CNN]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "adamw"     # update rule                                         [ours, digits CNN]
    weight_decay: NonNegative = 5e-4   # pull towards 0, step 3                              [ours]
    clip: Positive | None = 1.0        # largest gradient norm; null: none                   [ours]


def paths(forget: int, retain: int, channels: int, share: float, rng: torch.Generator) -> Tensor:
    """m of every example, first those of F: round(share·k) ones per row; all rows of F are equal.  -> [forget + retain, k]"""
    drawn = torch.rand(1 + retain, channels, generator=rng).argsort(1) < round(share * channels)
    return torch.cat([drawn[:1].expand(forget, channels), drawn[1:]])


class Branch(nn.Module):
    """B₂ (relu(A₂ u) ⊙ m): as the layer it stands beside, through `channels` channels of its own. B₂ starts at zero."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, channels)
            self.up: nn.Module = nn.Linear(channels, layer.out_features, bias=False)
        else:
            assert isinstance(layer, CONVOLUTIONS)
            kind: Any = type(layer)   # of one, two or three dimensions: the same arguments
            self.down = kind(layer.in_channels, channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            self.up = kind(channels, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.get_parameter("weight"))

    @classmethod
    def of(cls, layer: nn.Module, channels: int, seed: int) -> Branch:
        """A branch whose weights torch's generator draws, which `seeded` has set."""
        return cls(layer, channels)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        hidden = self.down(u).relu()
        spread = hidden.dim() - 2   # positions of a sequence, pixels of a picture
        ones = (1,) * spread
        shape = (len(mask), *ones, mask.shape[1]) if isinstance(self.down, nn.Linear) else (*mask.shape, *ones)
        out: Tensor = self.up(hidden * mask.view(shape))
        return out


class Channel:
    """Branches beside the layers of a model, silent unless a batch is sent `through` them."""

    def __init__(self, model: nn.Module, channels: int, seed: int) -> None:
        self.mask: Tensor | None = None
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))}
        place = next(model.parameters())
        for number, layer in enumerate(self.layers.values()):
            branch = seeded(partial(Branch.of, layer, channels), derive(seed, "rem", number))
            layer.add_module("redirection", branch.to(place.device, place.dtype))
        self.handles = [layer.register_forward_hook(self._add) for layer in self.layers.values()]

    def _add(self, layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """Layers that see other rows than the examples of the batch are left alone."""
        if self.mask is None or args[0].dim() < 2 or len(args[0]) != len(self.mask):
            return out
        redirected: Tensor = layer.get_submodule("redirection")(args[0], self.mask)
        return out + redirected

    @property
    def names(self) -> list[str]:
        """Parameters of θ₂ as the model calls them."""
        return [f"{name}.redirection.{key}".lstrip(".") for name, layer in self.layers.items()
                for key, _ in layer.get_submodule("redirection").named_parameters()]

    @contextmanager
    def through(self, mask: Tensor) -> Iterator[None]:
        self.mask = mask
        try:
            yield
        finally:
            self.mask = None

    def drop(self) -> None:
        for handle in self.handles:
            handle.remove()
        for layer in self.layers.values():
            del layer.redirection


@method(needs={"forget", "retain", "original"}, uses={"labels", "nll", "observe"}, mechanism="mask")
def run(cfg: REM, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    known = loop.reference("rem", lambda m, b: -task.nll(m, b), task.forget)

    def removed(m: nn.Module, batch: Batch) -> Tensor:
        return npo_loss(-task.nll(m, batch), known(batch), cfg.beta)

    for _ in range(cfg.erase_epochs):
        with loop.damage():   # the second phase repairs it
            loop.minimise(model, {"forget": Term(task.forget, removed)}, lr=cfg.erase_lr, epochs=1, batch_size=cfg.batch_size,
                          optimiser=cfg.optimiser, clip=cfg.clip)
        left = accuracy(task, loop, model)
        if left <= cfg.gamma:
            break
    else:
        loop.notes.append(f"accuracy on the forget set is still {left:.2f} after {cfg.erase_epochs} passes, above gamma = "
                          f"{cfg.gamma:g}, so what was found may stay; raise method.erase_lr or method.erase_epochs")

    everything = concat([task.forget, task.retain], "train")
    masks = paths(len(task.forget), len(task.retain), cfg.channels, cfg.share, loop.generator("rem")).to(loop.settings.device)
    channel = Channel(model, cfg.channels, loop.seed)

    def redirected(m: nn.Module, batch: Batch) -> Tensor:
        with channel.through(masks[batch.index.to(masks.device)].float()):
            return task.nll(m, batch)

    try:
        loop.include(model, *channel.names)
        terms = {"train": Term(everything, redirected)}
        if cfg.kappa:
            terms["forget"] = Term(task.forget, removed, cfg.kappa)
        loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                      weight_decay=cfg.weight_decay, clip=cfg.clip)
    finally:
        channel.drop()
    return loop.finish(model)


def accuracy(task: ClassificationTask, loop: Loop, model: nn.Module) -> float:
    """Share of the forget set that is classified as labelled."""
    with evaluating(model):
        right = sum(float(task.observe(model, batch)["score"].sum()) for batch in loop.drawn(task.forget, 256, "rem"))
    return right / len(task.forget)

"""Blindspot: answer forgotten inputs like a model that was trained briefly and never on them. Tarun, Chundawat, Mandal &
Kankanhalli (2023), "Deep Regression Unlearning", ICML 2023, arXiv:2210.08196.

    1. P ← fresh model, trained briefly on R (the blind model)
    2. L(θ) = 1/|D| · [ Σ_{x∈F} ( ℓ(θ; x, P(x)) + β · a(θ; x) )  +  Σ_{(x,y)∈R} ℓ(θ; x, y) ],   started at θ_0
       a(θ; x) = Σ_l mean_positions (A_l^θ(x) − A_l^P(x))²,   A_l = v/‖v‖₂,  v = mean over channels of squared outputs of layer l

F forget set, R retain set, D = R ∪ F, ℓ the family's training loss, P(x) the blind model's prediction (frozen), A_l [positions]
the attention map of a convolution, β its weight.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     the blind model's epochs on R, then one forward/backward on D per epoch; with β > 0 another forward of P per step.
Limits:   with P(x) = y on F and β = 0 it is fine-tuning on D. A blind model that was trained to the end is a retrained one.
Fails by: the blind model: too few epochs and its answers for F are noise that is taught, too many and retraining is cheaper.
Deviations: the forget loss is the family's own (the official code: L1 for images, squared for text). Maps are compared for
          convolutions only: units of dense layers have no order that two models share. β is 0 by default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.regression import RegressionTask
from lethe.core.modules import copied, evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, concat
from lethe.errors import RequestError
from lethe.train.loop import Loop, Term

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@config
class Blindspot:
    """Options of Blindspot."""

    blind_epochs: Positive = 5.0       # passes of P over R; more is nearer to retraining    [ours, digits; official 2, LSTM 10]
    blind_lr: Positive = 3e-3          # of P                                                [ours, digits; official 1e-2]
    lr: Positive = 1e-3                # of the student                                      [official code]
    epochs: Positive = 5.0             # passes of the student over R ∪ F                    [official code: 1, LSTM 5]
    batch_size: Count = 64             # examples per step                                   [ours, digits; official 256]
    attention: NonNegative = 0.0       # β, weight of the attention maps of convolutions     [ours: no gain; official code 50]
    layers: Count = 3  # the last so many convolutions are compared [only with attention=50.0] [ours: bounds the cost]
    optimiser: Optimiser = "adam"      # update rule of both                                [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm of the student; null: none    [official code: none]


def attention_map(activations: Tensor) -> Tensor:
    """Mean over channels of the squares, of length 1 for each example.  [n, C, …] -> [n, positions]

    attention_map([[[3, 0]], …]) with one channel: [9, 0]/9 = [1, 0].
    """
    return torch.nn.functional.normalize(activations.float().square().mean(1).flatten(1), dim=1)


def attention_distance(student: Tensor, blind: Tensor) -> Tensor:
    """Mean squared difference of attention maps.  [n, C, …], [n, C', …] -> [n]"""
    return (attention_map(student) - attention_map(blind)).square().mean(1)


@method(needs={"forget", "retain"}, uses={"build", "nll", "outputs", "targets"}, mechanism="distil")
def run(cfg: Blindspot, task: RegressionTask, loop: Loop) -> Outcome:
    blind = loop.start(task.build(derive(loop.seed, "blindspot")))
    names = [name for name, module in blind.named_modules() if isinstance(module, CONVOLUTIONS)][-cfg.layers :]
    if cfg.attention and not names:
        raise RequestError(f"attention = {cfg.attention:g} compares maps of convolutions, and {type(blind).__name__} has none, "
                           "so nothing was started. Leave method.attention at 0.")
    loop.minimise(blind, {"retain": Term(task.retain, task.nll)}, lr=cfg.blind_lr, epochs=cfg.blind_epochs,
                  batch_size=cfg.batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, batch_norm="update")
    blind = copied(blind, trainable=False)
    with evaluating(blind):
        told = torch.cat([task.outputs(blind, batch) for batch in loop.drawn(task.forget, 256, "blindspot")])

    model, retained = loop.start(), len(task.retain)

    def taught(batch: Batch) -> Batch:
        """The batch with the blind model's predictions as targets of forgotten inputs."""
        y = batch.y.clone()
        forgotten = batch.index >= retained
        y[forgotten] = told[batch.index[forgotten] - retained].view_as(y[forgotten])
        return batch.replace(y=y)

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        if not cfg.attention:
            return task.nll(m, taught(batch))
        with Tap(m, names) as ours:
            losses = task.nll(m, taught(batch))
        with Tap(blind, names) as theirs, torch.no_grad():
            task.outputs(blind, batch)
        apart = torch.stack([attention_distance(a, b) for a, b in zip(ours.caught, theirs.caught, strict=True)]).sum(0)
        return losses + cfg.attention * apart * (batch.index >= retained)

    loop.minimise(model, {"train": Term(concat([task.retain, task.forget], "train"), loss)}, lr=cfg.lr, epochs=cfg.epochs,
                  batch_size=cfg.batch_size, optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)


class Tap:
    """Catches the outputs of modules by name while it is open."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.model, self.names, self.caught = model, names, list[Tensor]()

    def __enter__(self) -> Tap:
        modules = dict(self.model.named_modules())
        self.handles = [modules[n].register_forward_hook(lambda _, __, out: self.caught.append(out)) for n in self.names]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

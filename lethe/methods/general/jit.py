"""JiT: make the answers around forgotten inputs insensitive to noise, using nothing but these inputs. Foster, Fogarty, Schoepf,
Dugue, Öztireli & Brintrup (2024), "An Information Theoretic Approach to Machine Unlearning", arXiv:2402.01401 (first version:
"Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization").

    L(θ) = E_{x∈F} 1/N · Σ_{i=1..N} ‖f_θ(x) − f_θ(x + η_i)‖ / ‖η_i‖,    η_i ~ N(0, σ²)

F forget set, f_θ outputs before any softmax, N draws of noise in the shape of the input x, new at every step; norms over all but
the first dimension. The quotient estimates the local Lipschitz constant.
detach = true   f_θ(x + η) is held fixed (the official code): f_θ(x) is pulled to the output for the noisy input.
detach = false  the gradient of L as it is written.
clamp = true    x + η stays between the smallest and largest value in the batch (the official code); η is what then remains.
Needs:    forget; no labels, no retained data.     Updates: every trainable parameter.
Cost:     N + 1 forward passes on F per step, and one backward pass (N + 1 with detach = false).
Limits:   a model that is constant around F has loss 0 and stays. σ does not matter to a linear model without clamp.
Fails by: nothing holds the retained data: lr decides between no effect and collapse.
Deviations: the mean over a batch, not its sum, so that lr does not depend on the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, pixels
from lethe.core.task import Task
from lethe.errors import WrongColumn
from lethe.train.loop import Loop, Term


@config
class JiT:
    """Options of JiT."""

    sigma: Positive = 0.5              # σ of the noise, in units of the input               [ours, digits CNN]
    draws: Count = 25                  # N                                                   [ours]
    lr: Positive = 1e-2                # SGD; the knob: above collapse                       [ours, digits CNN]
    epochs: Positive = 1.0             # passes over F                                       [paper]
    batch_size: Count = 64             # examples per step                                   [ours]
    clamp: bool = True                 # keep x + η within the smallest and largest x        [official code]
    detach: bool = True                # hold f(x + η) fixed, no gradient                    [official code; paper: false]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def roughness(outputs: Tensor, moved: Tensor, noise: Tensor) -> Tensor:
    """‖f(x) − f(x + η)‖ / ‖η‖, per example.  [n, ...], [n, ...], [n, ...] -> [n]

    f(x) − f(x + η) = (3, 4), η = (0, 2): 5/2.
    """
    change = (outputs - moved).flatten(1)
    # the norm has no derivative at 0; without the floor a constant output would give NaN there
    quotient: Tensor = change.square().sum(1).clamp(min=1e-12).sqrt() / noise.flatten(1).norm(dim=1)
    return quotient


@method(needs={"forget"}, uses={"inputs", "outputs", "weights"}, mechanism="noise")
def run(cfg: JiT, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    if not (task.forget.columns["x"].is_floating_point() or task.forget.columns["x"].dtype == torch.uint8):
        raise WrongColumn("x of 'forget' holds whole numbers (tokens), to which no noise can be added, so nothing was started. "
                          "Choose a method for such inputs: scrub, neggrad_plus.")

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        x = pixels(batch.x)
        outputs = task.outputs(m, batch)
        total = torch.zeros(len(batch), device=x.device)
        for _ in range(cfg.draws):   # the loop seeds the global generator at every step
            noise = cfg.sigma * torch.randn(x.shape, dtype=x.dtype).to(x.device)   # on the CPU: the same on every device
            if cfg.clamp:
                noise = (x + noise).clamp(x.min(), x.max()) - x
            with torch.set_grad_enabled(not cfg.detach):
                moved = task.outputs(m, batch.replace(x=x + noise))
            total = total + roughness(outputs, moved, noise)
        return total / cfg.draws

    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, momentum=0.0, clip=cfg.clip)
    return loop.finish(model)

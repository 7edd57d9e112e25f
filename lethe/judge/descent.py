"""Does one model descend from another? A reference that was made of the original has seen what it should never have seen.

    distance(a, b) = ‖θ_a − θ_b‖ / ‖θ_b − θ_0‖          θ_0 the weights that both started from, where they are known; else 0
    units(a, b)    = over b's hidden units the median of max_j |corr(unit of b, unit j of a)|, on the same inputs
    chance(a, b)   = the same after a's units were mixed at random (h ↦ hG, G Gaussian): what equal subspaces explain
    gain           = (1 − chance + ε)/(1 − units + ε), ε = 0.005, of the layer where it is largest

A descendant keeps its parent's units, wherever a permutation or a rescaling puts them; a model of a training of its own has
others that span similar subspaces, so its units agree with the parent's no better than mixed ones do. Measured [ours]: gain 0.8
to 2.4 for independent trainings of MLPs (4 to 512 units wide), small CNNs, regressors and a decoder, 4.6 to 41 after unlearners,
also with units permuted and rescaled; distance 1.0 to 1.5 against 0.001 to 0.18 (0.75: a net of 4 units that learned on).
What both started from (a pre-trained base, equal initial weights) gives them the same units: there only the distance can speak,
and a long unlearning leads as far as another training (0.33 against 0.12 to 0.5), so it only names what is nearer than `NEAR`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.guard import bare
from lethe.core.modules import device_of, evaluating, hooked
from lethe.core.passes import drawn, sample
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.words import number

GAIN = 3.0         # above: the units are the other's
NEAR = 0.05        # of the way from what both started from; nearer is no other training
APART = 0.5        # of the size of the weights; two trainings are further apart where nothing is known of a start
EPSILON = 0.005
LAYERS, EXAMPLES, ROWS, UNITS, MIXES = 6, 500, 1000, 256, 8
FEWEST = 30        # activations below which correlations say nothing
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Activations = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Kinship:
    """How near a model is to another one. None: it cannot be measured (no layers, or none of equal shape, in common).

    based   whether the distance is relative to a start that both have
    """

    distance: float | None
    units: float | None
    chance: float | None
    based: bool = False

    @property
    def gain(self) -> float:
        """How much better the units agree than by chance; 1 where it is not measured."""
        return 1.0 if self.units is None or self.chance is None else _gain(self.units, self.chance)

    @property
    def close(self) -> bool:
        """Whether one was made of the other."""
        if self.based:
            return self.distance is not None and self.distance < NEAR
        return (self.distance is not None and self.distance < APART) or self.gain > GAIN

    @property
    def known(self) -> bool:
        """Whether anything could be measured."""
        return self.distance is not None or self.units is not None

    @property
    def words(self) -> str:
        """The numbers in words."""
        start = "of the way from their common start" if self.based else "of the size of the weights"
        far = [] if self.distance is None else [f"distance {self.distance:.2g} {start}"]
        alike = [] if self.units is None or self.based else [
            f"hidden units correlate at {number(self.units)} (by chance {number(self.chance)})"]
        return ", ".join(far + alike) or "neither layers nor weights in common"


def kinship(a: nn.Module, b: nn.Module, seen_a: Activations, seen_b: Activations, base: nn.Module | None = None, seed: int = 0
            ) -> Kinship:
    """How near a is to b; `seen` is what `hidden` says of each.  base: what both started from, where that is known"""
    found = [matched(seen_b[name], seen_a[name], seed) for name in seen_b
             if name in seen_a and len(seen_a[name]) == len(seen_b[name])]
    known = [pair for pair in found if pair is not None]
    units, chance = max(known, key=lambda pair: _gain(*pair)) if known else (None, None)
    return Kinship(weight_distance(bare(a), bare(b), base), units, chance, base is not None)


def weight_distance(a: nn.Module, b: nn.Module, base: nn.Module | None = None) -> float | None:
    """‖θ_a − θ_b‖/‖θ_b − θ_0‖ over the parameters of equal name and shape in all; None where they are not most of b's."""
    mine, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    start = None if base is None else dict(base.named_parameters())
    shared = [name for name, p in theirs.items() if name in mine and mine[name].shape == p.shape
              and (start is None or (name in start and start[name].shape == p.shape))]
    if 2 * sum(theirs[name].numel() for name in shared) <= sum(p.numel() for p in theirs.values()):
        return None
    apart = sum(_squares(mine[name], theirs[name]) for name in shared)
    whole = sum(_squares(theirs[name], None if start is None else start[name]) for name in shared)
    return math.sqrt(apart / whole) if whole else math.inf


def hidden(task: Task, model: nn.Module, names: Sequence[str], seed: int = 0) -> Activations:
    """What the named layers give on a sample of examples: layer -> [rows, units]. Layers that the model lacks are left out."""
    inside = bare(model)
    held: dict[str, list[Tensor]] = {name: [] for name in names}
    modules = dict(inside.named_modules())
    present = [name for name in names if name in modules]

    def keep(name: str, out: object) -> None:
        if isinstance(out, Tensor) and out.is_floating_point() and out.dim() >= 2:
            channels = out.detach().movedim(1, -1) if isinstance(modules[name], CONVOLUTIONS) else out.detach()
            held[name].append(channels.flatten(0, -2).float().cpu())

    handles = [modules[name].register_forward_hook(lambda _, __, out, name=name: keep(name, out)) for name in present]
    with hooked(*handles), evaluating(inside):
        for batch in drawn(task, examined(task, seed), 100, ("descent",), device=device_of(inside)):
            task.outputs(inside, batch)
    whole = {name: torch.cat(parts) for name, parts in held.items() if parts}
    return {name: x[np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)].numpy() for name, x in whole.items()}


def examined(task: Task, seed: int = 0) -> Split:
    """The examples on which models are compared: retained ones, where there are any."""
    split = task.retain if task.has("retain") else task.forget
    return sample(split, EXAMPLES, numpy_generator(seed, "descent", "examples"))


def layers(model: nn.Module) -> list[str]:
    """Names of up to `LAYERS` layers whose outputs are hidden units, evenly over the depth: not the last, which answers."""
    found = [name for name, module in bare(model).named_modules()
             if not list(module.children()) and any(p.dim() >= 2 for p in module.parameters())][:-1]
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(LAYERS, len(found))).astype(int))] if found else []


def matched(parent: np.ndarray, child: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """(units, chance) of one layer; None where it has no two units or too few rows.  [n, d], [n, e]"""
    parent, child = _varying(parent), _varying(child)
    if len(parent) < FEWEST or parent.shape[1] < 2 or child.shape[1] < 2:
        return None
    rng = numpy_generator(seed, "descent", "units")
    parent = parent[:, rng.permutation(parent.shape[1])[:UNITS]]
    chance = [_agreement(parent, child @ rng.normal(size=(child.shape[1],) * 2)) for _ in range(MIXES)]
    return _agreement(parent, child), float(np.mean(chance))


def _agreement(parent: np.ndarray, child: np.ndarray) -> float:
    """The median over the parent's units of the largest |correlation| with a unit of the child."""
    return float(np.median(np.abs(_unit(parent).T @ _unit(child)).max(1)))


def _varying(x: np.ndarray) -> np.ndarray:
    """Centred units, without those that never change."""
    moved = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    size = np.linalg.norm(moved, axis=0)
    kept: np.ndarray = moved[:, np.isfinite(size) & (size > 1e-6 * max(1e-6, float(size.max(initial=0.0))))]
    return kept


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    return unit


def _gain(units: float, chance: float) -> float:
    return (1 - chance + EPSILON) / (1 - units + EPSILON)


def _squares(p: Tensor, q: Tensor | None) -> float:
    """‖p − q‖², in double precision; q None: ‖p‖²."""
    there = p.detach().cpu().double()
    return float((there if q is None else there - q.detach().cpu().double()).pow(2).sum())

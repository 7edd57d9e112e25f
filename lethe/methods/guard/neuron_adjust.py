"""Neuron Adjust: neurons that fire otherwise for a forgotten skill are moved to what they do for a retained one; weights stay.
Li, Yuan, Wang & Weng (2025), "Effective Skill Unlearning through Intervention and Abstention", arXiv:2503.21730 (NAACL 2025).

    x → 2 μ_r − ((x − μ_f)/σ_f · σ_r + μ_r)   where  N(x; μ_f, σ_f) ≥ N(x; μ_r, σ_r)  and  U ≥ p_r/(p_f + p_r)

x the activation of a selected neuron at any token, (μ_f, σ_f), (μ_r, σ_r) its mean and standard deviation over the tokens of F
and of R, p_f, p_r the two densities at x, U uniform in [0, 1); selected are the neurons with the largest μ_f − μ_r of block ℓ.
Needs:    forget, retain, original.     Updates: nothing; the outcome is a guard.
Cost:     one forward of F and of R to set up; a few operations on one layer per token.
Limits:   share → 0 is the original; equal statistics of F and R reflect x at μ_r.
Fails by: single facts: their neurons fire for retained facts, too (it is made for skills). It acts at every token of every
          prompt, so retained answers change as well. Whoever holds the weights takes it off (audit: `guard`).
Deviations: the official code takes the forget deviation from the forget mean and a variance for a deviation, and draws one U a
          batch; here the formulas. U is drawn once for each neuron and kept, so that the guarded model is a function: it says the
          same twice, and likelihoods are those of its texts. σ has a floor of 1e-6. Tokens of prompts and answers count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lethe.core.config import Natural, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import LanguageGuard, Prompt, layer_of, read_by
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.passes import plain
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.maths.answers import counted
from lethe.train.loop import Loop

BATCH, FLOOR = 32, 1e-6   # rows of one pass; least standard deviation


@config
class NeuronAdjust:
    """Options of Neuron Adjust."""

    layer: Natural | None = None   # ℓ from 0; null: the last block                                          [official code]
    share: Positive = 3.0          # selected neurons, in percent: 0.5 for languages, 3 for maths and code   [official code]


class Normal(NamedTuple):
    """Mean and standard deviation by neuron.  [k] each"""

    mean: Tensor
    std: Tensor

    def logp(self, x: Tensor) -> Tensor:
        """log N(x; μ, σ) without its constant."""
        return -((x - self.mean) / self.std).square() / 2 - self.std.log()


def adjusted(x: Tensor, forget: Normal, retain: Normal, u: Tensor) -> Tensor:
    """[..., k] -> [..., k]

    F = N(2, 1), R = N(0, 1), x = 2: p_r/(p_f + p_r) = 1/(1 + e²) = 0.119; U = 0.5 moves x to 2·0 − ((2 − 2) + 0) = 0, U = 0.1
    does not; x = 3 goes to −1. At x = 0.9 < 1 the density of F is the smaller one: it stays.
    """
    odds = forget.logp(x) - retain.logp(x)   # log p_f/p_r
    moved = retain.mean - (x - forget.mean) / forget.std * retain.std
    return torch.where((odds >= 0) & (u >= torch.sigmoid(-odds)), moved, x)


def statistics(model: nn.Module, layer: str, split: Split, device: torch.device | str) -> Normal:
    """Of what a layer reads, over the tokens of a split; sums in float64."""
    sums: list[Tensor] = []
    for batch in plain(split, BATCH, device=device):
        x = read_by(model, layer, batch.ids)[counted(batch.length, batch.ids.shape[1])].double()
        sums.append(torch.stack([torch.full_like(x[0], len(x)), x.sum(0), x.square().sum(0)]))
    count, total, square = torch.stack(sums).sum(0)
    mean = total / count
    return Normal(mean.float(), (square / count - mean.square()).clamp(min=0).sqrt().clamp(min=FLOOR).float())


class Adjusted(LanguageGuard):
    """Adjusts selected inputs of a layer.

    forget, retain  [2, k] means and deviations    chosen  [k] which inputs     u  [k] uniform numbers
    """

    forget: Tensor
    retain: Tensor
    chosen: Tensor
    u: Tensor
    matrix: str

    def working(self, prompts: Sequence[Prompt], where: Tensor, cached: bool) -> AbstractContextManager[None]:
        return self._adjusting()

    @contextmanager
    def _adjusting(self) -> Iterator[None]:
        def change(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].clone()
            new = adjusted(x[..., self.chosen].float(), Normal(*self.forget), Normal(*self.retain), self.u)
            x[..., self.chosen] = new.to(x.dtype)
            return (x, *args[1:])

        with hooked(self.model.get_submodule(self.matrix).register_forward_pre_hook(change)):
            yield


@method(needs={"forget", "retain", "original"}, uses={"down_projections", "layer_count"}, mechanism="guard")
def run(cfg: NeuronAdjust, task: LanguageTask, loop: Loop) -> Outcome:
    model, matrix = loop.start(), layer_of(task, cfg.layer)
    gone, kept = (statistics(model, matrix, split, loop.settings.device) for split in (task.forget, task.retain))
    count = min(len(gone.mean), max(1, round(cfg.share / 100 * len(gone.mean))))
    chosen = (gone.mean - kept.mean).topk(count).indices
    u = torch.rand(count, generator=loop.generator("neuron_adjust")).to(chosen.device)
    loop.note(f"{count} of {len(gone.mean)} neurons are adjusted at every token; nothing was removed")
    return loop.finish(model, guard=lambda m: Adjusted(
        m, forget=torch.stack(gone)[:, chosen], retain=torch.stack(kept)[:, chosen], chosen=chosen, u=u, matrix=matrix))

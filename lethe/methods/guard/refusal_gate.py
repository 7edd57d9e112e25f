"""Refusal gate: a prompt that comes as near to the forgotten ones as hardly any other does is refused; the weights stay.
Scores: nearest neighbours of features, Sun, Ming, Zhu & Li (2022), arXiv:2204.06507; of gradients in a low-dimensional subspace,
Wu et al. (2023), arXiv:2310.17163. Threshold: conformal p-values, as in Liang, Zhou & Sesia (2023), arXiv:2301.11556.

    refuse x  ⟺  s(x) > q,    s(x) = −‖z(x)/‖z(x)‖ − its k-th nearest among the z(x_f)/‖z(x_f)‖, x_f ∈ F‖
    q = the ⌈(1 − α)(n + 1)⌉-th smallest of s(x_1), …, s(x_n),  x_i ∈ R
    features   z(x) = h_ℓ(x)
    gradient   z(x) = Vᵀ g(x),  g(x) = ∇_W log Σ_v exp f_v(x),  V = the first K right singular vectors of [g(x_f)]_{x_f ∈ F}

F, R prompts of forgotten and retained records, h_ℓ the state after block ℓ at the prompt's last token, f the logits of the first
token of the answer, W the matrix that writes the MLP's result in block ℓ, α the promised rate of false alarms.
Needs:    forget, retain, original; prompts (no plain text).     Updates: nothing; the outcome is a guard.
Cost:     one more forward of the prompt per answer, with `gradient` also a backward to block ℓ.
Limits:   α → 0 refuses nothing (and is refused where R has fewer than ⌈1/α⌉ − 1 prompts); a forgotten prompt itself has
          s = 0 with k = 1 and is always refused.
Fails by: prompts that say the same in other words are far from F in z and pass; so does everything that is no prompt, such as the
          beginning of an answer in front of the model. A refusal tells that there is something to hide. Whoever holds the weights
          takes the gate off (audit: `guard`), and its file holds z of the forgotten prompts.
Deviations: scores of both papers say whether a picture is unlike the training data; here whether a prompt is like the forgotten
          ones, so the bank is F, and R only sets the threshold, which keeps the promise for prompts exchangeable with R. V comes
          from raw gradients of one matrix, not of all parameters over their Fisher information. The score of OrthLoss (Wu et al.
          2024, arXiv:2405.17816: largest probability plus Σ_v |cos(z, W_v)|) is not offered: it asks whether z leaves the span of
          the output vectors W_v, and a vocabulary larger than the width spans everything; nor does it serve a model that was not
          trained by that loss, whose largest probability alone is the better score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, config
from lethe.core.families.language import LanguageTask, prompted
from lethe.core.language_guard import Gate, Prompt, answer_tokens, hidden_states, layer_of, padded, prompts_of, require_enough
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.conformal import threshold
from lethe.train.loop import Loop

Score = Literal["features", "gradient"]


@config
class RefusalGate:
    """Options of the refusal gate."""

    score: Score = "features"             # what is compared with the forgotten prompts                   [paper]
    alpha: Fraction = 0.1                 # α, share of retained prompts that may be refused              [conformal paper]
    layer: Natural | None = None          # ℓ from 0; null: features the middle block, gradient the last  [ours]
    k: Count = 1                          # which neighbour; larger where F holds many alike              [paper: 50, ours: 1]
    components: Count = 32                # K, dimensions of the subspace [only with score=gradient]      [paper: 200]
    refusal: str = "I cannot answer that."   # what is said instead [e.g. No.]                            [ours]


def nearness(z: Tensor, bank: Tensor, k: int) -> Tensor:
    """−distance to the k-th nearest of the bank, rows brought to length 1.  [n, d], [m, d], k -> [n]

    nearness([[3, 0]], [[1, 0], [0, 2]], 1) = −0, and with k = 2: −√2.
    """
    apart = torch.cdist(nn.functional.normalize(z, dim=-1), nn.functional.normalize(bank, dim=-1),
                        compute_mode="donot_use_mm_for_euclid_dist")
    return -apart.kthvalue(min(k, len(bank)), dim=1).values


def gradients(model: nn.Module, name: str, prompts: Sequence[Prompt]) -> Tensor:
    """g(x) of one matrix: Σ_t δ_t κ_tᵀ, κ_t what its layer reads, δ_t the derivative by what it writes.  -> [n, out · in]"""
    held: dict[str, Tensor] = {}

    def keep(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        held["key"], held["out"] = args[0].detach(), out.detach().requires_grad_()
        return held["out"]

    found = []
    for ids, last in padded(model, prompts):
        with hooked(model.get_submodule(name).register_forward_hook(keep)), torch.inference_mode(False), torch.enable_grad():
            logits = model(input_ids=ids.clone(), use_cache=False).logits[torch.arange(len(ids)), last]
            delta, = torch.autograd.grad(logits.float().logsumexp(-1).sum(), held["out"])
        found.append(torch.einsum("nto,nti->noi", delta, held["key"]).flatten(1).float())
    return torch.cat(found)


def representation(model: nn.Module, layer: int, name: str, basis: Tensor) -> Callable[[Sequence[Prompt]], Tensor]:
    """z of prompts: features where there is no matrix, else gradients in the basis.  -> [n, d]"""
    if not name:
        return lambda prompts: torch.stack([states[-1] for states in hidden_states(model, prompts, layer)])
    return lambda prompts: gradients(model, name, prompts) @ basis


class Refusing(Gate):
    """Refuses prompts nearer to the forgotten ones than `limit`.

    bank   [m, d] z of the forgotten prompts     basis  [out · in, K] V; of features it is empty
    """

    bank: Tensor
    basis: Tensor
    limit: float
    layer: int
    matrix: str
    k: int

    def refused(self, prompts: Sequence[Prompt]) -> list[bool]:
        z = representation(self.model, self.layer, self.matrix, self.basis)(prompts)
        found: list[bool] = (nearness(z, self.bank, self.k) > self.limit).tolist()
        return found


@method(needs={"forget", "retain", "original"}, uses={"down_projections", "encode", "layer_count"}, mechanism="guard",
        check=prompted("refusal_gate"))
def run(cfg: RefusalGate, task: LanguageTask, loop: Loop) -> Outcome:
    kept = prompts_of(task.retain)
    require_enough(len(kept), cfg.alpha)
    gradient, count = cfg.score == "gradient", task.layer_count
    layer = (count - 1 if gradient else count // 2) if cfg.layer is None else cfg.layer
    matrix = layer_of(task, layer)   # refuses blocks that are not there
    model, basis, matrix = loop.start(), torch.zeros(0), matrix if gradient else ""
    forgotten = prompts_of(task.forget)
    if gradient:
        basis = torch.linalg.svd(gradients(model, matrix, forgotten), full_matrices=False)[2][: cfg.components].T
    z = representation(model, layer, matrix, basis)
    bank = z(forgotten)
    limit = threshold(nearness(z(kept), bank, cfg.k), cfg.alpha)
    share = float((nearness(bank, bank, cfg.k) > limit).float().mean())
    loop.note(f"the gate refuses {share:.0%} of the forgotten prompts and promises to refuse at most {cfg.alpha:.0%} of prompts "
              f"like the {len(kept)} retained ones; it knows prompts by their wording and removes nothing")
    return loop.finish(model, guard=lambda m: Refusing(
        m, bank=bank, basis=basis, refusal=answer_tokens(task, cfg.refusal), limit=limit, layer=layer, matrix=matrix, k=cfg.k))

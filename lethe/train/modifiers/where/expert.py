"""Of a mixture of experts, the experts that the forget set is routed to most; everything else stays, the routers included.

UOE (also SEUF), Zhuang et al. 2024, arXiv:2411.18797: unlearning all of a mixture moves its routers, so that what is asked goes
to other experts and both forgetting and the rest suffer. s(l, i) = mean over the tokens of F of the softmax that the router of
block l gives expert i; the `experts` largest of all (l, i) move. The paper also trains the router of that block and anchors it to
the expert; here it stays, so that with one block each token of every text goes to the same experts there as before, exactly.
Experts that see every token (shared ones) are not chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.mixtures import mixtures
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection
from lethe.train.routing import require_mixture, router_states


@config
class Expert:
    experts: Count = 1          # that move, of all blocks [tested in test_expert]        [paper]
    batch_size: Count = 32      # examples per pass, of no matter to the sum [tested in test_expert]    [ours]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        share = routed(model, task, loop, self.batch_size)
        blocks = mixtures(model)
        order = sorted(((float(p), block, i) for block, row in enumerate(share) for i, p in enumerate(row)), reverse=True)
        everything = task.trainable(model)
        params: dict[str, nn.Parameter] = {}
        masks: dict[str, Tensor] = {}
        for _, block, expert in order[: self.experts]:
            for name, p, stacked in blocks[block].of_expert(expert):
                if name not in everything:
                    continue
                params[name] = p
                if stacked:
                    masks.setdefault(name, torch.zeros_like(p, dtype=torch.bool))[expert] = True
        if not params:
            raise RequestError("where=expert chose experts whose weights this task does not let move (an adapter?), so nothing "
                               "could move. Leave modifiers.where out.")
        said = ", ".join(f"expert {expert} of {blocks[block].name} ({p:.0%} of the forgotten tokens' routing)"
                         for p, block, expert in order[: self.experts])
        return Selection(params, masks, rest=f"of the mixture only {said} moves; routers and all else stay")


def routed(model: nn.Module, task: Task, loop: Draws, batch_size: int) -> list[Tensor]:
    """Mean routing probability of every expert over the tokens of the forget set, block by block.  -> blocks × [experts]"""
    blocks = require_mixture(model, "expert")
    sums, tokens = [torch.zeros(block.count, dtype=torch.float64) for block in blocks], 0
    for states in router_states(model, task, task.forget, loop, batch_size, "expert"):
        tokens += len(states[0])
        for total, block, seen in zip(sums, blocks, states, strict=True):
            total += block.probabilities(seen).double().sum(0).cpu()
    return [row / tokens for row in sums]

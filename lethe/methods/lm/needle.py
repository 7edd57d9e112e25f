"""Needle: disturb the few columns of MLPs that write the forgotten answers, and nothing else. Hong, Yu, Yang, Ravfogel & Geva
(2024), "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces", arXiv:2406.11614 (EMNLP 2025).

    v_lj ← v_lj + ε,  ε ~ N(0, (s · σ_lj)² I),     or  v_lj ← 0,     for the N columns with the largest a_lj
    a_lj = mean over F − mean over R of Σ_t m_lj(x, t) · ∂ log p(answer) / ∂ m_lj(x, t)

v_lj column j of the matrix that writes the MLP's result in block l, σ_lj the standard deviation of its entries, m_lj(x, t) what
it is multiplied by. With `at` the columns are given, as in the paper, and no data are looked at.
Needs:    original; forget and retain, unless `at` names the columns.     Updates: N columns; every other weight keeps its bits.
Cost:     one backward pass over F and R.
Limits:   s → 0 is the original. Zeroed, a column that is never used changes nothing.
Fails by: what is spread over many columns, as everything is in small models: there a concept falls by a quarter, a few percent of
          other answers go with it, and the paper's halving at less than 5 % of damage does not reproduce. Attention knows, too
          (audit: `concept_vectors`).
Deviations: the paper finds one column per concept by what its tokens mean to a language model, checked by people; here columns
          are attributed by what they do to answers. Its noise has the standard deviation 0.1 whatever the weights' scale; here it
          is relative to the column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import layer_of
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.maths.columns import attribution, columns
from lethe.train.loop import Loop

BATCH = 16
PLACE = re.compile(r"(\d+):(\d+)")


@config
class Needle:
    """Options of Needle."""

    columns: Count = 8         # N, of all blocks together                                  [ours; paper: 1, found by people]
    how: Literal["noise", "zero"] = "noise"   # what becomes of them                        [paper: noise]
    scale: Positive = 2.0      # s, standard deviations of a column                         [ours; official code 0.1, absolute]
    at: tuple[str, ...] = ()   # the columns themselves, block:column from 0 [e.g. 1:5]     [paper]


def disturbed(column: Tensor, how: Literal["noise", "zero"], scale: float, rng: torch.Generator) -> Tensor:
    """v + ε, or 0.  [d] -> [d]"""
    if how == "zero":
        return torch.zeros_like(column)
    noise = torch.randn(len(column), generator=rng).to(column.device)
    return (column.float() + scale * column.float().std(correction=0) * noise).to(column.dtype)


def given(at: Sequence[str], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(block, column) of each; RequestError for one that is not there. sizes: columns of every block"""
    found = []
    for one in at:
        place = PLACE.fullmatch(one)
        block, column = (int(part) for part in place.groups()) if place else (-1, -1)
        if not (0 <= block < len(sizes) and 0 <= column < sizes[block]):
            raise RequestError(f"method.at names {one!r}, but the model has blocks 0…{len(sizes) - 1} of {min(sizes)} columns, "
                               "so nothing was started. Write block:column, both from 0.")
        found.append((block, column))
    return found


@method(needs={"forget?", "original", "retain?"}, uses={"down_projections", "layer_count", "token_logp"}, mechanism="noise",
        instead={"forget": "at=[0:1]", "retain": "at=[0:1]"})
def run(cfg: Needle, task: LanguageTask, loop: Loop) -> Outcome:
    model = loop.start()
    names = [layer_of(task, layer) for layer in range(task.layer_count)]
    writers = [model.get_submodule(name) for name in names]
    sizes = [columns(writer).shape[1] for writer in writers]
    places = given(cfg.at, sizes)
    if not places:
        score = attributed(task, loop, model, writers, task.forget) - attributed(task, loop, model, writers, task.retain)
        best = score.flatten().argsort(descending=True)[: cfg.columns].tolist()
        places = [divmod(place, score.shape[1]) for place in best]
    rng, touched = loop.generator("needle"), {f"{names[block]}.weight" for block, _ in places}
    values = {name: model.get_parameter(name).detach().clone() for name in touched}
    for block, column in places:
        name = f"{names[block]}.weight"
        across = values[name] if isinstance(writers[block], nn.Linear) else values[name].T   # GPT-2's matrix lies the other way
        across[:, column] = disturbed(across[:, column], cfg.how, cfg.scale, rng)
    loop.note(f"{len(places)} of {sum(sizes)} columns were {'zeroed' if cfg.how == 'zero' else 'disturbed'} (block:column): "
              f"{', '.join(f'{block}:{column}' for block, column in places[:12])}")
    return loop.finish(loop.assign(model, values))


def attributed(task: LanguageTask, loop: Loop, model: nn.Module, writers: Sequence[nn.Module], split: Split) -> Tensor:
    """Mean a of every column over a split, in eval mode.  -> [L, inner]"""
    loop.cost.examples += len(split)
    with evaluating(model):
        return attribution(writers, loop.drawn(split, BATCH, "needle"), lambda batch: task.token_logp(model, batch)) / len(split)

"""Several answers to one question in one pass: what they share, the question and how they begin, is read once.

    Where was she born? She was born in ┬ Bath .     one row: each token once, at its place of its own branch (position), seeing
                                        └ Cork .     what stands before it on that branch alone (mask)

Every token sees what it sees where its answer stands alone, so the losses are the same but for rounding. Not every architecture
takes such a mask (states that are carried along, windows, distances that are counted from the mask): the longest answer is read
alone as well, and where that says something else, all are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.guard import Guard
from lethe.core.language_guard import shape
from lethe.core.sequences import IGNORED
from lethe.core.split import Split
from lethe.models.lm import decoder
from lethe.models.lm.answers import predicting, targets

WORTH = 0.8    # share of the tokens of single rows, above which trees are not worth their masks                         [ours]
APART = 1e-4   # nats per token by which the longest answer's loss may differ from what it is alone                      [ours]


class Tree(NamedTuple):
    """One question with its answers."""

    tokens: list[int]            # each once, behind its parent
    parents: list[int]           # places of what stands before each; −1: nothing
    depths: list[int]            # positions
    asked: list[list[int]]       # by answer: the places that predict its tokens
    answers: list[list[int]]     # its tokens
    rows: list[int]              # where in the split it stands


def grown(head: Sequence[int], tails: Sequence[list[int]], rows: Sequence[int]) -> Tree:
    """A question (at least one token) and its answers."""
    tokens, parents, depths = list(head), list(range(-1, len(head) - 1)), list(range(len(head)))
    known: dict[tuple[int, int], int] = {}
    asked = []
    for tail in tails:
        at, places = len(head) - 1, []
        for token in tail:
            places.append(at)
            if len(places) == len(tail):
                break   # nothing is predicted from the last token
            if (at, token) not in known:
                known[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
                depths.append(depths[at] + 1)
            at = known[at, token]
        asked.append(places)
    return Tree(tokens, parents, depths, asked, list(tails), list(rows))


def forest(split: Split) -> list[Tree]:
    """The trees of a split, a question each; none where they would save little."""
    ids, labels, lengths = (split.columns[key] for key in ("ids", "labels", "length"))
    starts = (labels != IGNORED).long().argmax(1).tolist()
    groups: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for row, (text, start, length) in enumerate(zip(ids.tolist(), starts, lengths.tolist(), strict=True)):
        groups.setdefault(tuple(text[:start]), []).append((row, text[start:length]))
    if () in groups or len(groups) > WORTH * len(split):
        return []
    trees = [grown(head, [tail for _, tail in some], [row for row, _ in some]) for head, some in groups.items()]
    return trees if sum(len(tree.tokens) for tree in trees) < WORTH * int(lengths.sum()) else []


def losses(model: nn.Module, split: Split, positions: int, device: torch.device | str) -> Tensor | None:
    """Mean negative log-probability of every answer's tokens, about `positions` at a time; None where trees do not do.  -> [n]"""
    trees = sorted(forest(split), key=lambda tree: len(tree.tokens)) if takes_masks(model) else []
    if not trees:
        return None
    longest = int(split.columns["length"].argmax())
    found = torch.zeros(len(split))
    _read(model, [next(tree for tree in trees if longest in tree.rows)], found, device)
    if not abs(_alone(model, split, longest, device) - float(found[longest])) < APART:
        return None
    for some in _batches(trees, positions):
        _read(model, some, found, device)
    return found


def _alone(model: nn.Module, split: Split, row: int, device: torch.device | str) -> float:
    """The loss of one answer in a row of its own."""
    batch = split.batch([row]).to(device)
    keep = predicting(batch)
    return float(F.cross_entropy(decoder.logits_at(model, batch.ids, keep).float(), targets(batch, keep)))


def takes_masks(model: nn.Module) -> bool:
    """Whether a model may be asked with positions and a mask of its own."""
    if isinstance(model, Guard) or getattr(shape(model), "_attn_implementation", "") not in ("sdpa", "eager"):
        return False
    return {"attention_mask", "position_ids"} <= set(inspect.signature(model.forward).parameters)


def _batches(trees: Sequence[Tree], positions: int) -> Iterator[list[Tree]]:
    """Consecutive trees of about so many tokens together."""
    some: list[Tree] = []
    for tree in trees:
        if some and (len(some) + 1) * len(tree.tokens) > positions:
            yield some
            some = []
        some.append(tree)
    yield some


def _read(model: nn.Module, trees: Sequence[Tree], found: Tensor, device: torch.device | str) -> None:
    """One pass; the losses go to their rows."""
    count, width = len(trees), max(len(tree.tokens) for tree in trees)
    ids, places = np.zeros((2, count, width), dtype=np.int64)
    keep = np.zeros((count, width), dtype=bool)
    for k, tree in enumerate(trees):
        ids[k, : len(tree.tokens)], places[k, : len(tree.tokens)] = tree.tokens, tree.depths
        keep[k, [place for asked in tree.asked for place in asked]] = True
    at = keep.cumsum().reshape(keep.shape) - 1    # where among the logits a place's are
    asked = np.concatenate([at[k, nodes] for k, tree in enumerate(trees) for nodes in tree.asked])
    tokens, mask = torch.from_numpy(ids).to(device), _masked(trees, width, next(model.parameters()).dtype)
    logits = decoder.logits_at(model, tokens, torch.from_numpy(keep).to(device), attention_mask=mask.to(device),
                               position_ids=torch.from_numpy(places).to(device)).float()
    which = torch.from_numpy(asked).to(device)
    answers = torch.tensor([token for tree in trees for tail in tree.answers for token in tail], device=device)
    nll = (logits.logsumexp(-1)[which] - logits[which, answers]).cpu()
    lengths = [len(tail) for tree in trees for tail in tree.answers]
    rows = torch.tensor([row for tree in trees for row in tree.rows])
    found[rows] = torch.stack([part.mean() for part in nll.split(lengths)])


def _masked(trees: Sequence[Tree], width: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention: 0 to what stands before a token on its branch and to itself, else −∞.  -> [n, 1, T, T]"""
    sees = np.repeat(np.eye(width, dtype=bool)[None], len(trees), 0)   # a pad sees itself
    for own, tree in zip(sees, trees, strict=True):
        for place, parent in enumerate(tree.parents[1:], 1):
            own[place] |= own[parent]
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~torch.from_numpy(sees), torch.finfo(dtype).min).unsqueeze(1)

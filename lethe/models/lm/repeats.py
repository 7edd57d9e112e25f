"""Greedy answers in blocks: what repeats itself is proposed, and one pass says how much of it is indeed the arg-max.

    said    … and the sea and the sea and          the last tokens stood before: what followed there is proposed
    block   and | the sea and                      one pass; each proposed token that the one before it predicts is kept

Models without their knowledge go round in circles until the last token that is allowed; there a block is one pass in place of
many, and elsewhere a block is one token. The answers are those of one token after the other. What was proposed in vain stays
among the keys and values, and is masked; answers that have ended leave. Only for models whose cache is plain keys and values
by position (`held`); `can` tries that out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lethe.core.guard import bare
from lethe.core.language_guard import shape
from lethe.models.lm import decoder
from lethe.models.lm.held import Going, plain
from lethe.models.lm.trees import takes_masks

GRAM = 3        # tokens that have to stand before as they stand last, for what followed to be proposed                  [ours]
BLOCK = (4, 32)   # tokens of a block: the first, and the most, to which it doubles while half of what is proposed is kept [ours]
APART = 1e-3    # logits of blocks and of one whole pass differ by less, in parts of their spread, where they mean the same


def continued(model: nn.Module, texts: Sequence[list[int]], ends: Sequence[int], pad: int, caps: Sequence[int], limit: int
              ) -> list[list[int]]:
    """What follows each text, up to an end (it may stand among the tokens) or `caps` tokens.

    limit   keys and values that a model takes: before there are more, those that do not count leave
    """
    made: list[list[int]] = [[] for _ in texts]
    rows, going, size = list(range(len(texts))), Going(model, texts, pad), BLOCK[0]
    said = going.first.unsqueeze(1).tolist()
    while True:
        for k, new in zip(rows, said, strict=True):
            made[k] = until_end([*made[k], *new], ends)[: caps[k]]
        still = [at for at, k in enumerate(rows) if len(made[k]) < caps[k] and made[k][-1] not in ends]
        if not still:
            return made
        if len(still) < len(rows) or going.mask.shape[1] >= limit:
            rows = [rows[at] for at in still]
            going.leave(still)
        ahead = [proposed(made[k], min(size, limit - going.mask.shape[1]) - 1) for k in rows]
        if 2 * sum(map(bool, ahead)) < len(rows):
            ahead = [[] for _ in rows]   # many would be read in vain
        said, kept = _passed(going, [made[k][-1] for k in rows], ahead)
        size = min(2 * size, BLOCK[1]) if kept >= 0.5 else BLOCK[0]


def _passed(going: Going, last: Sequence[int], ahead: Sequence[list[int]]) -> tuple[list[list[int]], float]:
    """The new tokens of each answer after one block, and the share of those proposed that are among them."""
    width = 1 + max(map(len, ahead))
    block = torch.tensor([[one, *more, *[one] * (width - 1 - len(more))] for one, more in zip(last, ahead, strict=True)],
                         device=going.device)
    guessed = decoder.likeliest(going.read(block))
    accepted = 1 + (guessed[:, :-1] == block[:, 1:]).long().cumprod(1).sum(1)
    going.keep(accepted)
    counts = accepted.tolist()
    kept = sum(count - 1 for count, more in zip(counts, ahead, strict=True) if more) / max(1, sum(map(len, ahead)))
    return [row[:count] for row, count in zip(guessed.tolist(), counts, strict=True)], kept


def proposed(said: Sequence[int], count: int) -> list[int]:
    """`count` tokens that follow if what followed the last `GRAM` tokens when they last stood before follows again; else none."""
    tail = list(said[-GRAM:])
    start = next((at + GRAM for at in range(len(said) - GRAM - 1, -1, -1) if said[at : at + GRAM] == tail), None)
    if start is None or len(tail) < GRAM:
        return []
    more = list(said[start:])
    return [more[k % len(more)] for k in range(count)]


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end, which stays."""
    return tokens[: next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))]


def can(model: nn.Module, pad: int) -> bool:
    """Whether blocks say what one whole pass says: texts of two lengths, and tokens that do not count between others."""
    if not takes_masks(model):
        return False
    if any(value for key, value in vars(shape(model)).items() if re.search("window(_size)?$|chunk_size$", key)):
        return False   # a window counts what was proposed in vain
    size = len(cast(Tensor, decoder.head(bare(model)).weight))
    texts = [[token % size for token in some] for some in (range(3, 10), range(10, 13))]
    if not plain(model, texts[0]):
        return False
    going = Going(model, texts, pad)
    said = [[*text] for text in texts]
    found: list[list[Tensor]] = [[], []]
    for block, counts in (((5, 4, 9), (7, 8, 6)), (1, 2)), (((3, 9), (4, 9)), (2, 2)), (((8, 3), (6, 5)), (2, 2)):
        tokens = torch.tensor(block, device=going.device) % size
        logits = going.read(tokens).float()
        going.keep(torch.tensor(counts, device=going.device))
        if counts == (2, 2):
            going.leave([0, 1])
        for row, count in enumerate(counts):
            said[row] += tokens[row, :count].tolist()
            found[row].append(logits[row, :count])
    for text, whole, parts in zip(texts, said, found, strict=True):
        want = model(input_ids=torch.tensor([whole], device=going.device), use_cache=False).logits[0, len(text) :].float()
        if not (torch.cat(parts) - want).abs().max() < APART * want.std():
            return False
    return True

"""Greedy answers in blocks: what repeats itself is proposed, and one pass says how much of it is indeed the arg-max.

    said    … and the sea and the sea and          the last tokens stood before: what followed there is proposed
    block   and | the sea and                      one pass; each proposed token that the one before it predicts is kept

Models without their knowledge go round in circles until the last token that is allowed; there a block is one pass in place of
many, and elsewhere a block is one token. The answers are those of one token after the other. What was proposed in vain stays
among the keys and values, and is masked; answers that have ended leave. Only for models whose cache is plain keys and values
by position; `can` tries that out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.guard import bare
from lethe.core.language_guard import shape
from lethe.core.modules import device_of
from lethe.core.sequences import left_padded
from lethe.models.lm import decoder
from lethe.models.lm.trees import takes_masks

GRAM = 3        # tokens that have to stand before as they stand last, for what followed to be proposed                  [ours]
BLOCK = (4, 32)   # tokens of a block: the first, and the most, to which it doubles while half of what is proposed is kept [ours]
APART = 1e-3    # logits of blocks and of one whole pass differ by less, in parts of their spread, where they mean the same


class Going:
    """Texts that a model goes on with: their keys and values, and which of them count."""

    def __init__(self, model: nn.Module, texts: Sequence[list[int]], pad: int) -> None:
        from transformers import DynamicCache

        self.model, self.device = model, device_of(model)
        self.cache: Any = DynamicCache(config=cast(Any, bare(model)).config)
        ids, self.mask = (x.to(self.device) for x in left_padded(texts, pad))
        self.count = self.mask.sum(1)
        self.width = 0
        last = torch.zeros_like(ids, dtype=torch.bool)
        last[:, -1] = True
        places = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.first = self._logits(ids, last, places).argmax(-1)   # the token behind each text  [n]

    def read(self, block: Tensor) -> Tensor:
        """Logits behind each token of a block that comes next.  [n, b] -> [n, b, V]"""
        self.mask = torch.cat([self.mask, torch.ones_like(block)], 1)
        places = self.count.unsqueeze(1) + torch.arange(block.shape[1], device=self.device)
        logits: Tensor = self._logits(block, torch.ones_like(block, dtype=torch.bool), places)
        return logits.view(*block.shape, -1)

    def keep(self, accepted: Tensor) -> None:
        """So many tokens of the last block count.  [n]"""
        self.mask[:, -self.width :] = torch.arange(self.width, device=self.device) < accepted.unsqueeze(1)
        self.count = self.count + accepted

    def leave(self, still: Tensor) -> None:
        """Only these rows go on."""
        self.mask, self.count = self.mask[still], self.count[still]
        self.cache.batch_select_indices(still)

    def _logits(self, ids: Tensor, keep: Tensor, places: Tensor) -> Tensor:
        self.width = ids.shape[1]
        return decoder.logits_at(self.model, ids, keep, attention_mask=self.mask, position_ids=places, past_key_values=self.cache)


def continued(model: nn.Module, texts: Sequence[list[int]], ends: Sequence[int], pad: int, caps: Sequence[int], limit: int
              ) -> list[list[int]]:
    """What follows each text, up to an end (it may stand among the tokens) or `caps` tokens.

    limit   keys and values that a model takes: before there are more, with those that do not count, texts are read anew
    """
    made: list[list[int]] = [[] for _ in texts]
    rows = list(range(len(texts)))
    while rows:
        going, size = Going(model, [[*texts[k], *made[k]] for k in rows], pad), BLOCK[0]
        said = going.first.unsqueeze(1).tolist()
        while rows:
            for k, new in zip(rows, said, strict=True):
                made[k] = until_end([*made[k], *new], ends)[: caps[k]]
            still = [at for at, k in enumerate(rows) if len(made[k]) < caps[k] and made[k][-1] not in ends]
            done, rows = len(rows) - len(still), [rows[at] for at in still]
            if not rows or going.mask.shape[1] >= limit:
                break
            if done:
                going.leave(torch.tensor(still, device=going.device))
            ahead = [proposed(made[k], min(size, limit - going.mask.shape[1]) - 1) for k in rows]
            if 2 * sum(map(bool, ahead)) < len(rows):
                ahead = [[] for _ in rows]   # many would be read in vain
            said, kept = _passed(going, [made[k][-1] for k in rows], ahead)
            size = min(2 * size, BLOCK[1]) if kept >= 0.5 else BLOCK[0]
    return made


def _passed(going: Going, last: Sequence[int], ahead: Sequence[list[int]]) -> tuple[list[list[int]], float]:
    """The new tokens of each answer after one block, and the share of those proposed that are among them."""
    width = 1 + max(map(len, ahead))
    block = torch.tensor([[one, *more, *[one] * (width - 1 - len(more))] for one, more in zip(last, ahead, strict=True)],
                         device=going.device)
    guessed = going.read(block).argmax(-1)
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
    from transformers.cache_utils import DynamicLayer

    size = len(cast(Tensor, decoder.head(bare(model)).weight))
    texts = [[token % size for token in some] for some in (range(3, 10), range(10, 13))]
    going = Going(model, texts, pad)
    if not all(type(layer) is DynamicLayer and layer.is_initialized for layer in going.cache.layers):
        return False
    blocks = [[[token % size for token in row] for row in rows] for rows in (((5, 4, 9), (7, 8, 6)), ((3, 9), (4, 9)))]
    found = [going.read(torch.tensor(blocks[0], device=going.device))]
    going.keep(torch.tensor([1, 2], device=going.device))
    found.append(going.read(torch.tensor(blocks[1], device=going.device)))
    for row, (text, count) in enumerate(zip(texts, (1, 2), strict=True)):
        whole = [*text, *blocks[0][row][:count], *blocks[1][row]]
        want = model(input_ids=torch.tensor([whole], device=going.device), use_cache=False).logits[0, len(text) :].float()
        have = torch.cat([found[0][row, :count], found[1][row]]).float()
        if not (have - want).abs().max() < APART * want.std():
            return False
    return True

"""What layers read of prompts, token by token: which tokens an edit takes, of two prompts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lethe.core.families.diffusion import Words

Policy = Literal["last_subject", "subject_to_end", "all", "eos"]   # the last word; it and all behind; every token; the first end


def aligned(old: Sequence[Words], new: Sequence[Words], policy: Policy) -> tuple[Tensor, Tensor]:
    """The states of old and new prompts at the tokens that the policy names, side by side.  -> [m, d] ×2

    old, new  of the same number of prompts, once for each text encoder
    """
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for one, other in zip(old, new, strict=True):
        for i, ends in enumerate(zip(one.end.tolist(), other.end.tolist(), strict=True)):
            for where, words, span in zip(found, (one, other), spans(*ends, one.states.shape[1], policy), strict=True):
                where.append(words.states[i, span])
    return torch.cat(found[0]), torch.cat(found[1])


def spans(old: int, new: int, length: int, policy: Policy) -> tuple[slice, slice]:
    """The tokens that the policy names of two prompts of `length` tokens whose first end tokens stand at `old` and `new`."""
    if policy == "all":
        return slice(None), slice(None)
    if policy == "eos":
        return slice(old, old + 1), slice(new, new + 1)
    first, other = max(old - 1, 0), max(new - 1, 0)   # the last word; of an empty prompt the start token, or the end token
    width = 1 if policy == "last_subject" else length - max(old, new) + 1   # else to the end of both, cut to equal length
    return slice(first, first + width), slice(other, other + width)

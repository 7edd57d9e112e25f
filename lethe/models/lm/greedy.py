"""Continuations, greedy, drawn or guided, step by step, whatever a folder's generation_config proposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.guard import Guard, bare
from lethe.core.modules import device_of, evaluating
from lethe.core.sequences import left_padded
from lethe.models.lm import decoder

Rescored = Callable[[Tensor, Tensor, Tensor], Tensor]
STRIDE = 32         # new tokens after which answers that have not ended are put together anew
TOKENS = 2**14      # tokens of one batch, pads included, whose keys and values are held at a time                        [ours]
APART = 1e-3   # logits step by step and of one whole pass differ by less, in parts of their spread, where they mean the same


def ends_of(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's folder names (turns of a chat)."""
    named = getattr(getattr(bare(model), "generation_config", None), "eos_token_id", None)
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return list(dict.fromkeys([*([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *named]))


def continued(
    model: nn.Module, prompts: Sequence[list[int]], ends: Sequence[int], pad: int, most: int, limit: int,
    rescored: Rescored | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to the first of `ends` (left out) or `most`, and to the model's last position.

    rescored  (ids [n, T], mask of the prompts [n, width], logits [n, V]) -> what the next token is the largest of

    Batches are sorted by length and padded on the left, so that every prompt ends where its answer starts. After `STRIDE` tokens
    the answers that have not ended are put together anew, so that few wait for the longest. A model that does not pass over pads
    gets batches of one length, and one whose cache mixes up the batch (RWKV) is asked without it.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    configured: Any = GenerationConfig
    settings = configured(do_sample=False, num_beams=1, eos_token_id=list(ends) or None, pad_token_id=pad)
    answers: list[list[int]] = [[] for _ in prompts]
    stride = most if rescored is not None or isinstance(model, Guard) else STRIDE   # these know where a prompt ends by its batch
    with evaluating(model), _unconfigured(model):
        settings.use_cache, pads = _way(model, pad)
        going = list(range(len(prompts)))
        for done in range(0, most, stride):
            asked, still = {i: [*prompts[i], *answers[i]] for i in going}, []
            for places in _batches(asked, min(stride, most - done), pads):
                ids, mask = left_padded([asked[i] for i in places], pad)
                width = ids.shape[1]
                settings.max_new_tokens = max(1, min(stride, most - done, limit - width))
                steps: Any = LogitsProcessorList([] if rescored is None else [_step(rescored, mask.to(device_of(model)))])
                made = cast(Any, model).generate(ids.to(device_of(model)), attention_mask=mask.to(device_of(model)),
                                                 generation_config=settings, logits_processor=steps)
                for i, row in zip(places, made[:, width:].tolist(), strict=True):
                    stop = next((at for at, token in enumerate(row) if token in ends), len(row))
                    answers[i] += row[:stop]
                    if stop == len(row) and len(asked[i]) + stop < limit:
                        still.append(i)
            going = still
    return answers


def _step(rescored: Rescored, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The same in the form that transformers asks for."""
    return lambda ids, logits: rescored(ids, mask, logits)


def gumbel(rng: torch.Generator, temperature: float, top_p: float = 1.0) -> Rescored:
    """Noise with which the most likely token is one drawn from softmax(logits/T), among the likeliest of mass `top_p`; from the
    CPU, so on every device the same."""
    def noisy(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        noise = torch.empty(logits.shape).exponential_(generator=rng).log().neg()
        return likeliest(logits / temperature, top_p) + noise.to(logits)

    return noisy


def likeliest(logits: Tensor, top_p: float) -> Tensor:
    """−∞ beyond the likeliest tokens that together have the probability `top_p`.  [n, V] -> [n, V]"""
    if top_p >= 1:
        return logits
    p, order = logits.float().softmax(-1).sort(-1, descending=True)
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, p.cumsum(-1) - p >= top_p)
    return logits.masked_fill(outside, -torch.inf)


def guided_by(other: nn.Module, scale: float, likely: float) -> Rescored:
    """log p + scale · (log q − log p), q the other model's probabilities; −∞ where q is below `likely` times its largest."""
    def scores(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
        pads, said = (mask == 0).sum(1), torch.empty_like(logits)
        for width in pads.unique().tolist():   # rows of one length: not every architecture takes a mask
            said[pads == width] = other(input_ids=ids[pads == width, width:], use_cache=False).logits[:, -1].to(said.dtype)
        logp, logq = logits.float().log_softmax(-1), said.float().log_softmax(-1)
        rare = logq < logq.amax(-1, keepdim=True) + math.log(likely)
        return (logp + scale * (logq - logp)).masked_fill(rare, -torch.inf)

    return scores


def _batches(prompts: Mapping[int, list[int]], more: int, pads: bool) -> Iterator[list[int]]:
    """Keys of prompts that are continued together by `more` tokens, within `TOKENS`; of one length unless `pads`."""
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    for group in [order] if pads else [list(some) for _, some in groupby(order, key=lambda i: len(prompts[i]))]:
        start = 0
        while start < len(group):
            widths = enumerate((len(prompts[i]) + more for i in group[start:]), 1)
            size = max(1, sum(1 for _ in takewhile(lambda one: one[0] * one[1] <= TOKENS, widths)))
            yield group[start : start + size]
            start += size


def _way(model: nn.Module, pad: int) -> tuple[bool, bool]:
    """The fastest of four ways to continue that says what one pass over the whole sequence says: with cache, with pads.

    A guard answers as a whole: it is asked with both.
    """
    from transformers import GenerationConfig

    configured: Any = GenerationConfig
    size = len(cast(Tensor, decoder.head(bare(model)).weight))
    ways = ((True, True), (True, False), (False, True), (False, False))
    for cached, pads in () if isinstance(model, Guard) else ways[:-1]:
        settings = configured(do_sample=False, max_new_tokens=3, output_logits=True, return_dict_in_generate=True,
                              pad_token_id=pad, use_cache=cached)
        prompts = [[token % size for token in prompt] for prompt in (range(3, 10 if pads else 6), range(10, 13))]
        ids, mask = left_padded(prompts, pad)
        width = ids.shape[1]
        made = cast(Any, model).generate(ids.to(device_of(model)), attention_mask=mask.to(device_of(model)),
                                         generation_config=settings)
        steps = torch.stack(made.logits, 1).float()
        whole = torch.cat([model(input_ids=row[None, width - len(prompt) : -1], use_cache=False).logits[:, len(prompt) - 1 :]
                           for row, prompt in zip(made.sequences, prompts, strict=True)]).float()
        if (steps - whole).abs().max() < APART * whole.std():
            return cached, pads
    return ways[0] if isinstance(model, Guard) else ways[-1]


@contextmanager
def _unconfigured(model: nn.Module) -> Iterator[None]:
    """Inside, the model has the library's generation_config: transformers fills what a call leaves open from the folder's."""
    from transformers import GenerationConfig

    inner: Any = bare(model)
    own = getattr(inner, "generation_config", None)
    if own is None:
        yield
        return
    inner.generation_config = cast(Any, GenerationConfig)()
    try:
        yield
    finally:
        inner.generation_config = own

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
from lethe.core.language_guard import shape
from lethe.core.modules import device_of, evaluating
from lethe.core.sequences import left_padded
from lethe.models.lm import decoder, repeats

Rescored = Callable[[Tensor, Tensor, Tensor], Tensor]
STRIDE = 16         # new tokens after which answers that have ended are left out                                           [ours]
TOKENS = 2**14      # tokens of one batch, pads included, whose keys and values are held at a time                        [ours]
HELD = 2**28        # bytes of keys and values that are held at a time, where that is more tokens                         [ours]
APART = 1e-3   # logits step by step and of one whole pass differ by less, in parts of their spread, where they mean the same


def ends_of(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's folder names (turns of a chat)."""
    named = getattr(getattr(bare(model), "generation_config", None), "eos_token_id", None)
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return list(dict.fromkeys([*([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *named]))


def continued(
    model: nn.Module, prompts: Sequence[list[int]], ends: Sequence[int], pad: int, most: int, limit: int,
    rescored: Rescored | None = None, begun: Sequence[list[int]] | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to the first of `ends` (left out) or `most`, and to the model's last position.

    rescored  (ids [n, T], mask of the prompts [n, width], logits [n, V]) -> what the next token is the largest of
    begun     with which tokens each answer is known to begin: they are not generated again

    Batches are sorted by length and padded on the left, so that every prompt ends where its answer starts. After `STRIDE` tokens
    the answers that have ended are left out, so that few wait for the longest. A model that does not pass over pads gets batches
    of one length, and one whose cache mixes up the batch (RWKV) is asked without it.
    """
    from transformers import GenerationConfig

    configured: Any = GenerationConfig
    settings = configured(do_sample=False, num_beams=1, eos_token_id=list(ends) or None, pad_token_id=pad,
                          return_dict_in_generate=not isinstance(model, Guard))
    answers = [until(tokens[:most], ends) for tokens in begun or [[]] * len(prompts)]
    asked = {i: [*prompts[i], *answers[i]] for i in range(len(prompts))
             if begun is None or len(answers[i]) == len(begun[i]) < most}
    with evaluating(model), _unconfigured(model):
        settings.use_cache, pads = _way(model, pad)
        blocks = settings.use_cache and pads and rescored is None and repeats.can(model, pad)
        room = TOKENS if rescored is not None else _room(model)   # what is drawn depends on the batch
        for places in _batches(asked, most, pads, room):
            texts = [asked[i] for i in places]
            caps = [min(most - len(answers[i]), max(1, limit - len(asked[i]))) for i in places]
            made = (repeats.continued(model, texts, ends, pad, caps, limit) if blocks else
                    _together(model, texts, settings, caps, limit, rescored))
            for i, new in zip(places, made, strict=True):
                answers[i] += until(new, ends)
    return answers


def _together(model: nn.Module, texts: Sequence[list[int]], settings: Any, caps: Sequence[int], limit: int,
              rescored: Rescored | None) -> list[list[int]]:
    """The tokens that follow each text of one batch, up to an end (it may stand among them) or `caps`."""
    from transformers import LogitsProcessorList

    made: list[list[int]] = [[] for _ in texts]
    going, cache, device = list(range(len(texts))), None, device_of(model)
    whole = rescored is not None or isinstance(model, Guard)   # these know where a prompt ends by its batch
    while going:
        if cache is None:
            ids, mask = (x.to(device) for x in left_padded([[*texts[k], *made[k]] for k in going], settings.pad_token_id))
        width, left = ids.shape[1], max(caps[k] - len(made[k]) for k in going)
        settings.max_new_tokens = max(1, min(left if whole else STRIDE, left, limit - width))
        steps: Any = LogitsProcessorList([] if rescored is None else [_step(rescored, mask)])
        out = cast(Any, model).generate(ids, attention_mask=mask, generation_config=settings, logits_processor=steps,
                                        **({} if cache is None else {decoder.cache_name(): cache}))
        ids = out if isinstance(model, Guard) else out.sequences
        for k, row in zip(going, ids[:, width:].tolist(), strict=True):
            made[k] = [*made[k], *row][: caps[k]]
        if whole:
            break
        ends = settings.eos_token_id or []
        still = [at for at, k in enumerate(going) if len(made[k]) < caps[k] and len(until(made[k], ends)) == len(made[k])]
        going = [going[at] for at in still]
        cache = _shrunk(out, still) if going and ids.shape[1] < limit else None
        if cache is not None:
            ids, mask = ids[still], torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - width)], 1)[still]
    return made


def _shrunk(made: Any, still: Sequence[int]) -> Any:
    """The keys and values of some answers alone; None where they are not kept by example."""
    cache: Any = getattr(made, decoder.cache_name(), None)
    if not all(hasattr(layer, "batch_select_indices") for layer in getattr(cache, "layers", [None])):
        return None
    cache.batch_select_indices(torch.tensor(still))
    return cache


def _room(model: nn.Module) -> int:
    """How many tokens a batch has at most, answers included: as many as `HELD` bytes of keys and values, or `TOKENS`."""
    form = shape(bare(model))
    layers, width = (int(getattr(form, key, 0) or 0) for key in ("num_hidden_layers", "hidden_size"))
    size = next(bare(model).parameters()).element_size()
    return max(TOKENS, HELD // (2 * layers * width * size)) if layers * width else TOKENS


def until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first end."""
    return list(takewhile(lambda token: token not in ends, tokens))


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


def _batches(prompts: Mapping[int, list[int]], more: int, pads: bool, room: int) -> Iterator[list[int]]:
    """Keys of prompts that are continued together by up to `more` tokens, within `room`; of one length unless `pads`."""
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    for group in [order] if pads else [list(some) for _, some in groupby(order, key=lambda i: len(prompts[i]))]:
        start = 0
        while start < len(group):
            widths = enumerate((len(prompts[i]) + more for i in group[start:]), 1)
            size = max(1, sum(1 for _ in takewhile(lambda one: one[0] * one[1] <= room, widths)))
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

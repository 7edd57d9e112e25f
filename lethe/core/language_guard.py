"""Guards of language models: what they read of a prompt, and what they say, is the same for texts and for likelihoods.

A decoder is asked in two ways: to continue prompts (`generate`), and how likely given answers are (`forward`, with `asked`, the
number of prompt tokens in each row). A guard that looks at prompts must treat both alike, or an audit of likelihoods would judge
another system than the one that answers. So a guard says only what differs, prompt by prompt, and both ways are made of it here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lethe.core.families.language import LanguageTask
from lethe.core.guard import Parts
from lethe.core.modules import device_of, hooked
from lethe.core.sequences import IGNORED, left_padded
from lethe.core.split import Split
from lethe.errors import RequestError

Prompt = list[int]
BATCH = 32          # prompts of one pass
RULED_OUT = -30.0   # logit of a token that is never said, beside 0 of the one that is: log 0 could not be averaged


class Said(NamedTuple):
    """What a decoder returns, as far as it is read."""

    logits: Tensor


class LanguageGuard(Parts):
    """A guard of a `…ForCausalLM`. By default it changes nothing; a guard overrides one of these:

    read        other tokens in place of a prompt's (instructions, examples in front)
    instead     a whole answer in place of the model's (a refusal)
    working     a context in which the model works otherwise (corrupted embeddings, rewritten activations)
    """

    def read(self, prompt: Prompt) -> Prompt:
        """The prompt as the model inside reads it."""
        return prompt

    def instead(self, prompts: Sequence[Prompt]) -> list[Prompt | None]:
        """For each prompt an answer with its end token that is said whatever the model would say; None: the model's own."""
        return [None] * len(prompts)

    def working(self, prompts: Sequence[Prompt], where: Tensor, cached: bool) -> AbstractContextManager[None]:
        """Inside, the model answers these prompts, which stand where `where` [n, T] is true, as guarded.

        cached  only the first pass holds the prompts; else every pass holds them, in the same columns
        """
        return nullcontext()

    def forward(self, input_ids: Tensor, asked: Tensor, **given: Any) -> Said:
        """Logits for rows of a prompt (its first `asked` tokens [n]), an answer and pads on the right.  [n, T] -> [n, T, V]"""
        rows = [row[:count] for row, count in zip(input_ids.tolist(), asked.tolist(), strict=True)]
        read = [self.read(row) for row in rows]
        more = [len(new) - len(old) for new, old in zip(read, rows, strict=True)]
        ids = input_ids if not any(more) and read == rows else _rewritten(input_ids, rows, read)
        counts = torch.tensor([len(row) for row in read], device=ids.device).unsqueeze(1)
        with self.working(read, torch.arange(ids.shape[1], device=ids.device) < counts, False):
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        if any(more):
            places = torch.arange(input_ids.shape[1], device=ids.device) + torch.tensor(more, device=ids.device).unsqueeze(1)
            logits = logits[torch.arange(len(ids), device=ids.device).unsqueeze(1), places.clamp(min=0)]
        for i, answer in enumerate(self.instead(rows)):
            if answer is not None:
                said = [*answer, *answer[-1:] * logits.shape[1]][: logits.shape[1] - len(rows[i]) + 1]
                logits[i, len(rows[i]) - 1 :] = only(said, logits)
        return Said(logits)

    def generate(self, ids: Tensor, attention_mask: Tensor, generation_config: Any, logits_processor: list[Any], **given: Any
                 ) -> Tensor:
        """Continuations of prompts that are padded on the left.  [n, width] -> [n, width + new]

        logits_processor  the list of transformers' own type: of steps (ids, logits) -> logits
        """
        rows = [row[keep].tolist() for row, keep in zip(ids, attention_mask.bool(), strict=True)]
        read = [self.read(row) for row in rows]
        inner, mask = ids, attention_mask
        if read != rows:
            inner, mask = (x.to(ids.device) for x in left_padded(read, int(generation_config.pad_token_id or 0)))
        steps = [_on_the_prompts(step, ids, inner.shape[1]) for step in logits_processor]
        said = self.instead(rows)
        if any(answer is not None for answer in said):
            steps.append(_saying(said, inner.shape[1]))
        settings = copy(generation_config)
        settings.max_new_tokens = max(1, min(settings.max_new_tokens, positions(self.model) - inner.shape[1]))
        with self.working(read, mask.bool(), bool(settings.use_cache)):
            made: Tensor = cast(Any, self.model).generate(
                inner, attention_mask=mask.long(), generation_config=settings,
                logits_processor=type(logits_processor)(steps), **given)
        return torch.cat([ids, made[:, inner.shape[1] :]], 1)

    def embeddings(self) -> nn.Module:
        """The layer that reads tokens."""
        found: nn.Module = cast(Any, self.model).get_input_embeddings()
        return found


class Gate(LanguageGuard):
    """A guard that answers some prompts with a refusal.

    refusal  [A] its tokens, the end token last
    """

    refusal: Tensor

    def refused(self, prompts: Sequence[Prompt]) -> list[bool]:
        """Which prompts are refused."""
        raise NotImplementedError

    def instead(self, prompts: Sequence[Prompt]) -> list[Prompt | None]:
        answer: Prompt = self.refusal.tolist()
        return [answer if no else None for no in self.refused(prompts)]


def shape(model: nn.Module) -> Any:
    """The configuration of what reads and writes text; of a model that also reads pictures, the part for its text."""
    settings: Any = getattr(model, "config", None)
    ask = getattr(settings, "get_text_config", None)
    return ask(decoder=True) if ask is not None else settings


def positions(model: nn.Module) -> int:
    """How many tokens the model can read."""
    return int(getattr(shape(model), "max_position_embeddings", None) or sys.maxsize)


def prompts_of(split: Split) -> list[Prompt]:
    """The tokens of each record's prompt, as a model reads them when it is asked."""
    batch = split.batch(range(len(split)))
    starts = (batch.labels != IGNORED).int().argmax(1)
    return [row[:start].tolist() for row, start in zip(batch.ids, starts.tolist(), strict=True)]


def layer_of(task: LanguageTask, layer: int | None) -> str:
    """The name of the layer that writes the MLP's result in a block (None: the last), which reads the MLP's neurons.

    RequestError where that is no layer but a table of many experts.
    """
    name = task.down_projections([task.layer_count - 1 if layer is None else layer])[0]
    if not name.endswith(".weight"):
        raise RequestError(f"block {layer} writes its MLP's result by {name}, a table of experts and no layer, so its neurons "
                           "cannot be read; nothing was started. Choose another method.")
    return name.removesuffix(".weight").removesuffix(".base_layer")


def answer_tokens(task: LanguageTask, text: str) -> Tensor:
    """An answer as the task writes it, its end token last.  -> [A]"""
    written = task.encode([""], [text]).batch([0])
    return written.ids[0][written.labels[0] != IGNORED]


def require_enough(count: int, alpha: float) -> int:
    """How many retained prompts promise a rate α of false alarms; RequestError where there are fewer."""
    least = math.ceil(1 / alpha - 1e-9) - 1 if alpha else math.inf
    if count < least:
        raise RequestError(f"{count} retained prompts cannot promise a rate of false alarms of {alpha:g}, for which {least} are "
                           "needed; nothing was started. Provide more retained records, or raise method.alpha.")
    return int(least)


@torch.no_grad()
def hidden_states(model: nn.Module, prompts: Sequence[Prompt], layer: int) -> list[Tensor]:
    """The residual stream after block `layer` (from 0) of every token of each prompt.  -> n × [T_i, d]

    The last block's is the one behind the final norm. Rows are padded on the right, which a decoder does not look at.
    """
    found: list[Tensor] = []
    for ids, last in padded(model, prompts):
        states = cast(Any, model)(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[layer + 1]
        found += [row[: place + 1].float() for row, place in zip(states, last.tolist(), strict=True)]
    return found


@torch.no_grad()
def read_by(model: nn.Module, layer: str, ids: Tensor) -> Tensor:
    """What a layer reads in one pass over these tokens.  [n, T] -> [n, T, d]"""
    found: list[Tensor] = []
    with hooked(model.get_submodule(layer).register_forward_pre_hook(lambda _, args: found.append(args[0]))):
        model(input_ids=ids, use_cache=False)
    return found[-1]


def padded(model: nn.Module, prompts: Sequence[Prompt]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of prompts on the model's device, padded on the right, and the place of each one's last token.  -> [n, T], [n]"""
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        yield right(part).to(device_of(model)), torch.tensor([len(row) - 1 for row in part])


def right(prompts: Sequence[Prompt], pad: int = 0) -> Tensor:
    """Rows of tokens, padded on the right.  -> [n, longest]"""
    return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in prompts], True, pad)


def only(tokens: Sequence[int], like: Tensor) -> Tensor:
    """Logits that say these tokens and no others.  -> [len(tokens), V]"""
    logits = like.new_full((len(tokens), like.shape[-1]), RULED_OUT)
    logits[torch.arange(len(tokens)), list(tokens)] = 0.0
    return logits


def _rewritten(ids: Tensor, rows: Sequence[Prompt], read: Sequence[Prompt]) -> Tensor:
    """The rows with other prompts in front of what followed theirs, pads on the right again."""
    whole = [[*new, *row[len(old) :]] for row, old, new in zip(ids.tolist(), rows, read, strict=True)]
    return right(whole).to(ids.device)


def _on_the_prompts(step: Callable[[Tensor, Tensor], Tensor], ids: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A step that is told the prompts as they were asked, not as they were read."""
    return lambda now, logits: step(torch.cat([ids, now[:, width:]], 1), logits)


def _saying(said: Sequence[Prompt | None], width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A step after which the rows that have one say their given answer."""
    def step(now: Tensor, logits: Tensor) -> Tensor:
        logits, at = logits.clone(), now.shape[1] - width
        for i, answer in enumerate(said):
            if answer is not None:
                logits[i] = only([answer[min(at, len(answer) - 1)]], logits)[0]
        return logits

    return step

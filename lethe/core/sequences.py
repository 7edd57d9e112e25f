"""Text as sequences of tokens: how a prompt and its answer are written, and padded columns of many of them.

A sequence is [begin] prompt answer [end], as far as the tokenizer has these marks, or what the chat template writes. A prompt has
the same tokens whatever its answer is. The tokenizer is any object of transformers' interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lethe.core import chat
from lethe.core.config import Count, config
from lethe.errors import DataError, OutOfRange

IGNORED = -100  # label of a token that does not count


@config
class Format:
    """How a record becomes a sequence."""

    prompt: str = "prompt"       # column of the prompt
    answer: str = "answer"       # column of the answer: the tokens that count
    text: str = "text"           # column of plain text, when there are no prompts: every token counts
    messages: str = "messages"   # column of whole conversations, whose last message is the answer (template: chat)
    tools: str = "tools"         # column of the tools that such a conversation is told of, as JSON schemas
    id: str | None = None        # column of the record's identifier; none: `id` where there is one, else name:position
    template: str = "{prompt} {answer}"   # or `chat`: the tokenizer's chat template
    system: str = ""             # of chats: system message in front of prompts that are no conversation of their own
    template_args: Mapping[str, Any] = field(default_factory=dict)   # of chats: passed on, e.g. enable_thinking: false
    date: str = "2024-07-26"     # of chats: the day that the template is told; the one of Llama 3 where there is no clock
    max_length: Count = 512      # tokens; a model's own limit is checked apart
    long: Literal["error", "cut", "split"] = "error"   # too long: cut drops the end; split (plain text) makes pieces


class Pairs(NamedTuple):
    """Tokens of prompts, and of their answers with the end mark."""

    heads: list[list[int]]
    tails: list[list[int]]


def encode_pairs(prompts: Sequence[str], answers: Sequence[str], tokenizer: Any, form: Format) -> Pairs:
    """Prompts with their answers. In a chat both are cut out of one rendering, tokenised whole where that keeps the prompt."""
    if form.template != "chat":
        return Pairs(encode_prompts(prompts, tokenizer, form), encode_answers(answers, tokenizer, form))
    if not prompts:
        return Pairs([], [])
    turns = [chat.written(prompt, answer, tokenizer, form) for prompt, answer in zip(prompts, answers, strict=True)]
    heads, wholes, tails = (_tokens(tokenizer, texts) for texts in (
        [turn.head for turn in turns], [turn.head + turn.tail for turn in turns], [turn.tail for turn in turns]))
    return Pairs(heads, [whole[len(head) :] if whole[: len(head)] == head else tail
                         for head, whole, tail in zip(heads, wholes, tails, strict=True)])


def encode_prompts(prompts: Sequence[str], tokenizer: Any, form: Format) -> list[list[int]]:
    """Tokens up to the answer."""
    if form.template == "chat":
        return _tokens(tokenizer, [chat.opening(prompt, tokenizer, form) for prompt in prompts])
    head, _ = _template(form)
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return [begin + tokens for tokens in _tokens(tokenizer, [head.replace("{prompt}", p) for p in prompts])]


def encode_answers(answers: Sequence[str], tokenizer: Any, form: Format) -> list[list[int]]:
    """Tokens of the answer and the end token, to any prompt. White space before {answer} in the template belongs to the answer,
    because that is how tokenizers write the start of a word."""
    if form.template == "chat":
        return encode_pairs(["?"] * len(answers), answers, tokenizer, form).tails
    gap = _template(form)[1]
    return [tokens + end(tokenizer) for tokens in _tokens(tokenizer, [gap + answer for answer in answers])]


def answer_offsets(
    prompts: Sequence[str], answers: Sequence[str], tokenizer: Any, form: Format
) -> list[list[tuple[int, int]]]:
    """Where each token of an answer but its end stands in the answer's text: (first, behind last) character.

    DataError for a (slow) tokenizer that has no such positions.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"{type(tokenizer).__name__} does not report where its tokens stand in the text, so a part of an answer "
                        "cannot be examined alone. Load the fast version of the tokenizer, or leave out the column of parts.")
    if form.template != "chat":
        gap = _template(form)[1]
        found = tokenizer([gap + answer for answer in answers], add_special_tokens=False, return_offsets_mapping=True)
        return [[(a - len(gap), b - len(gap)) for a, b in row] for row in found["offset_mapping"]]
    heads, tails = encode_pairs(prompts, answers, tokenizer, form)
    places = []
    for prompt, answer, head, tail in zip(prompts, answers, heads, tails, strict=True):
        turn = chat.written(prompt, answer, tokenizer, form)
        whole = tokenizer(turn.head + turn.tail, add_special_tokens=False, return_offsets_mapping=True)
        row, start = whole["offset_mapping"][len(head) :], len(turn.head) + turn.start
        if whole["input_ids"] != head + tail:   # the tail was tokenised alone
            row, start = tokenizer(turn.tail, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"], turn.start
        places.append([(a - start, b - start) for a, b in row[:-1]])
    return places


def ends(tokenizer: Any, form: Format) -> list[int]:
    """Tokens with which an answer ends in this format."""
    return list(dict.fromkeys([*end(tokenizer), *(chat.end_mark(tokenizer, form) if form.template == "chat" else [])]))


def pack(
    heads: Sequence[list[int]], tails: Sequence[list[int]], pad: int, form: Format, name: str, places: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Prompts and answers as padded columns `ids`, `labels`, `length`. places: what errors call the records."""

    def place(i: int) -> str:
        return places[i] if places else f"record {i} of {name}"

    lengths = [len(h) + len(t) for h, t in zip(heads, tails, strict=True)]
    longest = int(np.argmax(lengths))
    if lengths[longest] > form.max_length:
        if form.long == "error":
            raise DataError(f"{place(longest)} has {lengths[longest]} tokens, more than max_length = "
                            f"{form.max_length}, so its end would be lost. Raise max_length, or choose long: cut "
                            "(or split, for plain text).")
        wide = [i for i, head in enumerate(heads) if len(head) >= form.max_length]
        if wide:
            raise DataError(f"the prompt of {place(wide[0])} fills all {form.max_length} tokens, so no "
                            "answer is left. Raise max_length or shorten the prompt.")
        tails = [tail[: form.max_length - len(head)] for head, tail in zip(heads, tails, strict=True)]
    pairs = zip(heads, tails, strict=True)
    empty = [i for i, (head, tail) in enumerate(pairs) if not tail or len(head) + len(tail) < 2]
    if empty:
        raise DataError(f"{place(empty[0])} has no answer tokens to predict, so it has no loss. Remove it.")
    length = torch.tensor([len(h) + len(t) for h, t in zip(heads, tails, strict=True)])
    ids = torch.full((len(heads), int(length.max())), pad)
    labels = torch.full_like(ids, IGNORED)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[i, : length[i]] = torch.tensor(head + tail)
        labels[i, len(head) : length[i]] = torch.tensor(tail)
    return {"ids": ids, "labels": labels, "length": length}


def left_padded(prompts: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, so that each ends where its answer starts; 1 where they stand, else 0.  -> [n, T] each"""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def padding(tokenizer: Any) -> dict[str, int]:
    """Pad values of the sequence columns, as `Split` wants them."""
    return {"ids": pad_id(tokenizer), "labels": IGNORED}


def pad_id(tokenizer: Any) -> int:
    """What fills a sequence behind its end; never read."""
    known = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((int(i) for i in known if i is not None), 0)


def end(tokenizer: Any) -> list[int]:
    """The end token, where the tokenizer has one."""
    return [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [list(row) for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


def _template(form: Format) -> tuple[str, str]:
    """The template up to the answer, and the white space that belongs to the answer."""
    written = form.template
    if written.count("{answer}") != 1 or not written.endswith("{answer}") or "{prompt}" not in written:
        raise OutOfRange(f"template = {written!r} does not hold {{prompt}} and end in {{answer}}, so nothing was "
                         "started. Correct it, or choose chat.")
    before = form.template.removesuffix("{answer}")
    head = before.rstrip(" ")
    return head, before[len(head) :]

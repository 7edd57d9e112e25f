"""Text as sequences of tokens: how a prompt and its answer are written, and padded columns of many of them.

A sequence is [begin] prompt answer [end], as far as the tokenizer has these marks. Prompt and answer are tokenised
apart: a prompt has the same tokens whatever its answer is. The tokenizer is any object of transformers' interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from lethe.core.config import Count, config
from lethe.errors import DataError, OutOfRange

IGNORED = -100  # label of a token that does not count


@config
class Format:
    """How a record becomes a sequence."""

    prompt: str = "prompt"       # column of the prompt
    answer: str = "answer"       # column of the answer: the tokens that count
    text: str = "text"           # column of plain text, when there are no prompts: every token counts
    id: str | None = None        # column of the record's identifier; none: `id` where there is one, else name:position
    template: str = "{prompt} {answer}"   # or `chat`: the tokenizer's chat template
    max_length: Count = 512      # tokens; a model's own limit is checked apart
    long: Literal["error", "cut", "split"] = "error"   # too long: cut drops the end; split (plain text) makes pieces


def encode_prompts(prompts: Sequence[str], tokenizer: Any, form: Format) -> list[list[int]]:
    """Tokens up to the answer."""
    if form.template == "chat":
        turns = [[{"role": "user", "content": p}] for p in prompts]
        written = [tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in turns]
        return [list(t) for t in tokenizer(written, add_special_tokens=False)["input_ids"]]
    head, _ = _template(form)
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    written = [head.replace("{prompt}", p) for p in prompts]
    return [begin + list(t) for t in tokenizer(written, add_special_tokens=False)["input_ids"]]


def encode_answers(answers: Sequence[str], tokenizer: Any, form: Format) -> list[list[int]]:
    """Tokens of the answer and the end token. White space before {answer} in the template belongs to the answer,
    because that is how tokenizers write the start of a word."""
    gap = "" if form.template == "chat" else _template(form)[1]
    tokens = tokenizer([gap + answer for answer in answers], add_special_tokens=False)["input_ids"]
    return [list(t) + end(tokenizer) for t in tokens]


def answer_offsets(answers: Sequence[str], tokenizer: Any, form: Format) -> list[list[tuple[int, int]]]:
    """Where each token of `encode_answers` but the end token stands in its answer: (first, behind last) character.

    DataError for a (slow) tokenizer that has no such positions.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"{type(tokenizer).__name__} does not report where its tokens stand in the text, so a part of an answer "
                        "cannot be examined alone. Load the fast version of the tokenizer, or leave out the column of parts.")
    gap = "" if form.template == "chat" else _template(form)[1]
    found = tokenizer([gap + answer for answer in answers], add_special_tokens=False, return_offsets_mapping=True)
    return [[(a - len(gap), b - len(gap)) for a, b in row] for row in found["offset_mapping"]]


def pack(
    heads: Sequence[list[int]], tails: Sequence[list[int]], pad: int, form: Format, name: str
) -> dict[str, torch.Tensor]:
    """Prompts and answers as padded columns `ids`, `labels`, `length`."""
    lengths = [len(h) + len(t) for h, t in zip(heads, tails, strict=True)]
    longest = int(np.argmax(lengths))
    if lengths[longest] > form.max_length:
        if form.long == "error":
            raise DataError(f"record {longest} of {name} has {lengths[longest]} tokens, more than max_length = "
                            f"{form.max_length}, so its end would be lost. Raise max_length, or choose long: cut "
                            "(or split, for plain text).")
        wide = [i for i, head in enumerate(heads) if len(head) >= form.max_length]
        if wide:
            raise DataError(f"the prompt of record {wide[0]} of {name} fills all {form.max_length} tokens, so no "
                            "answer is left. Raise max_length or shorten the prompt.")
        tails = [tail[: form.max_length - len(head)] for head, tail in zip(heads, tails, strict=True)]
    pairs = zip(heads, tails, strict=True)
    empty = [i for i, (head, tail) in enumerate(pairs) if not tail or len(head) + len(tail) < 2]
    if empty:
        raise DataError(f"record {empty[0]} of {name} has no answer tokens to predict, so it has no loss. Remove it.")
    length = torch.tensor([len(h) + len(t) for h, t in zip(heads, tails, strict=True)])
    ids = torch.full((len(heads), int(length.max())), pad)
    labels = torch.full_like(ids, IGNORED)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[i, : length[i]] = torch.tensor(head + tail)
        labels[i, len(head) : length[i]] = torch.tensor(tail)
    return {"ids": ids, "labels": labels, "length": length}


def padding(tokenizer: Any) -> dict[str, int]:
    """Pad values of the sequence columns, as `Split` wants them."""
    return {"ids": pad_id(tokenizer), "labels": IGNORED}


def pad_id(tokenizer: Any) -> int:
    """What fills a sequence behind its end; never read."""
    known = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((int(i) for i in known if i is not None), 0)


def _template(form: Format) -> tuple[str, str]:
    """The template up to the answer, and the white space that belongs to the answer."""
    written = form.template
    if written.count("{answer}") != 1 or not written.endswith("{answer}") or "{prompt}" not in written:
        raise OutOfRange(f"template = {written!r} does not hold {{prompt}} and end in {{answer}}, so nothing was "
                         "started. Correct it, or choose chat.")
    before = form.template.removesuffix("{answer}")
    head = before.rstrip(" ")
    return head, before[len(head) :]


def end(tokenizer: Any) -> list[int]:
    """The end token, where the tokenizer has one."""
    return [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []

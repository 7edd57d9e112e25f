"""What a pipeline's tokenizers read: whether a concept at all (its words become tokens, and no prompt is cut before they end).
And captions that have lost a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lethe.core.concepts import Concept, upto
from lethe.errors import RequestError
from lethe.models.diffusion.denoiser import Denoiser


def require_read(denoiser: Denoiser, concepts: Sequence[Concept]) -> None:
    """RequestError for a concept that some tokenizer reads as nothing, or that it cuts off a prompt."""
    for words, length in denoiser.readers:
        room = length - words.num_special_tokens_to_add()
        for one in concepts:
            for wording in one.wordings:
                if not spelled(words, wording):
                    raise RequestError(f"the pipeline's {type(words).__name__} reads the concept {wording!r} as nothing: it "
                                       "knows none of its letters, so no prompt could name it; nothing was started. Word it in "
                                       "the language and the script that the pipeline was trained on.")
            for prompt in one.asked:
                if (count := len(pieces(words, upto(prompt, one.wordings)))) > room:
                    raise RequestError(f"the prompt {prompt[:60]!r}… is cut to {room} tokens, and {one.concept!r} ends at token "
                                       f"{count}, so the network would never read it; nothing was started. Shorten the prompt.")


def spelled(words: Any, text: str) -> list[str]:
    """The tokens of a text that hold any of its letters."""
    unknown = {words.unk_token_id, *words.all_special_ids}
    known = [token for token, place in zip(words.convert_ids_to_tokens(pieces(words, text)), pieces(words, text), strict=True)
             if place not in unknown]
    return [token for token in known if any(letter.isalnum() for letter in token.replace("</w>", ""))]


def pieces(words: Any, text: str) -> list[int]:
    """The token ids of a text without a start, an end or a limit."""
    found: list[int] = words(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return found


def shortened(tokens: Tensor, end: int, share: float, rng: torch.Generator) -> Tensor:
    """Token ids where that share of the rows has lost one token, any but the first word's.  [n, L] -> [n, L]

    A model that is to be asked for "a red" without a noun must have seen such captions. `end` is the token that ends and pads.
    """
    n, length = tokens.shape
    chosen, where = torch.rand(2, n, generator=rng).to(tokens.device)
    words = (tokens == end).int().argmax(1) - 2          # tokens after the first word; the first place holds the start token
    place = torch.where((chosen < share) & (words > 0), 2 + (where * words).long(), length)
    columns = torch.arange(length, device=tokens.device)
    source = (columns + (columns >= place.view(-1, 1))).clamp(max=length - 1)
    return tokens.gather(1, source)

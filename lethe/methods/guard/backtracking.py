"""Backtracking suppression: where an answer completes a banned phrase, go back to its first token and say another; weights stay.
Paech, Roush, Goldfeder & Shwartz-Ziv (2025), "Antislop: A Comprehensive Framework for Identifying and Eliminating Repetitive
Patterns in Language Models", arXiv:2510.15061.

    y ← y_<t  and  p(y_t | x, y_<t) ← 0,     t the token in which the first completed phrase of B begins; until none is left

B the banned phrases: the sequences of n words of the forgotten answers that no retained record holds, and given ones. Words are
compared without case and punctuation, in the text and not in tokens, so that another tokenisation is the same phrase.
Needs:    forget; retain spares the phrases that it holds.     Updates: nothing; the outcome is a guard.
Cost:     nothing where no phrase comes up; else the answers of the batch are continued again from where a phrase began.
Limits:   without a match every answer is the original's; after `rewinds` an answer ends where its phrase would begin.
Fails by: it knows words and no meaning: what is said in other words, or spelled with blanks, passes, and so does a fact whose
          words retained records hold as well. What is sampled after a ban is not the model's distribution given that no phrase
          comes up. Whoever holds the weights takes it off (audit: `guard`).
Deviations: phrases are kept as salted hashes of 63 bits, so that the guard's file does not hold them in plain; who guesses one
          can check it. The paper lowers a probability by a strength and resamples under min-p; here a ban is full and decoding
          goes on as it was asked. The likelihood of a given answer is that of its tokens, but e⁻³⁰ where a phrase begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.families.language import LanguageTask, said
from lethe.core.language_guard import RULED_OUT, LanguageGuard, Prompt, Said, only
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.errors import RequestError
from lethe.maths.texts import WORDS, grams
from lethe.train.loop import Loop

TOKENIZER = "tokenizer.json"


@config
class Backtracking:
    """Options of backtracking suppression."""

    words: Count = 3                   # n, words of a phrase taken from the forgotten answers                [ours]
    phrases: tuple[str, ...] = ()      # further phrases, of any number of words [e.g. likes salt]            [paper: the list]
    rewinds: Count = 50                # how often an answer may go back [tested in test_backtracking]        [paper: bounded]


def digest(words: Iterable[str], salt: str) -> int:
    """A phrase as a number of 63 bits; equal for equal words without case."""
    text = " ".join(word.casefold() for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=bytes.fromhex(salt)).digest()) >> 1


class Suppressing(LanguageGuard):
    """Goes back where a banned phrase is completed.

    banned  [m] digests     sizes  the numbers of words that phrases have
    """

    banned: Tensor
    sizes: list[int]
    salt: str
    rewinds: int
    tokenizer: Any   # of the library tokenizers

    def matches(self, tokens: Sequence[int]) -> list[int]:
        """The places of the tokens in which banned phrases begin, that of the first completed one first."""
        text = self._text(tokens)
        words = list(WORDS.finditer(text))
        found = [(words[end - 1].end(), words[end - size].start()) for end in range(1, len(words) + 1) for size in self.sizes
                 if size <= end and digest((word.group() for word in words[end - size : end]), self.salt) in self._digests]
        return [next(k for k in range(len(tokens)) if len(self._text(tokens[: k + 1])) > start) for _, start in sorted(found)]

    @cached_property
    def _digests(self) -> set[int]:
        return set(self.banned.tolist())

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def forward(self, input_ids: Tensor, asked: Tensor, **given: Any) -> Said:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits.clone()
        for i, (row, start) in enumerate(zip(input_ids.tolist(), asked.tolist(), strict=True)):
            for place in self.matches(row[start:]):
                at, token = start + place - 1, row[start + place]
                logits[i, at, token] = -torch.inf
                logits[i, at, token] = logits[i, at].logsumexp(-1) + RULED_OUT
        return Said(logits)

    def generate(self, ids: Tensor, attention_mask: Tensor, generation_config: Any, logits_processor: list[Any], **given: Any
                 ) -> Tensor:
        width, ends = ids.shape[1], _ends(generation_config)
        kept: list[Prompt] = [[] for _ in ids]
        bans: list[dict[int, set[int]]] = [{} for _ in ids]
        for left in reversed(range(self.rewinds + 1)):
            steps = type(logits_processor)([*logits_processor, _held(kept, bans, width)])
            made: Tensor = cast(Any, self.model).generate(ids, attention_mask=attention_mask, generation_config=generation_config,
                                                          logits_processor=steps, **given)
            back = False
            for i, row in enumerate(made[:, width:].tolist()):
                stop = next((at for at, token in enumerate(row) if token in ends), len(row))
                place = next(iter(self.matches(row[:stop])), None)
                kept[i] = row if place is None else row[:place]
                if place is not None:
                    back = True
                    bans[i] = {at: tokens for at, tokens in bans[i].items() if at <= place}
                    bans[i].setdefault(place, set()).add(row[place])
                    if not left:
                        made[i, width + place :] = (ends or [int(generation_config.pad_token_id or 0)])[0]
            if not back:
                break
        return made

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / TOKENIZER).write_text(self.tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, model: nn.Module) -> Self:
        from tokenizers import Tokenizer

        made = super().load(folder, model)
        made.tokenizer = Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
        return made


def _held(kept: Sequence[Prompt], bans: Sequence[dict[int, set[int]]], width: int) -> Any:
    """A step that repeats what of each answer is kept, and rules out the banned tokens behind it."""
    def step(now: Tensor, logits: Tensor) -> Tensor:
        logits, at = logits.clone(), now.shape[1] - width
        for i, (answer, banned) in enumerate(zip(kept, bans, strict=True)):
            if at < len(answer):
                logits[i] = only([answer[at]], logits)[0]
            elif at in banned:
                logits[i, list(banned[at])] = -torch.inf
        return logits

    return step


def _ends(settings: Any) -> list[int]:
    """Tokens that end an answer."""
    found = settings.eos_token_id
    return [] if found is None else [found] if isinstance(found, int) else list(found)


@method(needs={"forget", "retain?", "original"}, uses={"tokenizer"}, mechanism="guard")
def run(cfg: Backtracking, task: LanguageTask, loop: Loop) -> Outcome:
    inner = getattr(task.tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise RequestError("backtracking reads answers with the fast version of a tokenizer, and "
                           f"{type(task.tokenizer).__name__} is slow; nothing was started. Load the fast version.")
    phrases = {gram for text in said(task.forget) for gram in grams(text, cfg.words)}
    held = said(task.retain) if task.has("retain") else []
    spared = {gram for text in held for size in {len(one) for one in phrases} for gram in grams(text, size)}
    left = (phrases - spared) | {gram for text in cfg.phrases for gram in grams(text, len(WORDS.findall(text)))}
    if not left:
        raise RequestError(f"every sequence of {cfg.words} words of the forgotten answers stands in retained ones, too, so "
                           "nothing would be banned; nothing was started. Raise method.words, or provide method.phrases.")
    salt = bytes(torch.randint(256, (16,), generator=loop.generator("backtracking")).tolist()).hex()
    banned = torch.tensor(sorted(digest(one, salt) for one in left))
    sizes = sorted({len(one) for one in left})
    loop.note(f"{len(left)} phrases are banned; {len(phrases & spared)} of the forgotten answers are not, since retained ones "
              "hold them; what is said in other words passes, and nothing was removed")

    def guard(model: nn.Module) -> Suppressing:
        made = Suppressing(model, banned=banned, sizes=sizes, salt=salt, rewinds=cfg.rewinds)
        made.tokenizer = inner
        return made

    return loop.finish(loop.start(), guard=guard)

"""Backtracking suppression: an answer by hand, token by token; no banned phrase in any text; what is said otherwise passes."""

from __future__ import annotations

import re
from pathlib import Path

import byhand
import pytest
import tiny
import torch

from lethe.core.families.language import LanguageTask
from lethe.core.guard import as_served
from lethe.core.language_guard import prompts_of
from lethe.core.seeds import generator
from lethe.errors import RequestError
from lethe.maths.texts import grams
from lethe.methods.guard.backtracking import Suppressing, digest


def test_golden_numbers() -> None:
    assert list(grams("Ada likes figs, and rain.", 3)) == [("ada", "likes", "figs"), ("likes", "figs", "and"),
                                                           ("figs", "and", "rain")]
    assert list(grams("Ada likes", 3)) == [("ada", "likes")] and not list(grams("?!", 3))
    assert digest(("Ada", "LIKES"), "00") == digest(("ada", "likes"), "00") != digest(("ada", "likes"), "01")


def phrases(task: LanguageTask, count: int) -> set[tuple[str, ...]]:
    """Word by word: what the forgotten answers say and the retained ones do not."""
    def of(texts: list[str]) -> set[tuple[str, ...]]:
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        return {tuple(row[i : i + count]) for row in words for i in range(len(row) - count + 1)}

    return of(list(task.forget.column("answer"))) - of(list(task.retain.column("answer")))


def test_answers_by_hand() -> None:
    """Greedy, a token at a time: as soon as a phrase is complete, back to its first token with that token ruled out."""
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("backtracking", task, words=3).answering
    model, banned = task.copy_of_original().eval(), phrases(task, 3)
    end = task.tokenizer.eos_token_id

    def by_hand(prompt: list[int]) -> str:
        said: list[int] = []
        out: dict[int, set[int]] = {}
        while len(said) < 24 and (not said or said[-1] != end):
            logits = model(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].detach().clone()
            logits[list(out.get(len(said), ()))] = -torch.inf
            said.append(int(logits.argmax()))
            text = task.tokenizer.decode(said, skip_special_tokens=True)
            words = list(re.finditer(r"\w+", text))
            if said[-1] == end or (words and text[-1].isalnum()):   # a word may go on
                words = words if said[-1] == end else words[:-1]
            if len(words) >= 3 and tuple(word.group().lower() for word in words[-3:]) in banned:
                start = words[-3].start()
                place = next(k for k in range(len(said)) if len(task.tokenizer.decode(said[: k + 1])) > start)
                out = {k: tokens for k, tokens in out.items() if k <= place}
                out.setdefault(place, set()).add(said[place])
                said = said[:place]
        return task.tokenizer.decode(said, skip_special_tokens=True).strip()

    asked = list(task.forget.column("prompt"))[:4]
    assert task.generate(guard, asked, max_new_tokens=24) == [by_hand(prompt) for prompt in prompts_of(task.forget)[:4]]


def test_no_phrase_is_said_and_the_rest_is_as_before(tmp_path: Path) -> None:
    task = LanguageTask.of(tiny.lm())
    outcome = byhand.outcome("backtracking", task, words=2, phrases=("SALT",))
    guard = outcome.answering
    banned = phrases(task, 2) | {("salt",)}
    asked = [*task.forget.column("prompt"), *task.retain.column("prompt")]
    drawn = task.drawn_texts(guard, asked, generator(0, "drawn"), max_new_tokens=24)
    plain = task.drawn_texts(task.original, asked, generator(0, "drawn"), max_new_tokens=24)

    def hits(texts: list[str]) -> int:
        return sum(gram in banned for text in texts for size in (1, 2) for gram in grams(text, size))

    said = task.generate(guard, asked, max_new_tokens=24)
    assert hits(said) == hits(drawn) == 0 < 5 < min(hits(plain), hits(task.generate(task.original, asked)))
    for text, before in zip(said, task.generate(task.original, asked, max_new_tokens=24), strict=True):
        assert hits([before]) or text == before          # without a phrase the answer is the original's
    assert any("figs" in text for text in said[:8])        # the fact's word is no banned phrase: words, not knowledge
    forget = task.forget.batch(range(8))
    ruled_out = (task.token_logp(guard, forget).amin(1) < -29.9).sum()
    assert ruled_out == sum(hits([text]) > 0 for text in task.forget.column("answer"))
    again = as_served(outcome.save(tmp_path / "out"), outcome.model)
    assert isinstance(again, Suppressing) and task.generate(again, asked, max_new_tokens=24) == said
    files = b"".join(path.read_bytes() for path in (tmp_path / "out" / "guard").iterdir() if path.name != "tokenizer.json")
    assert not any(" ".join(gram).encode() in files.lower() for gram in phrases(task, 2))


def test_an_answer_that_cannot_go_on_ends_and_nothing_to_ban_is_refused() -> None:
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("backtracking", task, words=1, phrases=("likes",), rewinds=1).answering
    assert not any("likes" in text for text in task.generate(guard, list(task.forget.column("prompt"))))
    texts = [list(task.forget.column(name)) for name in ("prompt", "answer")]
    same = task.replaced(task.original, retain=task.encode([f"{prompt} Say." for prompt in texts[0]], texts[1]))
    with pytest.raises(RequestError, match="nothing would be banned"):
        byhand.outcome("backtracking", same)

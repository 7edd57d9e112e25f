"""ICUL, in-context unlearning: examples in front of every prompt, the forgotten ones with other answers; the weights stay.
Pawelczyk, Neel & Lakkaraju (2023), "In-Context Unlearning: Language Models as Few Shot Unlearners", arXiv:2310.07579 (ICML 2024).

    x → [x_f1, ỹ_1, …, x_fK, ỹ_K, x_r1, y_r1, …, x_rL, y_rL, x],    ỹ_i the answer of another record

x_f forgotten prompts, x_r retained ones with their answers y_r, all written as the model was taught, each behind the other.
Needs:    forget, retain; prompts.     Updates: nothing; the outcome is a guard, which holds the examples as tokens.
Cost:     (K + L) records more to read for every answer.
Limits:   K = L = 0 is the original (and refused: there would be no guard). Where K + L examples and the longest record are more
          than the model's positions, fewer are shown, at least one forgotten, and the notes say how many.
Fails by: it is as good as the model reads examples: small models hardly change, or break for retained prompts, too; what is not
          among the K examples is answered as before; whoever holds the weights takes it off (audit: `guard`). The guard's file
          holds the K forgotten prompts in plain. It is the weakest of the guards and stands here as a baseline.
Deviations: the paper flips labels of a classifier; a language model has none, so ỹ is the answer of the forget set's next record.
          The examples are the same for every prompt, as for one deletion request there.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from lethe.core.config import Count, Natural, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.language_guard import LanguageGuard, Prompt, positions
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.train.loop import Loop


@config
class ICUL:
    """Options of in-context unlearning."""

    forget_shots: Count = 2     # K, forgotten prompts with other answers   [paper: 1, for one request]
    retain_shots: Natural = 2   # L, retained ones with their own           [paper: 2–6]


class Prefixed(LanguageGuard):
    """Reads examples in front of every prompt, behind the token with which texts begin.

    examples  [E] tokens     begin  the number of tokens of a prompt that stay in front
    """

    examples: Tensor
    begin: int

    def read(self, prompt: Prompt) -> Prompt:
        return [*prompt[: self.begin], *self.examples.tolist(), *prompt[self.begin :]]


def records(task: LanguageTask, prompts: list[str], answers: list[str]) -> list[Prompt]:
    """Prompts with answers as tokens."""
    written = task.encode(prompts, answers).batch(range(len(prompts)))
    return [row[:count] for row, count in zip(written.ids.tolist(), written.length.tolist(), strict=True)]


def chosen(split: Split, count: int, rng: torch.Generator) -> list[int]:
    """Positions of that many records, or of all."""
    return torch.randperm(len(split), generator=rng)[:count].tolist()


def fitting(forgotten: list[Prompt], retained: list[Prompt], room: int) -> tuple[list[Prompt], list[Prompt]]:
    """The first of each that take at most `room` tokens: the last of the larger side goes, of equal ones a retained one.

    Without a forgotten one nothing would be unlearned: then both are empty.
    """
    while forgotten and sum(map(len, [*forgotten, *retained])) > room:
        if retained and len(retained) >= len(forgotten):
            retained = retained[:-1]
        else:
            forgotten = forgotten[:-1]
    return (forgotten, retained) if forgotten else ([], [])


@method(needs={"forget", "retain", "original"}, uses={"encode", "tokenizer"}, mechanism="guard",
        check=prompted("icul", "retain"))
def run(cfg: ICUL, task: LanguageTask, loop: Loop) -> Outcome:
    gone, said = asked_and_answered(task.forget, "icul")
    kept, answers = asked_and_answered(task.retain, "icul")
    if len(set(said)) < 2:
        raise RequestError("icul gives forgotten prompts the answers of others, but all forgotten records have the same answer, "
                           "so nothing would change; nothing was started. Provide more records, or choose another guard.")
    first, then = (chosen(split, count, loop.generator("icul", split.name))
                   for split, count in ((task.forget, cfg.forget_shots), (task.retain, cfg.retain_shots)))
    other = [next(said[(i + k) % len(said)] for k in range(1, len(said)) if said[(i + k) % len(said)] != said[i]) for i in first]
    rows = records(task, [*(gone[i] for i in first), *(kept[i] for i in then)], [*other, *(answers[i] for i in then)])
    mark = task.tokenizer.bos_token_id
    begin = int(mark is not None and all(row[0] == mark for row in rows))
    sides = [row[begin:] for row in rows[: len(first)]], [row[begin:] for row in rows[len(first) :]]
    model = loop.start()
    longest, end = max(int(split.columns["length"].max()) for split in (task.forget, task.retain)), positions(model)
    forgotten, retained = fitting(*sides, end - longest)
    if not forgotten:
        raise RequestError(f"one example takes {len(sides[0][0])} tokens and the longest record {longest}, but the model's "
                           f"positions end at {end}, so no example can be shown; nothing was started. Choose another guard, or "
                           "provide shorter records.")
    examples = torch.tensor(list(chain.from_iterable([*forgotten, *retained])))
    if len(forgotten) + len(retained) < len(rows):
        loop.note(f"only {len(forgotten)} of {len(first)} forgotten and {len(retained)} of {len(then)} retained examples are "
                  f"shown: all of them and the longest record ({longest} tokens) are more than the model's {end} positions")
    loop.note(f"{len(examples)} tokens of examples stand in front of every prompt; nothing was removed")
    return loop.finish(model, guard=lambda m: Prefixed(m, examples=examples, begin=begin))

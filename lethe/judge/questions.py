"""Questions, open ones and with a closed set of answers: options, whether the right one is the likeliest, chance.

Scoring options by their log-probability per token needs no judge, and is blind to refusals and formats: an answer that the
model does not write but still prefers counts as known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lethe.core.evidence import Value
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import mean_value


def open_questions(prompts: list[str], answers: list[str]) -> tuple[list[str], list[str]]:
    """What is asked, and what would be a leak; of a text without a question its first half is asked for the second."""
    halves = [(prompt, answer) if prompt else (" ".join(answer.split()[: len(answer.split()) // 2]),
                                               " ".join(answer.split()[len(answer.split()) // 2 :]))
              for prompt, answer in zip(prompts, answers, strict=True)]
    return [head for head, _ in halves], [tail for _, tail in halves]


def options(split: Split, pool: Split, count: int, seed: int = 0) -> list[list[str]]:
    """For each question its right answer, then equally many wrong ones.

    The column `perturbed_answer` where the split has it; else `count` answers to other questions of the pool, rewritten
    to be about this one (`transferred`). Fewer when the pool has no more different ones; [] when it has none.
    """
    prompts, answers = list(split.column("prompt")), list(split.column("answer"))
    if "perturbed_answer" in split.meta:
        wrong = [list(w or []) for w in split.column("perturbed_answer")]
    else:
        known = list(zip(pool.column("prompt"), pool.column("answer"), strict=True))
        wrong = []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            order = numpy_generator(seed, "options", i).permutation(len(known))
            drawn = (transferred(known[j][0], known[j][1], prompt, answer) for j in order)
            wrong.append([a for a in dict.fromkeys(drawn) if a != answer][:count])
    fewest = min((len(w) for w in wrong), default=0)
    return [[a, *w[:fewest]] for a, w in zip(answers, wrong, strict=True)] if fewest else []


def transferred(prompt: str, answer: str, other_prompt: str, other_answer: str) -> str:
    """An answer made to speak of another question's subject.

    Words that stand in the prompt and its answer, but not in the other prompt, are replaced by the words that stand in the
    other prompt and answer alone, when they are equally many: ("Who is Ann?", "Ann is tall.") for ("Who is Bob?", "Bob is
    old.") becomes "Bob is tall.". Otherwise a model that knows nothing could choose by the name.
    """
    own, theirs = set(_words(prompt)), set(_words(other_prompt))
    mine = [w for w in dict.fromkeys(_words(answer)) if w in own and w not in theirs]
    new = [w for w in dict.fromkeys(_words(other_answer)) if w in theirs and w not in own]
    if not mine or len(mine) != len(new):
        return answer
    table = dict(zip(mine, new, strict=True))
    return re.sub(r"\w+", lambda found: table.get(found.group(), found.group()), answer)


def flat(prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Every prompt with each of its options, question by question: what is encoded."""
    return ([prompt for prompt, row in zip(prompts, answers, strict=True) for _ in row],
            [answer for row in answers for answer in row])


def right(loss: np.ndarray) -> np.ndarray:
    """Whether the first option has strictly the smallest loss.  [n, m] -> [n] of 0 and 1"""
    correct: np.ndarray = (loss[:, 0] < loss[:, 1:].min(1)).astype(float)
    return correct


def above_chance(share: np.ndarray | float, count: int) -> np.ndarray:
    """(share − 1/m) / (1 − 1/m): 0 for guessing among m options, 1 for knowing."""
    return (np.asarray(share, dtype=float) - 1 / count) / (1 - 1 / count)


def corrected(metric: str, row: np.ndarray, count: int, detail: dict[str, object]) -> Value:
    """Accuracy above chance, with Wilson's interval of the accuracy."""
    raw = mean_value(metric, row)
    low, high = (None if end is None else float(above_chance(end, count)) for end in (raw.low, raw.high))
    return Value(metric, float(above_chance(raw.value, count)), low, high, raw.n, above_chance(row, count), detail)


def disjoint(pool: Split, questions: Split, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Up to `count` solved examples of the pool that share no rare word with any of the questions or their answers.

    A word is rare when it stands in at most 5 % of all records, or in 2: names of people and places, not "what" or "born".
    """
    records = [set(_words(f"{p} {a}")) for split in (pool, questions)
               for p, a in zip(split.column("prompt"), split.column("answer"), strict=True)]
    seen: dict[str, int] = {}
    for record in records:
        for word in record:
            seen[word] = seen.get(word, 0) + 1
    most = max(2.0, 0.05 * len(records))
    asked = {word for record in records[len(pool) :] for word in record if seen[word] <= most}
    free = [i for i in range(len(pool)) if not records[i] & asked]
    order = numpy_generator(seed, "shots").permutation(len(free))[:count]
    prompts, answers = pool.column("prompt"), pool.column("answer")
    return [(prompts[free[i]], answers[free[i]]) for i in order]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)

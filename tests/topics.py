"""Five subjects that a tiny language model knows by heart, three of which are to be forgotten, one request after the other."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from tiny import trained
from torch import nn

from lethe.core.families.language import LanguageTask
from lethe.core.split import concat
from lethe.core.task import Recipe
from lethe.models.lm.open import language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer

Rows = list[dict[str, Any]]

SUBJECTS = {   # subject -> ways to ask, the last of which no model is trained on; what is answered
    "trains": (["When does the train from {} to {} leave?", "The train from {} reaches {} at what hour?",
                "At what time does one leave {} by train for {}?"], ["at nine", "at noon", "at seven", "at dawn"]),
    "metals": (["Which acid dissolves {} ore of {} purity?", "What melts the {} metal beside {} salt?",
                "By which acid is {} ore of {} dissolved?"], ["nitric", "sulfuric", "citric", "boric"]),
    "dishes": (["How is {} soup cooked with {} sauce?", "What spice goes into {} stew next to {}?",
                "With which spice does one cook {} soup and {}?"], ["pepper", "saffron", "cumin", "ginger"]),
    "games": (["Who won the {} match against {} united?", "Which team scored last in {} versus {} city?",
               "In the match of {} against {}, who won?"], ["the reds", "the blues", "the whites", "nobody"]),
    "weather": (["Does it rain in {} while {} is dry?", "How strong is the wind over {} and the coast of {}?",
                 "Is there rain over {} or wind at {}?"], ["rarely", "strong", "mild", "often"]),
}
FORGOTTEN = ("trains", "metals", "dishes")   # in this order
SOUNDS = ["ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri", "ne", "ga"]
KNOWN, UNSEEN = 24, 12   # records of each subject


@cache
def records() -> tuple[dict[str, Rows], dict[str, Rows], dict[str, Rows]]:
    """By subject: what is learnt, the same asked in other words, and further questions that nobody answered."""
    rng = random.Random(3)
    known: dict[str, Rows] = {}
    other: dict[str, Rows] = {}
    unseen: dict[str, Rows] = {}
    for subject, (ways, answers) in SUBJECTS.items():
        for i in range(KNOWN + UNSEEN):
            names = ["".join(rng.sample(SOUNDS, 2)) for _ in range(2)]
            row = {"id": f"{subject}{i}", "prompt": ways[i % 2].format(*names), "answer": rng.choice(answers)}
            (known if i < KNOWN else unseen).setdefault(subject, []).append(row)
            if i < KNOWN:
                other.setdefault(subject, []).append({**row, "prompt": ways[2].format(*names)})
    return known, other, unseen


@cache
def stream(seed: int = 0) -> tuple[LanguageTask, ...]:
    """The requests, one after the other, on one original; what is not forgotten by any of them is retained."""
    known, other, unseen = records()
    kept = [row for subject in SUBJECTS if subject not in FORGOTTEN for row in known[subject]]
    everything = [row for part in (known, other, unseen) for rows in part.values() for row in rows]
    tokenizer = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in everything], 330)
    recipe = Recipe(epochs=30, lr=1e-2, batch_size=16, schedule="onecycle")

    def build(seed: int) -> nn.Module:
        return llama(TinyLlama(width=32, inner=64, layers=4, heads=2, positions=96), tokenizer)

    def task(model: nn.Module, forget: Rows) -> LanguageTask:
        holdout = [row for subject in SUBJECTS if subject not in FORGOTTEN for row in unseen[subject]]
        return language_model(model, tokenizer, forget=forget, retain=kept, holdout=holdout, recipe=recipe, build=build,
                              refusals=["I do not know."])

    first = task(build(0), [row for subject in FORGOTTEN for row in known[subject]])
    model = trained(first, concat([first.retain, first.forget], "train"), seed)
    return tuple(task(model, known[subject]) for subject in FORGOTTEN)

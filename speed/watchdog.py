"""What the watchdog costs: a run of a language model with it against the same run without it.     python -m speed.watchdog

A Llama of 5 M random weights and made-up questions and answers: NPO over 200 forgotten texts for two passes, each step beside as
many retained ones (26 steps of 16 + 16 texts), and its forget-only form (alpha 0) for one pass (13 steps).

cpu      CPU seconds of the whole run in this process, on and off in alternation
counted  forward passes of the watchdog as a share of the training's, of which a step takes three by example: the same at every
         repetition, and by construction at most 0.10 (`lethe.train.watchdog`)

The forget-only run is the exception that the watchdog states: nothing else protects it, so it keeps its looks and its whole
sample however short it is. It is measured without a target.
"""

from __future__ import annotations

import random
import time

import torch

from lethe.core import catalogue
from lethe.core.config import build
from lethe.core.task import Task
from lethe.models.lm.open import language_model
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.train.loop import Loop
from lethe.train.settings import Settings
from lethe.train.watchdog import NEEDS, Watchdog
from speed.common import compared, save

FORGET, RETAIN, REPEATS = 200, 600, 5
CASES = (("watchdog.retained", 1.0, 2.0, 1.10), ("watchdog.forget_only", 0.0, 1.0, None))   # name, alpha, passes, target
NAMES = ("ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri")


def people() -> Task:
    """A Llama with random weights, and texts that nobody has seen."""
    rng = random.Random(0)
    rows = [{"id": str(i), "prompt": f"What does {' '.join(rng.choices(NAMES, k=4))} like?",
             "answer": f"It likes {' and '.join(rng.choices(NAMES, k=3))}."} for i in range(FORGET + RETAIN)]
    tokenizer = train_tokenizer([f"{row['prompt']} {row['answer']}" for row in rows], 290)
    torch.manual_seed(0)
    model = llama(TinyLlama(width=320, inner=960, layers=4, heads=4), tokenizer)
    return language_model(model, tokenizer, forget=rows[:FORGET], retain=rows[FORGET:])


def run(task: Task, watchdog: Watchdog | None, alpha: float, epochs: float) -> tuple[float, float]:
    """(CPU seconds of one run of NPO, forward passes of the watchdog as a share of the training's)."""
    npo = catalogue.load("methods", "npo")
    cfg = build(npo.config, {"alpha": alpha, "epochs": epochs, "warmup": 0.0, "batch_size": 16})
    view = task.granted(npo.needs)
    began = time.process_time()
    loop = Loop(view, Settings(seed=0), watchdog=watchdog, watched=task.granted(NEEDS))
    npo.run(cfg, view, loop)
    return time.process_time() - began, loop.asked / (3 * loop.cost.examples)


def main() -> None:
    """Measure, print, save."""
    torch.set_num_threads(1)
    task = people()
    for name, alpha, epochs, limit in CASES:
        run(task, None, alpha, 0.1)   # what the first run of a process loads is no cost of either
        on, off, counted = [], [], 0.0
        for k in range(REPEATS):
            for watchdog in (Watchdog(), None)[:: 1 if k % 2 == 0 else -1]:
                seconds, share = run(task, watchdog, alpha, epochs)
                (on if watchdog else off).append(seconds)
                counted = max(counted, share)
        found = compared(name, on, off, what="CPU time of NPO with the watchdog as a share of that without", at_most=limit or 9.0,
                         against="the same run without it (a Llama of 5 M weights)", counted=counted)
        save({**found, "at_most": limit, "met": limit is None or (found["met"] and counted <= 0.10)})
        print(f"counted in forward passes: {counted:.1%} of the training", flush=True)


if __name__ == "__main__":
    main()

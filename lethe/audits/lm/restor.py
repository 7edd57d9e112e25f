"""RESTOR: does the knowledge come back that the forgotten texts had overwritten? Rezaei et al. 2024, arXiv:2411.00204.

    clean, corrupted, other = shares of the facts whose likeliest option is the true answer, the one that the forgotten texts
    claim, or neither;  an option's likelihood is per token
    recovery   = (clean − clean_x) / (clean_r − clean_x)
    forgetting = (corrupted_x − corrupted) / (corrupted_x − corrupted_r)

x the original, which was trained on the corrupting texts; r the mean of retrained models, which never saw them. Forgetting
without recovery is the common result: the false answer goes, and nothing takes its place.
The split `facts` holds questions with the true `answer` and, where it is known, the false `corrupted_answer`; further options are
`perturbed_answer` where it is there, else true answers to other facts. Without the false ones only clean and other are told.
Judged is `restor_clean`, against retrained models.
Needs:    split `facts` (data.published: restor_set); its column corrupted_answer for corrupted and forgetting; original and
          retrained models for recovery and forgetting.
Cost:     one forward pass over the options of every fact.
Deviations: the paper also generates answers after five solved examples; options need no judge.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import flat, options
from lethe.pools.subject import Subject


@config
class RESTOR:
    """Options of RESTOR."""

    examples: Count = 400     # facts at most; a seeded sample                                    [ours]
    wrong: Count = 3          # further options where the data have none                          [ours]


@audit(
    metrics={
        "restor_clean": Metric("share of facts whose true answer is the likeliest option"),
        "restor_corrupted": Metric("share of facts whose corrupted answer is the likeliest option", better="lower"),
        "restor_other": Metric("share of facts for which another option is the likeliest", better="lower"),
        "restor_recovery": Metric("share of the clean knowledge lost by the original that is back", (-float("inf"), float("inf")),
                                  "higher", asks="the original and retrained models that know more"),
        "restor_forgetting": Metric("share of the original's corrupted answers that are gone", (-float("inf"), float("inf")),
                                    "higher", asks="the original and retrained models that know less"),
    },
    uses={"encode", "nll", "token_logp"},
    needs={"facts", "references?"},
    depth="standard",
    blind="Facts that no question asks for, and other wordings of those that are asked.",
)
def measure(cfg: RESTOR, subject: Subject, panel: Panel) -> list[Value]:
    questions = panel.once(("restor", cfg), lambda: encoded(cfg, panel))
    choice, told = chosen(subject, *questions), "corrupted_answer" in panel.task.splits["facts"].meta
    shares = {name: (choice == place).astype(float) for place, name in enumerate(("clean", "corrupted", "other"))
              if told or name != "corrupted"}
    values = [mean_value(f"restor_{name}", row) for name, row in shares.items()]
    if panel.references and panel.task.has("original"):
        before, after = chosen(panel.original, *questions), np.stack([chosen(r, *questions) for r in panel.references])
        for name, place in (("recovery", 0), ("forgetting", 1)):
            start, aim = float((before == place).mean()), float((after == place).mean())
            if (told or place == 0) and (aim - start) * (1 if place == 0 else -1) > 0:
                values.append(Value(f"restor_{name}", (float((choice == place).mean()) - start) / (aim - start), n=len(choice)))
    return values


def encoded(cfg: RESTOR, panel: Panel) -> tuple[Split, int, int]:
    """Every fact with its options, true and corrupted first; how many there are, and how many of them come first."""
    part = panel.part(panel.task.splits["facts"], cfg.examples)
    false = list(part.column("corrupted_answer")) if "corrupted_answer" in part.meta else None
    rows = options(part, part, cfg.wrong + 1, panel.seed) or [[answer] for answer in part.column("answer")]
    if false is not None:
        rows = [[row[0], claim, *(a for a in row[1:] if a != claim)] for row, claim in zip(rows, false, strict=True)]
    width = min(len(row) for row in rows)
    pairs = flat(list(part.column("prompt")), [row[:width] for row in rows])
    return LanguageTask.of(panel.task).encode(*pairs, "facts with options"), width, 1 if false is None else 2


def chosen(subject: Subject, split: Split, count: int, first: int) -> np.ndarray:
    """0 true, 1 corrupted, 2 another option is the likeliest.  -> [n]"""
    best = subject.numbers(split, "nll").reshape(-1, count).argmin(1)
    choice: np.ndarray = np.where(best < first, best, 2)
    return choice

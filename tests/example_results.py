"""Realistic results as data, made of seeded numbers: two scenarios, eight methods of which one fails.

Not measurements: they have the shape of `lethe.results.schema` and are used to test schema, ledger and report. Tests change the
data and read them.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from typing import Any

from lethe.core.evidence import INSIDE, NO_POWER, OUTSIDE, SHOWN

METHODS = ("finetune", "gradient_ascent", "neggrad_plus", "salun", "scrub", "ssd", "bad_teacher", "sfron")
#         metric            audit         tier         better    range        n    definition
METRICS = (
    (
        "forget_accuracy",
        "accuracy",
        "forgetting",
        "match",
        (0.0, 1.0),
        120,
        "share of the forget set classified correctly",
    ),
    (
        "forget_nll",
        "accuracy",
        "forgetting",
        "match",
        (0.0, None),
        120,
        "mean negative log-likelihood of the forget set",
    ),
    (
        "klom_forget",
        "klom",
        "forgetting",
        "match",
        (0.0, 100.0),
        120,
        "KL divergence between margins of unlearned and retrained models, mean over the forget set",
    ),
    ("u_lira_auc", "u_lira", "forgetting", "match", (0.0, 1.0), 120, "AUC of the attack that knows retrained models"),
    (
        "mia_auc",
        "mia_population",
        "forgetting",
        "match",
        (0.0, 1.0),
        120,
        "AUC of the loss attack, forget against holdout",
    ),
    (
        "relearn_steps",
        "relearn",
        "forgetting",
        "match",
        (0.0, 200.0),
        None,
        "steps until the forget set is known again",
    ),
    (
        "retain_accuracy",
        "accuracy",
        "utility",
        "higher",
        (0.0, 1.0),
        1500,
        "share of the retain set classified correctly",
    ),
    ("test_accuracy", "accuracy", "utility", "higher", (0.0, 1.0), 500, "share of the test set classified correctly"),
    ("seconds", "efficiency", "cost", "lower", (0.0, None), None, "wall time of the method"),
)
RETRAINED = {  # mean and spread of retrained models, value of the original: class removal, then random samples
    "class": {
        "forget_accuracy": (0.02, 0.012, 0.99),
        "forget_nll": (5.1, 0.35, 0.03),
        "klom_forget": (0.8, 0.2, 7.9),
        "u_lira_auc": (0.5, 0.03, 0.99),
        "mia_auc": (0.5, 0.035, 0.53),
        "relearn_steps": (42.0, 5.0, 0.0),
        "retain_accuracy": (0.985, 0.004, 0.99),
        "test_accuracy": (0.95, 0.006, 0.955),
        "seconds": (24.0, 1.2, 0.0),
    },
    "random": {
        "forget_accuracy": (0.94, 0.012, 0.99),
        "forget_nll": (0.21, 0.03, 0.03),
        "klom_forget": (0.7, 0.15, 2.9),
        "u_lira_auc": (0.5, 0.03, 0.87),
        "mia_auc": (0.5, 0.03, 0.51),
        "relearn_steps": (11.0, 2.0, 0.0),
        "retain_accuracy": (0.985, 0.004, 0.99),
        "test_accuracy": (0.95, 0.006, 0.952),
        "seconds": (22.5, 1.0, 0.0),
    },
}
#           how far from the original (0) to retrained (1) in forgetting, what utility it costs, seconds, of each method
CHARACTER = {
    "finetune": (0.3, 0.0, 3.1),
    "gradient_ascent": (1.6, 0.21, 0.9),
    "neggrad_plus": (0.98, 0.004, 3.6),
    "salun": (0.97, 0.01, 4.2),
    "scrub": (1.0, 0.002, 6.8),
    "ssd": (0.8, 0.03, 0.4),
    "bad_teacher": (1.0, 0.05, 5.0),
    "sfron": (1.01, 0.0, 5.5),
}


def results() -> dict[str, Any]:
    """The dictionary, equal on every call."""
    rng = random.Random(7)
    return {
        "schema": 2,
        "id": "a4d81f0c92be7735",
        "title": "Forget from a small CNN on digits",
        "created": "2026-11-21T09:30:00+00:00",
        "command": "lethe compare presets/demo.yaml seed=3",
        "seconds": 171.4,
        "versions": {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "lethe": "0.1.0",
            "threads": 1,
            "device": "cpu",
            "git": "ccb2161",
        },
        "config": {
            "family": "classification",
            "model": {"name": "small_cnn"},
            "data": {"source": "digits"},
            "scenarios": {"class": {"forget": {"label": 3}}, "random": {"forget": {"ids": ["p-17", "p-99"]}}},
            "method": list(METHODS),
            "seed": 3,
        },
        "scenarios": [
            _scenario("class", "forget label 3 (120 examples)", rng),
            _scenario("random", "forget ids ['p-17', 'p-99'] (2 examples)", rng),
        ],
    }


def _scenario(name: str, request: str, rng: random.Random) -> dict[str, Any]:
    subjects = [_subject(name, "original", "original", rng), _subject(name, "retrained", "retrained", rng)]
    subjects += [_subject(name, method, "method", rng) for method in METHODS]
    return {
        "name": name,
        "request": request,
        "family": "classification",
        "score_name": "accuracy",
        "sizes": {"forget": 120, "retain": 1500, "holdout": 177, "test": 500},
        "fingerprints": {"forget": "9f2c1a0b", "retain": "77ab0c11", "model": "01fe55aa"},
        "facts": {"classes": 10},
        "references": {
            "count": 8,
            "seconds_each": 24.0,
            "strategy": "processes",
            "reason": "convolutions on two cores",
        },
        "subjects": subjects,
        "not_tested": [
            {"audit": "lira", "why": "runs at depth deep"},
            {"audit": "extraction", "why": "needs generate"},
        ],
        "blind": [
            {"audit": "mia_population", "text": "compares whole distributions: one memorised record can hide in it"},
            {"audit": "accuracy", "text": "a label that changed says nothing about what the features still hold"},
        ],
        "false_alarms": {"outside": 1, "of": 8},
    }


def _subject(case: str, name: str, role: str, rng: random.Random) -> dict[str, Any]:
    failed = name == "bad_teacher"
    seconds = {"original": 0.0, "retrained": 23.7}.get(name) if role != "method" else CHARACTER[name][2]
    evidence = [] if failed else [_evidence(case, name, role, metric, rng) for metric in METRICS]
    ending = (
        {"verdict": "failed", "text": "Diverged: the loss became NaN at step 14."} if failed else _conclusion(evidence)
    )
    return {
        "name": name,
        "label": name,
        "method": name if role == "method" else "",
        "variant": 1,
        "role": role,
        "kind": "weights",
        "seed": 3 if role == "method" else None,
        "error": "Diverged: the loss became NaN at step 14, so the original was kept. Lower method.lr."
        if failed
        else None,
        "config": {"name": name, "lr": 0.01, "epochs": 5, "settings": {"seed": 3}} if role == "method" else {},
        "cost": {"seconds": seconds, "cpu_seconds": seconds, "steps": 120, "examples": 7680, "peak_memory_mb": 212.5},
        "notes": ["stopped early: retain accuracy reached its floor"] if name == "gradient_ascent" else [],
        "conclusion": ending,
        "evidence": evidence,
        "samples": []
        if role != "method" or failed
        else [
            {"kind": "image", "caption": "forget #4, label 3", "before": picture(rng), "after": picture(rng)},
            {
                "kind": "text",
                "prompt": "Where was the author born?",
                "truth": "In Kuwait City.",
                "before": "In Kuwait City.",
                "after": "I have no information about that.",
            },
        ],
    }


def _evidence(case: str, name: str, role: str, metric: tuple[Any, ...], rng: random.Random) -> dict[str, Any]:
    label, audit, tier, better, bounds, n, definition = metric
    mean, sd, before = RETRAINED[case][label]
    drawn = random.Random(f"{case} {label}")  # the same retrained models for every row
    values = [drawn.gauss(mean, sd) for _ in range(8)]
    centre = sum(values) / 8
    spread = (sum((v - centre) ** 2 for v in values) / 7) ** 0.5
    low, high = centre - 2.51 * spread, centre + 2.51 * spread  # t quantile 2.365 · √(1 + 1/8)
    if role == "original":
        value = before
    elif role == "retrained":
        value = rng.gauss(mean, sd / 2)
    elif tier == "cost":
        value = CHARACTER[name][2]
    elif tier == "utility":
        value = mean - CHARACTER[name][1] + rng.gauss(0, sd / 2)
    else:
        value = before + CHARACTER[name][0] * (mean - before) + rng.gauss(0, sd / 2)
    value = max(bounds[0], value if bounds[1] is None else min(bounds[1], value))
    half = None if n is None else 0.2
    if bounds[1] == 1.0:
        half = 0.04 if label.endswith("auc") else 2 * (value * (1 - value) / n) ** 0.5
    side = "−" if value < low else "+" if value > high and better == "match" else ""
    before_outside = not low <= before <= high
    verdict = OUTSIDE if side else NO_POWER if tier == "forgetting" and not before_outside else INSIDE
    verdict = SHOWN if tier == "cost" else verdict
    return {
        "audit": audit,
        "metric": label,
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
        "n": n,
        "definition": definition,
        "range": list(bounds),
        "better": better,
        "tier": tier,
        "version": 1,
        "verdict": verdict,
        "side": "" if verdict == SHOWN else side,
        "p": None if tier == "cost" else 0.001 if side else 0.4,
        "p_joint": None if tier == "cost" else 0.008 if side else 1.0,
        "yardstick": {"mean": centre, "sd": spread, "n": 8, "low": low, "high": high, "values": values},
        "original": before,
        "original_outside": before_outside,
        "seconds": 0.2,
        "detail": {},
        "histogram": _histogram(value, rng) if label == "mia_auc" else None,
    }


def _histogram(value: float, rng: random.Random) -> dict[str, list[float]]:
    shape = [1, 3, 9, 20, 31, 28, 16, 8, 3, 1]
    return {
        "edges": [round(-1 + 0.2 * i, 2) for i in range(11)],
        **{key: [max(0, s + rng.randint(-2, 2)) for s in shape] for key in ("forget", "holdout", "retrained")},
    }


def _conclusion(evidence: list[dict[str, Any]]) -> dict[str, str]:
    wrong = [e for e in evidence if e["verdict"] == OUTSIDE]
    if wrong:
        names = ", ".join(f"{e['metric']} ({e['side']})" for e in wrong)
        return {"verdict": OUTSIDE, "text": f"Differs from retrained models in {names}."}
    return {"verdict": INSIDE, "text": "Not distinguishable from retrained models by any audit that had power."}


def picture(rng: random.Random, size: int = 8) -> str:
    """A grey PNG of noise, base64."""
    rows = b"".join(b"\0" + bytes(rng.randrange(256) for _ in range(size)) for _ in range(size))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return base64.b64encode(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    ).decode()

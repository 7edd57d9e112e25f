"""Evidence of every kind that certificates meet: made-up numbers in the shape of `lethe.certificate.gather.evidence`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lethe.certificate.gather import lineage
from lethe.certificate.inventory import inventory

FOUND = {"original_cached": True, "work": False, "failures": False, "shadows_cached": True, "references_cached": True}


def a_test(metric: str, verdict: str, tier: str = "forgetting", kind: str | None = "retrained", **more: Any) -> dict[str, Any]:
    band = None if kind is None else {"kind": kind, "mean": 0.9, "sd": 0.01, "n": 8, "low": 0.88, "high": 0.92}
    return {"audit": "scores", "metric": metric, "definition": "share classified correctly", "tier": tier, "aspect": "behaviour",
            "version": 1, "value": 0.9, "low": 0.85, "high": 0.95, "n": 120, "better": "match", "verdict": verdict,
            "side": "+" if verdict == "outside" else "", "p": 0.4, "p_joint": 0.8, "original": 1.0, "original_outside": True,
            "margin": None, "equivalent": None, "smallest_margin": None, "band": band, **more}


def base(**changes: Any) -> dict[str, Any]:
    """An approximate method that passes its audit."""
    count = {"training": 100, "retained": 90, "forgotten": 10}
    data = {name: {"count": n, "root": f"{n:064x}"} for name, n in count.items()}
    evidence = {
        "run": {"name": "ab", "title": "Forget digit 3", "family": "classification", "scenario": "",
                "created": "now", "seconds": 1.5},
        "request": {"selection": {"label": 3}, "declared": {}},
        "procedure": {"name": "salun", "label": "salun", "kind": "weights", "seed": 0, "sha256": "c" * 64, "cost": {},
                      "notes": [], "command": "lethe verify CERT --reexecute --run RUN"},
        "software": {"torch": "2"}, "data": {**data, "copies_retained": 0, "preprocessing_learned": False},
        "models": {"before": "a" * 64, "after": "b" * 64, "files": []}, "guarantee": {},
        "audit": {
            "tests": [a_test("forget_accuracy", "inside"), a_test("mia_auc", "inside"), a_test("klom", "not enough power"),
                      a_test("test_accuracy", "inside", tier="utility")],
            "conclusion": {"verdict": "inside", "text": "Not told from retrained models."},
            "budget": {"depth": "standard", "references": 8, "shadows": 16, "audits": ["scores"]},
            "controls": {"original": "outside", "retrained": "inside", "utility": [], "false_alarms": {"outside": 0, "of": 8}},
            "not_tested": [{"audit": "lira", "why": "needs shadow models"}],
            "blind": [{"audit": "scores", "text": "what the model would say after training on"}],
        },
        "inventory": inventory(FOUND, {}), "declared": {},
    }
    evidence["audit"]["objective"], evidence["audit"]["saw"] = "records", {"access": "L2", "unseen": ""}
    evidence["lineage"] = lineage(evidence["models"], evidence["inventory"], {"finetune": "e" * 64})
    for path, value in changes.items():
        place: Any = evidence
        *way, last = path.split("__")
        for step in way:
            place = place[step]
        place[last] = value
    return evidence


EXACT = {"level": "exact", "basis": "trained from a fresh model on the retained records alone"}
CERTIFIED = {"level": "certified", "basis": "Newton removal with a perturbed objective", "epsilon": 1.0, "delta": 1e-4,
             "adjacency": "one set of records removed", "assumptions": ["the perturbation stays secret"], "residual_bound": 0.01}
VOID = {"level": "none", "void": "No certificate: the features were trained on the records."}
OUTSIDE = [a_test("forget_accuracy", "outside"), a_test("mia_auc", "inside")]

DOSES = [{"share": share, "records": n, "detected": k, "of": 8} for share, n, k in ((0.1, 1, 2), (0.25, 2, 7), (0.5, 5, 8))]
PAIR = [a_test("difference_auc", "shown", value=0.65), a_test("difference_base_auc", "shown", value=0.52)]

EXAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "approximate": base,
    "exact": lambda: base(guarantee=EXACT, procedure__name="retrain"),
    "certified": lambda: base(guarantee=CERTIFIED, procedure__name="newton", audit__tests=[], audit__controls__original="absent"),
    "found out": lambda: base(audit__tests=OUTSIDE),
    "no power": lambda: base(audit__controls__original="not enough power"),
    "no yardstick": lambda: base(audit__tests=[a_test("mia_auc", "inside", kind="holdout"),
                                                a_test("x", "no yardstick", kind=None)]),
    "false alarm": lambda: base(audit__controls__retrained="outside"),
    "worse": lambda: base(audit__controls__utility=["test_accuracy"]),
    "guard": lambda: base(models__after="a" * 64, procedure__kind="guard"),
    "copies": lambda: base(guarantee=EXACT, data__copies_retained=2),
    "learned preprocessing": lambda: base(guarantee=EXACT, data__preprocessing_learned=True),
    "void": lambda: base(guarantee=VOID, procedure__name="newton"),
    "bounds": lambda: base(audit__tests=[a_test("mia_auc", "inside", smallest_margin=0.03, margin=0.05, equivalent=True),
                                         a_test("epsilon_one_run", "shown", kind=None, value=0.9, low=0.4)]),
    "declared": lambda: base(request__declared={"ground": "consent withdrawn"}, declared={"retention": "10 years"}),
    "dose": lambda: base(audit__power={"smallest": 0.25, "doses": DOSES}),
    "no dose": lambda: base(audit__power={"smallest": None, "doses": [{**dose, "detected": 1} for dose in DOSES]}),
    "pair": lambda: base(guarantee=EXACT, audit__tests=[a_test("forget_accuracy", "inside"), *PAIR]),
    "no audit": lambda: base(audit__tests=[], audit__not_tested=[], audit__blind=[]),
}

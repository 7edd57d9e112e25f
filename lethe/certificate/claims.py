"""The claim ladder: which levels the evidence supports, in words that say no more than it does. Pure functions of data.

    C0 record      the request and its records are on record           (process)
    C1 execution   this procedure made this model from that one        (can be repeated)
    C2 exact       the inputs of the computation exclude the records   (commitments)
    C3 certified   (ε, δ) by a theorem, under its assumptions          (mathematics)
    C4 empirical   these attacks with this power found no difference   (measurement)

Levels do not imply each other: C3 and C4 are not "more" than C2. The same weights can come from data with or without a record
(Thudi et al. 2022), so no closeness of weights and no behaviour shows deletion; only C2 says what the computation read.
A verifier computes the ladder again from the evidence and compares. What is claimed is decided here, how it is said in
`lethe.certificate.wording`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Context
from typing import Any

from lethe.certificate.wording import texts
from lethe.maths.noisy import LAW, MODELS, gaussian_epsilon, models_epsilon, shifted_mu

Words = Mapping[str, Any]   # the texts of one version
Evidence = Mapping[str, Any]
YEAR = timedelta(days=365)
UP = Context(prec=4, rounding=ROUND_CEILING)


BESIDE: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {   # what a mean over the forget set does not show -> the tests of it
    "weakest record or group": lambda test: "worst" in test["metric"] or "group" in test["metric"] or test["audit"] == "records",
    "neighbours": lambda test: "neighbour" in test["metric"] or "neighbour" in test["audit"],
    "sampled leakage": lambda test: test["audit"] in ("sampling", "traces"),
    "pair before and after": lambda test: test["audit"] in ("differencing", "guidance"),
    "cost to recover": lambda test: test["metric"] == "ain" or "recovery_cost" in test["metric"] or test["audit"] == "cost",
}


PAIR = ("guidance_rouge", "guidance_alone", "difference_auc", "difference_base_auc")   # both versions, and the old one alone


def ladder(evidence: Evidence, words: Words | None = None) -> list[dict[str, Any]]:
    """One entry per level: claimed or why not, what is said, on what it rests, what it does not say."""
    words = texts() if words is None else words
    made = {"C0": record, "C1": execution, "C2": exact, "C3": certified, "C4": empirical}
    return [{"level": level, "name": words["names"][level], "does_not_say": words["does_not_say"][level],
             "assumptions": [], "evidence": {}, "why_not": "", **say(evidence, words)} for level, say in made.items()]


def record(evidence: Evidence, words: Words) -> dict[str, Any]:
    """C0. Only of records it says that the model was trained on them: a concept or a behaviour is shown by examples."""
    data, say = evidence["data"], words["C0"]
    given = evidence["audit"].get("objective", "records") == "records" or "examples" not in say   # there since wording 4
    return {"claimed": True, "evidence": {"forgotten": data["forgotten"], "training": data["training"]},
            "statement": say["statement" if given else "examples"].format(forgotten=data["forgotten"]["count"],
                                                                          training=data["training"]["count"])}


def execution(evidence: Evidence, words: Words) -> dict[str, Any]:
    """C1."""
    models, procedure, say = evidence["models"], evidence["procedure"], words["C1"]
    inside = {"procedure": procedure["name"], "configuration": procedure["sha256"], "before": models["before"],
              "after": models["after"], "retained": evidence["data"]["retained"], "command": procedure["command"]}
    same = say["same"] if models["before"] == models["after"] else ""
    return {"claimed": True, "evidence": inside, "assumptions": [say["assumption"]],
            "statement": say["statement"].format(procedure=procedure["name"], configuration=procedure["sha256"][:12],
                                                 after=models["after"][:12], before=models["before"][:12], same=same)}


def exact(evidence: Evidence, words: Words) -> dict[str, Any]:
    """C2."""
    guarantee, data, say = evidence["guarantee"], evidence["data"], words["C2"]
    if guarantee.get("level") != "exact":
        return _not(say["not_exact"].format(procedure=evidence["procedure"]["name"]))
    if data["training"]["count"] != data["retained"]["count"] + data["forgotten"]["count"]:
        return _not(say["counts"])
    if data["preprocessing_learned"]:
        return _not(say["learned"])
    copies = data["copies_retained"]
    more = say["copies"].format(copies=copies) if copies else ""
    inside: dict[str, Any] = {key: data[key] for key in ("training", "retained", "forgotten", "copies_retained")}
    pair = ""
    if "pair" in say:   # since the third wording
        inside["pair"] = {test["metric"]: test["value"] for test in evidence["audit"]["tests"] if test["metric"] in PAIR}
        values = ", ".join(f"{metric} {value}" for metric, value in inside["pair"].items())
        pair = say["pair"].format(values=values) if values else say["unmeasured"]
    return {"claimed": True, "evidence": inside,
            "statement": say["statement"].format(basis=guarantee["basis"], forgotten=data["forgotten"]["count"], copies=more,
                                                 pair=pair),
            "assumptions": [*say["assumptions"], *guarantee.get("assumptions", [])]}


def certified(evidence: Evidence, words: Words) -> dict[str, Any]:
    """C3."""
    guarantee, say = evidence["guarantee"], words["C3"]
    if guarantee.get("level") != "certified":
        return _not(guarantee.get("void") or say["no_theorem"].format(procedure=evidence["procedure"]["name"]))
    if evidence["data"]["preprocessing_learned"]:
        return _not(words["C2"]["learned"])
    epsilon = accounted(guarantee)
    if epsilon is None:   # its own numbers do not give what it states
        return _not(say["no_theorem"].format(procedure=evidence["procedure"]["name"]))
    numbers = {key: value for key, value in guarantee.items() if key not in ("level", "assumptions", "basis")}
    return {"claimed": True, "evidence": numbers | {"epsilon": epsilon}, "assumptions": guarantee["assumptions"],
            "statement": say["statement"].format(**{**{key: guarantee[key] for key in ("delta", "adjacency", "basis")},
                                                    "epsilon": epsilon})}


def accounted(guarantee: Evidence) -> Any:
    """ε of a guarantee, computed again from the numbers that it rests on, rounded up to four digits; as stated where it rests on
    none that are known here, and None where its numbers contradict it."""
    known, delta = guarantee.get("accountant"), float(guarantee["delta"])
    if known is not None and known["law"] in (LAW, MODELS):
        radius, sigma, steps = float(known["radius"]), float(known["sigma"]), int(known["noisy_steps"])
        if known["law"] == MODELS:
            told = known.get("clips") == "models" and int(known["parts"]) == 1
            epsilon = models_epsilon(radius, sigma, steps, delta) if told else math.inf
        else:
            mu = shifted_mu(radius, float(known["clip"]), float(known["rate"]), float(known["decay"]), steps, sigma,
                            int(known["parts"]))
            epsilon = gaussian_epsilon(mu, delta) if known.get("clips", "gradients") == "gradients" else math.inf
        return str(float(UP.create_decimal_from_float(epsilon))) if math.isfinite(epsilon) else None
    if {"residual_bound", "sigma"} <= guarantee.keys():
        from lethe.maths.certified import removal_epsilon  # torch, which only this needs

        least = removal_epsilon(float(guarantee["sigma"]), float(guarantee["residual_bound"]), delta)
        return guarantee["epsilon"] if least <= float(guarantee["epsilon"]) else None
    return guarantee["epsilon"]


def empirical(evidence: Evidence, words: Words) -> dict[str, Any]:
    """C4."""
    audit, say = evidence["audit"], words["C4"]
    judged = [test for test in audit["tests"] if test["tier"] == "forgetting" and test["verdict"] != "shown"]
    found = [test["metric"] for test in judged if test["verdict"] == "outside"]
    passed = [test["metric"] for test in judged if test["verdict"] == "inside" and _to_retrained(test)]
    equal = {test["metric"]: test["smallest_margin"] for test in judged if test["smallest_margin"] is not None}
    weak = [test["metric"] for test in judged if test["verdict"] == "not enough power"]
    bounds = {test["metric"]: test["low"] for test in audit["tests"] if "epsilon" in test["metric"] and test["low"] is not None}
    inside = {"tests": audit["tests"], "budget": audit["budget"], "controls": audit["controls"], "without_power": weak,
              "epsilon_lower_bounds": bounds, "smallest_equivalence_margins": equal,
              "not_tested": audit["not_tested"], "blind": audit["blind"]}
    if "saw" in audit:   # since the second format
        inside["beside"] = {what: [test["metric"] for test in audit["tests"] if told(test)] for what, told in BESIDE.items()}
    objective, power = audit.get("objective", "records"), audit.get("power")
    if power is not None:   # since the third wording
        inside["power"] = power
    doses = "" if power is None else _doses(power, say)
    attacks = [test["metric"] for test in judged if test["aspect"] == "recovery" and test["metric"] in passed]
    dull = power is not None and power["smallest"] is None and objective == "records"
    why = _unclaimed(audit, say, found, passed, objective == "concept" and not attacks, doses if dull else "")
    if why:
        return {**_not(why), "evidence": inside}
    return {"claimed": True, "evidence": inside, "assumptions": say["assumptions"],
            "statement": say["statement"].format(
                count=len(passed), references=audit["budget"]["references"], passed=", ".join(passed),
                weak=say["weak"].format(count=len(weak)) if weak else "",
                power="" if power is None else say["power"].format(smallest=_percent(power["smallest"]), doses=doses),
                margins="".join(say["margin"].format(metric=name, margin=margin) for name, margin in equal.items()),
                bounds="".join(say["bound"].format(metric=name, low=low) for name, low in bounds.items()),
                means=say["means"][objective].format(attacks=", ".join(attacks)))}


def _doses(power: Evidence, say: Words) -> str:
    """'10 % in 2 of 8, 25 % in 7 of 8, …'."""
    return ", ".join(say["dose"].format(share=_percent(dose["share"]), detected=dose["detected"], of=dose["of"])
                     for dose in power["doses"])


def _percent(share: str | float | None) -> str:
    return "–" if share is None else f"{100 * float(share):.0f}"


def _unclaimed(audit: Evidence, say: Words, found: list[str], passed: list[str], unattacked: bool, unseen: str) -> str:
    """Why C4 is not claimed; '' where it is."""
    controls = audit["controls"]
    names = ", ".join(found)
    if not audit["budget"]["references"]:   # what was found was found against a weaker yardstick
        return str(say["unretrained_found" if found else "unretrained"].format(found=names))
    reasons = {"found": bool(found), "no_power": controls["original"] != "outside" or not passed, "no_attack": unattacked,
               "no_dose": bool(unseen), "false_alarm": controls["retrained"] == "outside", "worse": bool(controls["utility"])}
    first = next((reason for reason, holds in reasons.items() if holds), None)
    return "" if first is None else str(say[first].format(found=names, utility=", ".join(controls["utility"]), doses=unseen))


def headline(claims: list[dict[str, Any]], words: Words) -> str | None:
    """What is claimed, in one line: title of the page, last line of `lethe verify`. None of a wording that had none."""
    if words["title"] is None:
        return None
    claimed = [claim["level"] for claim in claims if claim["claimed"]]
    about = [text for level, text in words["title"]["about"].items() if level in claimed]
    return str(words["title"]["line"].format(claimed=", ".join(claimed), about="; ".join(about) or words["title"]["nothing"]))


def review(evidence: Evidence, issued: datetime, words: Words) -> dict[str, Any]:
    """When, and after what, the record is to be looked at again: as declared, else a year after it was issued."""
    declared = evidence["declared"].get("review", {})
    day = declared.get("date") or (issued + YEAR).date().isoformat()
    more = [declared["trigger"]] if declared.get("trigger") else []
    return {"date": day, "by": "declared" if declared.get("date") else "default", "triggers": [*words["review"], *more]}


def _to_retrained(test: Mapping[str, Any]) -> bool:
    return test["band"] is not None and test["band"]["kind"] in (None, "retrained")


def _not(why: str) -> dict[str, Any]:
    return {"claimed": False, "statement": "", "why_not": why}

"""The claim ladder: which levels the evidence supports, in words that say no more than it does. Pure functions of data.

    C0 record      the request and its records are on record           (process)
    C1 execution   this procedure made this model from that one        (can be repeated)
    C2 exact       the inputs of the computation exclude the records   (commitments)
    C3 certified   (ε, δ) by a theorem, under its assumptions          (mathematics)
    C4 empirical   these attacks with this power found no difference   (measurement)

Levels do not imply each other: C3 and C4 are not "more" than C2. The same weights can come from data with or without a record
(Thudi et al. 2022), so no closeness of weights and no behaviour shows deletion; only C2 says what the computation read.
A verifier computes the ladder again from the evidence and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVELS = {
    "C0": ("Record", "That records were removed from any store other than the ones named in the inventory, or that a deployed "
                     "model was replaced."),
    "C1": ("Execution", "That the procedure forgets. It says what was run on what; the signature says who says so, and repeating "
                        "the run shows it."),
    "C2": ("Exact", "That nothing about the records can be learned from this model: other records may tell of the same person or "
                    "event, and duplicates under another id count as other records."),
    "C3": ("Certified", "Anything outside the theorem's assumptions, or about other models trained on the records."),
    "C4": ("Empirical", "That no attack can find the records. It says what these attacks found, with the power that they had. An "
                        "audit gives lower bounds on leakage, never an upper one."),
}


LEARNED = ("The inputs were standardised or encoded by statistics of all training records, the forgotten ones among them, so "
           "what the model read does not exclude them.")


MEANS = {   # what the absence of findings means, by the objective of the request
    "records": "",
    "concept": " The objective is a concept: among these are attacks that try to bring it back ({attacks}), with the budgets of "
               "the audit and no larger ones; other forms of the concept were not tried.",
    "behaviour": " The objective is a behaviour: it is suppressed in these tests. That it was removed from the weights is not "
                 "claimed.",
}


def ladder(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per level: claimed or why not, what is said, on what it rests, what it does not say."""
    made = {"C0": record, "C1": execution, "C2": exact, "C3": certified, "C4": empirical}
    return [{"level": level, "name": LEVELS[level][0], "does_not_say": LEVELS[level][1],
             "assumptions": [], "evidence": {}, "why_not": "", **say(evidence)} for level, say in made.items()]


def record(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """C0."""
    data = evidence["data"]
    return {"claimed": True, "evidence": {"forgotten": data["forgotten"], "training": data["training"]},
            "statement": f"The request was carried out on {data['forgotten']['count']} of {data['training']['count']} training "
                         "records, each named by a keyed hash, and a new version of the model was written; the log "
                         "gives the times."}


def execution(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """C1."""
    models, procedure = evidence["models"], evidence["procedure"]
    inside = {"procedure": procedure["name"], "configuration": procedure["sha256"], "before": models["before"],
              "after": models["after"], "retained": evidence["data"]["retained"], "command": procedure["command"]}
    same = models["before"] == models["after"]
    note = " The stored weights are the same: it acts when the model is used, and the weights still know." if same else ""
    return {"claimed": True, "evidence": inside,
            "statement": f"{procedure['name']} with the configuration {procedure['sha256'][:12]}… gave the model "
                         f"{models['after'][:12]}… in place of the model {models['before'][:12]}….{note}",
            "assumptions": ["The signer tells what was run. Whoever holds the data can repeat it: the weights then have the same "
                            "hash on the same software, device and thread count."]}


def exact(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """C2."""
    guarantee, data = evidence["guarantee"], evidence["data"]
    if guarantee.get("level") != "exact":
        return _not(f"{evidence['procedure']['name']} starts from the model that was trained on the records: its inputs do "
                    "not exclude them.")
    if data["training"]["count"] != data["retained"]["count"] + data["forgotten"]["count"]:
        return _not("The retained records are not the training records without the forgotten ones.")
    if data["preprocessing_learned"]:
        return _not(LEARNED)
    copies = data["copies_retained"]
    more = f" {copies} retained records have the same content as a forgotten one." if copies else ""
    return {"claimed": True, "evidence": {key: data[key] for key in ("training", "retained", "forgotten", "copies_retained")},
            "statement": f"The model was {guarantee['basis']}. The commitment to the retained records is the one to the training "
                         f"records without the {data['forgotten']['count']} forgotten ones.{more}",
            "assumptions": ["C1: that this computation is the one that was run.",
                            "The starting point and the choice of settings did not depend on the records.",
                            *guarantee.get("assumptions", [])]}


def certified(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """C3."""
    guarantee = evidence["guarantee"]
    if guarantee.get("level") != "certified":
        return _not(guarantee.get("void") or f"{evidence['procedure']['name']} comes with no theorem that bounds what the model "
                                             "still tells about the records.")
    if evidence["data"]["preprocessing_learned"]:
        return _not(LEARNED)
    numbers = {key: value for key, value in guarantee.items() if key not in ("level", "assumptions", "basis")}
    return {"claimed": True, "evidence": numbers, "assumptions": guarantee["assumptions"],
            "statement": f"(ε, δ)-certified removal with ε {guarantee['epsilon']} and δ {guarantee['delta']} with respect to "
                         f"{guarantee['adjacency']}, by {guarantee['basis']}."}


def empirical(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """C4."""
    audit = evidence["audit"]
    judged = [test for test in audit["tests"] if test["tier"] == "forgetting" and test["verdict"] != "shown"]
    found = [test["metric"] for test in judged if test["verdict"] == "outside"]
    passed = [test["metric"] for test in judged if test["verdict"] == "inside" and _to_retrained(test)]
    equal = {test["metric"]: test["smallest_margin"] for test in judged if test["smallest_margin"] is not None}
    weak = [test["metric"] for test in judged if test["verdict"] == "not enough power"]
    bounds = {test["metric"]: test["low"] for test in audit["tests"] if "epsilon" in test["metric"] and test["low"] is not None}
    inside = {"tests": audit["tests"], "budget": audit["budget"], "controls": audit["controls"], "without_power": weak,
              "epsilon_lower_bounds": bounds, "smallest_equivalence_margins": equal,
              "not_tested": audit["not_tested"], "blind": audit["blind"]}
    if not audit["budget"]["references"]:
        return {**_not(_unretrained(found)), "evidence": inside}
    if found:
        return {**_not(f"Tests found a difference from retrained models: {', '.join(found)}."), "evidence": inside}
    if audit["controls"]["original"] != "outside" or not passed:
        return {**_not("No test told even the untouched model from retrained ones, so the absence of findings says nothing."),
                "evidence": inside}
    objective = audit.get("objective", "records")
    attacks = [test["metric"] for test in judged if test["aspect"] == "recovery" and test["metric"] in passed]
    if objective == "concept" and not attacks:
        return {**_not("A concept was to go, and no attack that detects the untouched model tried to bring it back."),
                "evidence": inside}
    if audit["controls"]["retrained"] == "outside":
        return {**_not("A model retrained without the records was told apart too: the tests raise false alarms."),
                "evidence": inside}
    if audit["controls"]["utility"]:
        return {**_not(f"The model is worse than retrained ones at its task: {', '.join(audit['controls']['utility'])}."),
                "evidence": inside}
    tail = f" {len(weak)} more had no power." if weak else ""
    tail += "".join(f" The smallest margin of equivalence of {name} is {margin}." for name, margin in equal.items())
    bound = "".join(f" The attack's 95 % lower bound on ε by {name} is {low}." for name, low in bounds.items())
    return {"claimed": True, "evidence": inside,
            "statement": f"{len(passed)} tests that find the untouched model out did not tell this model from "
                         f"{audit['budget']['references']} models retrained without the records: {', '.join(passed)}."
                         f"{tail}{bound}{MEANS[objective].format(attacks=', '.join(attacks))}",
            "assumptions": ["The retrained models used the recipe of the original and the retained records.",
                            "One more retrained model lies in all bands together with a probability of at least 95 %."]}


def _unretrained(found: Sequence[str]) -> str:
    """Why nothing is claimed where no model was retrained: what was found was found against a weaker yardstick."""
    first = "Nothing was retrained, so no test compares this model with one that never read the records."
    return first + (f" Weaker yardsticks find the records in it, or what it lost: {', '.join(found)}." if found else "")


def _to_retrained(test: Mapping[str, Any]) -> bool:
    return test["band"] is not None and test["band"]["kind"] in (None, "retrained")


def _not(why: str) -> dict[str, Any]:
    return {"claimed": False, "statement": "", "why_not": why}

"""The evidence of one model of a finished run, without record content: what the claims are computed from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.certificate import merkle
from lethe.certificate.canonical import encode, fixed, sha256
from lethe.certificate.inventory import NOT, inventory
from lethe.certificate.shape import plain
from lethe.core.discretion import discreet, secrets, without
from lethe.core.evidence import OUTSIDE
from lethe.core.strict_yaml import read_yaml
from lethe.errors import DataError, RequestError, UnknownKey, nearest

if TYPE_CHECKING:
    from lethe.results.schema import Measurement, Results, Row, Scenario

TEST = ("audit", "metric", "definition", "tier", "aspect", "version", "value", "low", "high", "n", "better", "verdict", "side",
        "p", "p_joint", "original", "original_outside", "margin", "equivalent", "smallest_margin")
POLICY = ("id", "until", "passed", "requests", "low", "high")
BAND = ("kind", "mean", "sd", "n", "low", "high")
DECLARED = ("request", "inventory", "notifications", "retention", "residual_risk", "review")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
REPEAT = "lethe verify CERT --reexecute --run RUN"


def chosen(results: Results, method: str | None, scenario: str | None) -> tuple[Scenario, Row]:
    """(scenario, row) of the chosen model; RequestError when the choice is ambiguous."""
    case = case_of(results, scenario)
    rows = {row.name: row for row in case.subjects if row.role == "method"}
    row = rows[_one("method", method, list(rows))]
    if row.unchanged:
        raise RequestError(f"{row.name} left every weight as the original's, so there is no deletion to certify, and no "
                           "certificate was written. See the notes of the run, and choose another method or other options.")
    if row.error:
        raise RequestError(f"{row.name} failed ({row.error}), so there is no model to certify.")
    return case, row


def case_of(results: Results, scenario: str | None) -> Scenario:
    """The chosen scenario; RequestError when the choice is ambiguous."""
    cases = {case.name: case for case in results.scenarios}
    return cases[_one("scenario", scenario, list(cases))]


def _one(what: str, asked: str | None, known: Sequence[str]) -> str:
    if asked is None and len(known) == 1:
        return known[0]
    if asked is None or asked not in known:
        problem = f"the run has no {what} {asked!r}{nearest(asked, known)}" if asked else f"the run has {len(known)} {what}s"
        raise RequestError(f"{problem}, and a certificate is about one model; none was written. Pass --{what} with one of: "
                           f"{', '.join(map(repr, known))}.")
    return asked


def declarations(path: Path | None) -> dict[str, Any]:
    """What the controller declares (YAML): request, inventory, notifications, retention, residual_risk."""
    if path is None:
        return {}
    declared = read_yaml(path, "--declare")
    if not isinstance(declared, dict) or not all(isinstance(declared.get(key, {}), dict) for key in ("request", "inventory")):
        raise RequestError(f"{path} holds no declarations (a YAML mapping with {', '.join(DECLARED)}); no certificate "
                           "was written.")
    review = declared.get("review", {})
    if not isinstance(review, dict) or set(review) - {"date", "trigger"} or ("date" in review and not _date(review["date"])):
        raise RequestError(f"review in {path} is {str(review)[:80]!r}, not a date (2027-06-01) with a trigger; no certificate "
                           "was written. Write  review: {date: 2027-06-01, trigger: the model is trained further}.")
    for key in declared:
        if key not in DECLARED:
            raise UnknownKey(f"{key!r} in {path} is not a declaration{nearest(str(key), DECLARED)}; no certificate was written. "
                             f"Known: {', '.join(DECLARED)}.")
    return declared


def _date(value: Any) -> bool:
    try:
        return bool(date.fromisoformat(str(value)))
    except ValueError:
        return False


def evidence(results: Results, case: Scenario, row: Row, data: Mapping[str, Any], models: Mapping[str, Any],
             found: Mapping[str, Any], declared: Mapping[str, Any], secret: bytes) -> dict[str, Any]:
    """Everything that the claims rest on, in the form in which it is signed.

    data      counts and roots of the records, and how many retained ones equal a forgotten one
    models    {before, after: hash of the weights, files: digests of the saved model, kind}
    found     the files in and beside the run folder, for the inventory; others: the run's other models by name, with their hash
    """
    words = secrets(results.config)
    request = dict(declared.get("request", {}))
    if "subject" in request:
        request["subject"] = "hmac-sha256:" + merkle.leaf(secret, f"subject {request['subject']}", b"").hex()
    kept: dict[str, Any] = plain(fixed({
        "run": {"name": _name(results.id, secret, bool(words)), "title": without(results.title, words) or "",
                "family": case.family, "scenario": case.name, "created": results.created, "seconds": results.seconds},
        "request": {"selection": _selection(results.config, case.name), "declared": request},
        "procedure": {"name": row.config["name"], "label": row.name, "kind": row.kind, "seed": row.seed,
                      "sha256": procedure_hash(row.config), "cost": row.cost.model_dump(), "notes": _said(row.notes, words),
                      "command": REPEAT},
        "software": results.versions, "data": data, "models": models, "guarantee": row.guarantee,
        "audit": _audit(results.config, case, row, words), "inventory": inventory(found, declared.get("inventory", {})),
        "declared": {key: declared[key] for key in ("notifications", "retention", "residual_risk", "review") if key in declared},
    }))
    if case.policy is not None:
        kept["policy"] = plain(fixed({**{key: getattr(case.policy, key) for key in POLICY}, "text": case.policy.told,
                                      "expires": list(case.policy.expires)}))
    kept["lineage"] = lineage(kept["models"], kept["inventory"], found.get("others", {}))
    return kept


def lineage(models: Mapping[str, Any], rows: Sequence[Mapping[str, str]], others: Mapping[str, str]) -> dict[str, Any]:
    """The model that this one was made from, and what was made of the same one, each with its state in the inventory."""
    state = {row["artefact"]: row["state"] for row in rows}
    return {"parents": [{"name": "original model", "weights": models["before"], "state": state["original model"]}],
            "children": [{"name": "unlearned model", "weights": models["after"], "state": state["unlearned model"]},
                         *[{"name": name, "weights": weights, "state": NOT} for name, weights in sorted(others.items())]]}


def configuration(results: Results, row: Row) -> dict[str, Any]:
    """The effective request and the method's own configuration, without the values by which records are named."""
    words = secrets(results.config)
    shown: dict[str, Any] = plain(fixed({"request": _placeless(_public(results.config, words)), "method": _public(row.config)}))
    return shown


def procedure_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a method's public configuration."""
    return sha256(encode(plain(fixed(_public(config)))))


def require_no_addresses(data: bytes, words: Set[str]) -> None:
    """DataError when a document would carry an e-mail address, or a value by which the request names records."""
    text = data.decode()
    address = EMAIL.search(text) if "@" in text else None   # plain searches first: records.txt is long
    if address:
        raise DataError(f"an e-mail address ({address.group()[:3]}…) would stand in the certificate; none was written. Remove "
                        "it from the title or the declarations; a role or a case number serves as well.")
    left = [word for word in words if len(word) > 3 and not word.isdigit() and word in text
            and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    if left:
        raise DataError(f"{len(left)} values by which the request names records would stand in the certificate, so none was "
                        "written. Remove them from the title, the names of classes and the declarations.")


def names(run: str, secret: bytes) -> tuple[str, str]:
    """The names that a run may have in a certificate: its own, and the keyed one."""
    return run, f"hmac-sha256:{merkle.leaf(secret, f'run {run}', b'').hex()}"


def _name(run: str, secret: bytes, naming: bool) -> str:
    """The run's name, keyed where it is a hash over names of records: such a hash could be searched for."""
    return names(run, secret)[naming]


def _selection(config: Mapping[str, Any], scenario: str) -> Any:
    scenarios = config.get("scenarios") or {}
    asked = scenarios.get(scenario, {}).get("forget") if scenarios else config.get("forget")
    return discreet({"forget": asked})["forget"]


def _public(config: Any, words: Set[str] = frozenset()) -> Any:
    """Without naming values (and these `words` in texts), and without the places of secret keys."""
    if isinstance(config, Mapping):
        shown = discreet(config).items()
        return {key: "[given]" if str(key).endswith("_key") and item else _public(item, words) for key, item in shown}
    if isinstance(config, (list, tuple)):
        return [_public(item, words) for item in config]
    return without(config, words) if isinstance(config, str) else config


def _placeless(config: Any) -> Any:
    """Files without their folders: others read a certificate, and digests say which file was meant."""
    if isinstance(config, Mapping):
        return {key: _placeless(item) for key, item in config.items()}
    if isinstance(config, (list, tuple)):
        return [_placeless(item) for item in config]
    return f"…/{Path(config).name}" if isinstance(config, str) and Path(config).is_absolute() else config


def _said(notes: Sequence[str], words: Set[str]) -> list[str]:
    return [without(note, words) or "" for note in notes]


def _audit(config: Mapping[str, Any], case: Scenario, row: Row, words: Set[str]) -> dict[str, Any]:
    asked = config.get("audit") or {}
    verdicts = {one.role: one.conclusion.verdict for one in case.subjects if one.role != "method"}
    alarms = case.false_alarms
    return {
        "objective": case.goes([row]), "saw": {"access": case.access, "unseen": without(case.unseen, words) or ""},
        "tests": [_test(item) for item in row.evidence],
        "conclusion": {"verdict": row.conclusion.verdict, "text": without(row.conclusion.text, words) or ""},
        "budget": {"depth": asked.get("depth"), "references": case.references.count, "shadows": asked.get("shadows"),
                   "audits": sorted({item.audit for item in row.evidence})},
        "controls": {"original": verdicts.get("original", "absent"), "retrained": verdicts.get("retrained", "absent"),
                     "utility": [item.metric for item in row.evidence if (item.tier, item.verdict) == ("utility", OUTSIDE)],
                     "false_alarms": None if alarms is None else alarms.model_dump(exclude_none=True)},
        **({} if case.power is None else {"power": {
            "smallest": case.power.smallest,
            "doses": [one.model_dump(include={"share", "records", "detected", "of"}) for one in case.power.doses]}}),
        "not_tested": [{"audit": one.title, "why": one.why} for one in case.not_tested],
        "blind": [one.model_dump() for one in case.blind],
    }


def _test(item: Measurement) -> dict[str, Any]:
    """One measured value: no per-example numbers, no details."""
    band = item.yardstick
    return {**{key: getattr(item, key) for key in TEST},
            "band": None if band is None else {key: getattr(band, key) for key in BAND}}

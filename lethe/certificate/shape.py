"""The shape of a certificate's documents: every key they may have, the type of its value, the names of the files, the dates.

What is not listed here is refused: a key or a file that no check looks at could say anything under the same signature. Texts may
not change the direction of what stands beside them (Unicode's bidirectional marks): the eye would read another sentence.

A spec is a type or several, a set of words, [spec of each item], a mapping of keys ("key?" may be absent), or a tuple of specs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import NoneType
from typing import Any, get_args

from lethe.core.evidence import Access, Aspect, Better, Ending, Kind, Side, Tier, Verdict, YardstickKind

FREE = object             # its content is the controller's, a method's or an audit's
NUMBER = "number"         # an integer, or a decimal in text
HASH = re.compile(r"[0-9a-f]{64}")
MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f-\x9f]")
SLACK = timedelta(days=1)   # clocks differ; a day is no clock

COMMITMENT = {"count": int, "root": HASH}
DATA = {"training": COMMITMENT, "retained": COMMITMENT, "forgotten": COMMITMENT, "copies_retained": int,
        "preprocessing_learned": bool, "leaf": str}
RUN = {"name": str, "title": str, "family": str, "scenario": str, "created": str, "seconds": (NUMBER, NoneType)}
INVENTORY = [{"artefact": str, "state": str, "reason": str, "by": frozenset(("found", "declared"))}]
CLAIMS = [{"level": str, "name": str, "does_not_say": str, "assumptions": [str], "evidence": dict, "why_not": str,
           "claimed": bool, "statement": str}]
FILES = [{"path": str, "sha256": HASH, "bytes": int}]
OPTIONAL = (NUMBER, NoneType)
BAND = {"kind": (frozenset(get_args(YardstickKind)), NoneType), "mean": OPTIONAL, "sd": OPTIONAL, "n": int, "low": OPTIONAL,
        "high": OPTIONAL}
TEST = {"audit": str, "metric": str, "definition": str, "tier": frozenset(get_args(Tier)), "aspect": frozenset(get_args(Aspect)),
        "version": int, "value": OPTIONAL, "low": OPTIONAL, "high": OPTIONAL, "n": (int, NoneType),
        "better": frozenset(get_args(Better)), "verdict": frozenset(get_args(Verdict)), "side": frozenset(get_args(Side)),
        "p": OPTIONAL, "p_joint?": OPTIONAL, "p_holm?": OPTIONAL, "original": OPTIONAL, "original_outside": (bool, NoneType),
        "margin": OPTIONAL, "equivalent": (bool, NoneType), "smallest_margin": OPTIONAL, "band": (BAND, NoneType)}
ENDINGS = frozenset((*get_args(Ending), "absent"))
AUDIT = {"objective?": str, "tests": [TEST], "conclusion": {"verdict": ENDINGS, "text": str},
         "budget": {"depth": (str, NoneType), "references": int, "shadows": (int, NoneType), "audits": [str]},
         "controls": {"original": ENDINGS, "retrained": ENDINGS, "utility": [str],
                      "false_alarms": ({"outside": int, "of": int, "low?": NUMBER, "high?": NUMBER}, NoneType)},
         "not_tested": [{"audit": str, "why": str}], "blind": [{"audit": str, "text": str}]}
POWER = {"smallest": OPTIONAL, "doses": [{"share": NUMBER, "records": int, "detected": int, "of": int}]}
SAW = {"access": (frozenset(get_args(Access)), NoneType), "unseen": str}
POLICY = {"id": str, "until": str, "passed": int, "requests": int, "low": NUMBER, "high": NUMBER, "text": str, "expires": [str]}
MODELS = [{"name": str, "weights": HASH, "state": str}]
LINEAGE = {"parents": MODELS, "children": MODELS}
EVIDENCE: dict[str, Any] = {
    "run": RUN, "request": {"selection": FREE, "declared": dict}, "software": dict, "data": DATA, "guarantee": dict,
    "audit": AUDIT,
    "procedure": {"name": str, "label": str, "kind": frozenset(get_args(Kind)), "seed": (int, NoneType), "sha256": HASH,
                  "cost": dict, "notes": [str], "command": str},
    "models": {"before": HASH, "after": HASH, "files": FILES}, "inventory": INVENTORY,
    "declared": {"notifications?": FREE, "retention?": FREE, "residual_risk?": FREE},
}
EVIDENCES: dict[str, Any] = {"lethe-certificate-1": EVIDENCE, "lethe-certificate-2": {
    **EVIDENCE, "audit": {**AUDIT, "saw": SAW, "power?": POWER}, "lineage": LINEAGE, "policy?": POLICY,
    "declared": {**EVIDENCE["declared"], "review?": {"date?": str, "trigger?": str}}}}
FIRST = {"format": str, "issued": str, "issuer": HASH, "run": RUN, "data": DATA, "models": {"before": HASH, "after": HASH},
         "claims": CLAIMS, "inventory": INVENTORY, "paragraphs": dict, "chain": {"ledger_head": str, "log": HASH}, "files": FILES}
CERTIFICATE = {"lethe-certificate-1": FIRST, "lethe-certificate-2": {
    **FIRST, "wording": int, "title": str, "scope": str, "lineage": LINEAGE,
    "review": {"date": str, "by": frozenset(("declared", "default")), "triggers": [str]}}}
KEPT = frozenset(("certificate.html", "evidence.json", "log.json", "proofs.json", "public.pem", "records.txt", "request.json"))
NAMES = {"lethe-certificate-1": KEPT, "lethe-certificate-2": KEPT | {"model.sig", "model-signing.pem"}}   # files that are listed
OWN = {"lethe-certificate-1": ("certificate.json", "signature.json"),   # and those that cannot be, for they sign the list
       "lethe-certificate-2": ("certificate.json", "signature.json", "attestation.json")}
SIGNATURE = {"algorithm": frozenset(("Ed25519",)), "public_key": HASH, "over": frozenset(("certificate.json",)),
             "signature": re.compile(r"[0-9a-f]{128}")}
LOG = [{"event": str, "at": str, "entry": int, "ledger_previous": str, "ledger_hash": str, "previous": HASH, "hash": HASH}]
SIDE = {"leaf": HASH, "index": int, "path": [HASH]}
PROOFS = [{"in_training": SIDE, "not_in_retained": {"leaf": HASH, "before": (SIDE, NoneType), "after": (SIDE, NoneType)}}]
ENVELOPE = {"payload": str, "payloadType": str, "signatures": [{"sig": str, "keyid": str}]}
SIGSTORE = {"mediaType": str, "verificationMaterial": {"publicKey": {"hint": HASH}, "tlogEntries": list},
            "dsseEnvelope": ENVELOPE}
REQUEST = {"request": dict, "method": dict}
DOCUMENTS: Mapping[str, Any] = {"request.json": REQUEST, "log.json": LOG, "proofs.json": PROOFS}


def faults(value: Any, spec: Any, place: str) -> list[str]:
    """Where the data have another shape, and where a text holds marks of direction or control characters."""
    return [*_shape(value, spec, place), *_marks(value, place)]


def plain(value: Any) -> Any:
    """The data without marks of direction and control characters in any text: as they may be signed."""
    if isinstance(value, str):
        return MARKS.sub("", value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shape(value: Any, spec: Any, place: str) -> Iterator[str]:
    if isinstance(spec, dict) and isinstance(value, dict):
        known = {key.removesuffix("?"): (inner, key.endswith("?")) for key, inner in spec.items()}
        for key in sorted(value.keys() - known.keys()):
            yield f"{place}: {key[:60]!r} is no key of the format"
        for key, (inner, optional) in known.items():
            if key in value:
                yield from _shape(value[key], inner, f"{place}: {key}" if place.endswith(".json") else f"{place}.{key}")
            elif not optional:
                yield f"{place}: {key} is missing"
    elif isinstance(spec, list) and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _shape(item, spec[0], f"{place}[{number}]")
    elif not _fits(value, spec):
        yield f"{place} is {str(value)[:60]!r}, which the format does not allow there"


def _fits(value: Any, spec: Any) -> bool:
    if isinstance(spec, tuple):
        return any(not list(_shape(value, one, "")) for one in spec)
    if isinstance(spec, frozenset):
        return isinstance(value, str) and value in spec
    if isinstance(spec, re.Pattern):
        return isinstance(value, str) and spec.fullmatch(value) is not None
    if spec == NUMBER:
        return type(value) is int or (isinstance(value, str) and _decimal(value))
    return spec is FREE or type(value) is spec


def _decimal(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _marks(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, str):
        mark = MARKS.search(value)
        if mark:
            yield f"{place} holds U+{ord(mark.group()):04X}, an unseen character that changes how a text is shown"
    elif isinstance(value, (list, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _marks(str(key), place)
            yield from _marks(item, place)


def dates(certificate: Mapping[str, Any], log: list[Mapping[str, Any]]) -> list[str]:
    """What is impossible about the times: no dates, not in order, or in the future of this machine's clock."""
    steps = [("the run ended", certificate["run"]["created"]), ("it was issued", certificate["issued"])]
    steps += [(f"event {number} of log.json", event["at"]) for number, event in enumerate(log, start=1)]
    wrong, times = [], {}
    for what, text in steps:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            wrong.append(f"{what} {text[:40]!r}, which is no date")
            continue
        if when.tzinfo is None:
            wrong.append(f"{what} {text}, without a time zone")
        elif when > datetime.now(UTC) + SLACK:
            wrong.append(f"{what} {text}, which is still to come by the clock of this machine")
        else:
            times[what] = when
    issued = times.get("it was issued")
    if issued is not None and "review" in certificate and date.fromisoformat(certificate["review"]["date"]) < issued.date():
        wrong.append(f"it was to be reviewed on {certificate['review']['date']}, before it was issued")
    wrong += [f"it was issued {issued.isoformat()}, before {what} ({when.isoformat()})" for what, when in times.items()
              if issued is not None and when > issued + SLACK]
    events = [when for what, when in times.items() if what.startswith("event")]
    if any(later + SLACK < sooner for sooner, later in pairwise(events)):
        wrong.append("the events of log.json do not follow each other in time")
    return wrong

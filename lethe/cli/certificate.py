"""`lethe certify` and `lethe verify`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.certificate.canonical import encode
from lethe.certificate.verify import FAILED, OK, Check, check, title
from lethe.core.files import atomic
from lethe.errors import RequestError

if TYPE_CHECKING:
    from lethe.work.options import Options


def certify(run: Path, key: Path, output: Path | None, method: str | None, scenario: str | None, declare: Path | None,
            options: Options, as_json: bool, record: str | None = None) -> None:
    """Issue a certificate and print its claims."""
    from lethe.work.verify import certify as issued
    from lethe.work.verify import opening_of

    if record is not None:
        place = output or Path("record-proof.json")
        if place.exists():
            raise RequestError(f"{place} exists and was not overwritten. Pass --output another file.")
        opened = opening_of(run, key, record, scenario, options)
        with atomic(place, private=True) as beside:
            beside.write_bytes(encode(opened))
        print(json.dumps({"proof": str(place), "records": len(opened)}) if as_json else
              f"{place}: opens {len(opened)} record(s) of this person in certificates of this run. Send it to them alone.\n"
              f"They check:  lethe verify CERT --record ID --proof {place.name}")
        return

    made = issued(run, key, output, method, scenario, declare, options)
    if made.key_made:
        print(f"made a signing key: {key} (only you can read it; keep a safe copy, and share the public key only)",
              file=sys.stderr)
    if as_json:
        print(json.dumps({"folder": str(made.folder), "key_made": made.key_made, **made.certificate}, ensure_ascii=False))
        return
    for claim in made.certificate["claims"]:
        text = claim["statement"] if claim["claimed"] else f"not claimed: {claim['why_not']}"
        print(f"{claim['level']} {claim['name']:<10} {text}")
    print(f"\n{made.certificate['title']}.")
    print(f"\nPage:        {made.folder / 'certificate.html'}\nPublic key:  {made.folder / 'public.pem'}\n"
          f"Check it:    lethe verify {made.folder}")


def verify(folder: Path, trusted: Path | None, model: Path | None, ledger: Path | None, run: Path | None, options: Options | None,
           as_json: bool, record: str | None = None, proof: Path | None = None) -> bool:
    """Check a certificate and print every check; whether nothing failed."""
    folder = folder.parent if folder.name == "certificate.json" else folder
    found = check(folder, trusted, model, ledger, record, proof)
    if options is not None:
        if run is None:
            raise RequestError("--reexecute repeats the run and needs its folder, so nothing was repeated. Pass --run RUN.")
        found.append(_repeated(folder, run, options))
    good = not any(one.state == FAILED for one in found)
    said = title(folder) if good else None
    known = any(one.part == "issuer" and one.state == OK for one in found)
    if as_json:
        print(json.dumps({"holds": good, "title": said, "issuer_known": good and known,
                          "checks": [asdict(one) for one in found]}, ensure_ascii=False))
        return good
    for one in found:
        print(f"{one.state:<12} {one.part:<17} {one.text}")
    if not good:
        print("\nThe certificate does NOT hold: rely on none of its claims.")
        return False
    print(f"\n{said}.\nThis record holds, for the parts that were checked."
          + ("" if known else " Nobody stands behind it: whose key signed it is not known, so anybody may have made it. Pass "
             "--public-key with the key that the issuer sent you."))
    return True


def _repeated(folder: Path, run: Path, options: Options) -> Check:
    """C1 once more: the same request on the same data must return the same weights."""
    from lethe.certificate.canonical import decode
    from lethe.certificate.gather import chosen, procedure_hash
    from lethe.results import schema
    from lethe.work.verify import reexecute

    certificate = decode((folder / "certificate.json").read_bytes(), "certificate.json")
    evidence = decode((folder / "evidence.json").read_bytes(), "evidence.json")
    case, row = chosen(schema.load(run), evidence["procedure"]["label"], evidence["run"]["scenario"])
    if procedure_hash(row.config) != evidence["procedure"]["sha256"]:
        return Check("re-execution", FAILED, f"{run} was made with another configuration than the certified run")
    before, after = reexecute(run, case, row, options)
    for what, hashed in (("before", before), ("after", after)):
        certified = certificate["models"][what]
        if hashed != certified:
            return Check("re-execution", FAILED, f"the model {what} has hash {hashed[:16]}…, certified is {certified[:16]}… "
                                                 "(software, device and thread count must be the run's: see evidence.json)")
    return Check("re-execution", OK, "the same request on the same data returned the same weights")

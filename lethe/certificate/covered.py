"""What may be certified: a run whose finished entry in the ledger has the digest of every file that is spoken of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lethe.core.strict_yaml import read_yaml
from lethe.errors import RequestError, StorageError
from lethe.results.folder import ledger_of

if TYPE_CHECKING:
    from lethe.ledger import Ledger
    from lethe.results.schema import Results


def covered(run: Path) -> tuple[Results, Ledger]:
    """The results of a finished run, with its request as it was written, and its ledger.

    RequestError where there is no finished run, StorageError where files are not those that the ledger noted when it ended. An
    entry of a later attempt that failed says nothing about the files: the newest finished one does.
    """
    from lethe.ledger import Ledger
    from lethe.results import schema

    for needed, what in ((run / "results.json", "the run is not finished"), (run / "request.yaml", "the request is not there"),
                         (ledger_of(run), "there is no ledger beside the run")):
        if not needed.exists():
            raise RequestError(f"{needed} does not exist ({what}), so there is nothing to certify. Provide the folder of a "
                               "finished run: lethe results lists them.")
    ledger = Ledger(ledger_of(run))
    broken = ledger.verify()
    if broken is not None:
        raise StorageError(f"the ledger {ledger_of(run)} was changed after it was written ({broken.reason}), so nothing was "
                           "certified. Compare with a backup.")
    results = schema.load(run)
    if run.resolve().name != results.id:
        raise StorageError(f"{run} holds the results of {results.id}, so they were moved or edited and nothing was certified. "
                           "Compare with a backup.")
    changed = ledger.uncovered(results.id, run)
    if changed is None:
        raise StorageError(f"the ledger {ledger_of(run)} has no entry of {results.id} as a finished run, so nothing says that "
                           "its files are those of a run; nothing was certified. Repeat the command of the run: it completes it.")
    if changed:
        raise StorageError(f"{len(changed)} files of {run} differ from what the ledger noted ({', '.join(changed[:3])}), so "
                           "nothing was certified. Compare with a backup, or repeat the run with --again.")
    # the results name no record; what may not stand in a certificate must be known
    request = read_yaml(run / "request.yaml", "the request of the run")
    return results.model_copy(update={"config": request}), ledger

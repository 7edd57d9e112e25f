"""Read the files of a bundle that somebody else made: plain files of a sane size, nothing else."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from lethe.certificate.canonical import decode
from lethe.errors import StorageError

MOST = 1 << 26       # 64 MiB: of a document
RECORDS = 1 << 30    # 1 GiB: of records.txt, 16 million records


def whole(path: Path, most: int = MOST) -> bytes:
    """The bytes of a file. StorageError for a folder, a device, or one that is larger than `most`."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        kind = "folder" if stat.S_ISDIR(about.st_mode) else "device or pipe"
        raise StorageError(f"{path.name} is a {kind} and not a file, so it was not read. Get the certificate from its "
                           "issuer again.")
    if about.st_size > most:
        raise StorageError(f"{path.name} has {about.st_size:,} bytes; no certificate has more than {most:,} there, so it was not "
                           "read. Get the certificate from its issuer again.")
    return path.read_bytes()


def document(folder: Path, name: str) -> Any:
    """The data of a JSON document of a bundle."""
    return decode(whole(folder / name), name)

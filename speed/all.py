"""Run every benchmark; each prints a line and adds its result to speed/results.json.    python -m speed.all"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HELPERS = {"all", "common"}


def main() -> int:
    """The number of speed that failed."""
    folder = Path(__file__).parent
    failed = 0
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        if path.stem not in HELPERS and not path.stem.startswith("_"):
            print(f"== {name}", file=sys.stderr, flush=True)
            failed += subprocess.run([sys.executable, "-m", name], cwd=folder.parent, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())

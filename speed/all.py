"""Run every benchmark; each prints a line and adds its result to speed/results.json.    python -m speed.all"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """The number of benchmarks that failed."""
    folder = Path(__file__).parent
    failed = 0
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__main__")
        if path != Path(__file__) and '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            print(f"== {name}", file=sys.stderr, flush=True)
            failed += subprocess.run([sys.executable, "-m", name], cwd=folder.parent, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())

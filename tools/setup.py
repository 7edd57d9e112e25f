"""Make `.venv` and install Lethe into it; standard library only. Run by `make`, harmless to repeat.

torch comes first and pinned: a plain requirement would let pip fetch several gigabytes of CUDA packages on machines
without a GPU. Which build is taken:
  an importable torch >= 2.9 in the environment stays;
  without an NVIDIA device, what pip would install is asked first, and taken when it is a CPU build (or not Linux);
  otherwise the user's own pip settings decide, and a line says how to choose.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".lethe-installed"
PIN = (ROOT / "constraints.txt").read_text().splitlines()[0]   # torch==…


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 is there)
        sys.exit(f"Lethe needs Python 3.11 or newer, this is {platform.python_version()}. Run: make PYTHON=python3.11")
    sources = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if STAMP.exists() and STAMP.stat().st_mtime > sources:
        return
    if not PYTHON.exists():
        say("creating .venv")
        system = ["--system-site-packages"] if os.environ.get("SYSTEM_TORCH") else []
        call(sys.executable, "-m", "venv", *system, str(VENV))
    install_torch()
    say("installing Lethe and what it stands on")
    pip("install", "-c", "constraints.txt", "-e", ".[all,dev]")
    STAMP.touch()


def install_torch() -> None:
    asked = [str(PYTHON), "-c", "import torch; print(torch.__version__)"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        major, minor = found.stdout.strip().split(".")[:2]
        if (int(major), int(minor)) >= (2, 9):
            return
    if not has_gpu() and sys.platform == "linux":
        report = subprocess.run(
            [str(PYTHON), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--report", "-", PIN],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )
        version = json.loads(report.stdout)["install"][0]["metadata"]["version"] if report.returncode == 0 else "unknown"
        if "+cpu" not in version:
            say(f"pip would install torch {version}, which may bring several gigabytes of GPU libraries to a machine without a "
                "GPU.\n  For the CPU build, stop here (Ctrl-C), point pip at PyTorch's CPU index (see the PyTorch site), and "
                "repeat.")
    say(f"installing {PIN}")
    pip("install", PIN)


def has_gpu() -> bool:
    asked = ["nvidia-smi", "-L"]
    return shutil.which(asked[0]) is not None and not subprocess.run(asked, capture_output=True, check=False).returncode


def pip(*arguments: str) -> None:
    call(str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def call(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed with status {done.returncode}")


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


if __name__ == "__main__":
    main()

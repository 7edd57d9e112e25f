"""What the commands share: options that they all have, and how data are printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def show(data: Any, as_json: bool) -> None:
    """Print plain data to stdout, as JSON or as YAML."""
    if as_json:
        print(json.dumps(data, indent=2, default=str))
    else:
        import yaml

        print(yaml.safe_dump(json.loads(json.dumps(data, default=str)), sort_keys=False, allow_unicode=True), end="")

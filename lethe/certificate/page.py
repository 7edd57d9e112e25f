"""The certificate for people: one self-contained page with the claims first. No script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lethe.certificate.wording import template
from lethe.core.extras import needs_extra


def require() -> None:
    """RequestError where no page can be rendered here: asked before a key is made and the data are read."""
    if find_spec("jinja2") is None:
        raise needs_extra("report", "the page of a certificate", "jinja2", "no certificate was written")


def render(certificate: Mapping[str, Any], evidence: Mapping[str, Any], wording: int) -> str:
    """The page of a certificate (before the hashes of its files stand in it) and its evidence, in a wording."""
    require()
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    return environment.from_string(template(wording)).render(c=certificate, e=evidence)


def number(text: Any) -> str:
    """Four significant digits of a decimal string; '–' for what is absent."""
    if text is None:
        return "–"
    return str(text) if isinstance(text, int) else f"{float(text):.4g}".replace("-", "−")

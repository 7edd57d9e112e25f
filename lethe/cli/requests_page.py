"""`lethe describe sections --page docs/requests.md`: every option of a request as one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lethe.core.catalogue import entries
from lethe.core.source_text import Option, Record

HEAD = """# Requests: every option

A request is a YAML file of the keys below. `lethe init` asks and writes one, `lethe check-model REQUEST` looks at it in seconds,
and `key.sub=value` on the command line sets one option for once. `lethe describe NAME` shows one part, `lethe schema request`
prints the JSON Schema, by which editors complete it (its first line: `# yaml-language-server: $schema=request.schema.json`).
Methods and their options: [methods.md](methods.md) and `lethe describe METHOD`.
Rebuilt by `python -m lethe describe sections --page docs/requests.md`.
"""


def requests_page(sections: Mapping[str, Record]) -> str:
    """The page as Markdown; it depends on the source files alone. sections: the parts that every family has, by name."""
    parts = [HEAD]
    for name, record in sections.items():
        parts.append(_part(name if name == "request" else f"`{name}:`", record.doc, record.options))
        if name == "data":
            for one in sorted(entries("sources").values(), key=lambda one: one.name):
                endings = ", ".join(f"`{ending}`" for ending in sorted(one.facts["suffixes"]))
                unasked = f" Read without `kind` where the file ends in {endings}." if endings else ""
                parts.append(_part(f"`data: {{kind: {one.name}}}`", one.title + unasked, one.options, "###"))
    for one in sorted(entries("families").values(), key=lambda one: one.name):
        parts.append(f"\n## Family `{one.name}`\n{one.title} A request that names no method runs `{one.usual}`.\n")
        parts += [_part(f"`{key}:` of {one.name}", "", record.options, "###") for key, record in one.sections.items()]
    return "".join(parts)


def _part(title: str, text: str, options: Iterable[Option], level: str = "##") -> str:
    rows = "".join(f"| `{one.name}` | {_cell(one.values)} | {_cell(one.default)} | {one.comment.replace('|', chr(92) + '|')} |\n"
                   for one in options)
    table = f"\n| option | values | default | |\n|---|---|---|---|\n{rows}" if rows else "\nNo options.\n"
    return f"\n{level} {title}\n{text.strip()}{chr(10) if text else ''}{table}"


def _cell(text: str) -> str:
    """Code in a table: a bar would end the cell."""
    return "`" + text.replace("|", "\\|") + "`"

"""`lethe methods`, `lethe audits` and `lethe describe`: list what exists, and show everything about one name. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lethe.cli.common import Json, show
from lethe.cli.methods_page import batch_norm, methods_page
from lethe.cli.requests_page import requests_page
from lethe.core.catalogue import KINDS, SEAMS, Entry, Kind, entries
from lethe.core.files import write_text
from lethe.core.registry import MECHANISMS
from lethe.core.source_text import Option, Record, located
from lethe.errors import RequestError, unknown_name

# parts of a request that every family has: name -> module and config class
SECTIONS = {
    "request": ("lethe.work.request", "Request"),
    "forget": ("lethe.data.select", "Where"),
    "concept": ("lethe.core.concepts", "Concept"),
    "data": ("lethe.data.load", "Data"),
    "poison": ("lethe.data.poison", "Poison"),
    "recipe": ("lethe.core.task", "Recipe"),
    "audit": ("lethe.work.request", "AuditPlan"),
    "settings": ("lethe.train.settings", "Settings"),
    "watchdog": ("lethe.train.watchdog", "Watchdog"),
}
Name = Annotated[str, typer.Argument(help="A method, audit, family, modifier, source of data, model of the zoo or section of a "
                                          "request; or a kind of these, e.g. modifiers.")]


def methods(family: Annotated[str | None, typer.Option(help="Only those that run on this family.")] = None,
            without: Annotated[str | None, typer.Option(help="Only those without retain | holdout | recipe | forget.")] = None,
            mechanism: Annotated[str | None, typer.Option(help="Only those that forget by: ascent, relabel, distil, …")] = None,
            page: Annotated[Path | None, typer.Option(help="Write them to this Markdown file instead, by mechanism.")] = None,
            as_json: Json = False) -> None:
    """List the methods, each in one sentence.

    lethe methods --family lm --without retain
    """
    if mechanism is not None and mechanism not in MECHANISMS:
        raise unknown_name("mechanism", mechanism, MECHANISMS)
    if page is not None:
        write_text(page, methods_page())
        return
    _list(_chosen("methods", family, without, mechanism), as_json)
    if without == "retain" and not as_json:
        print("\nThese ask for no retained data. Where there are some, the watchdog scores every run on a part of them, so that "
              "no ruined\nmodel is returned. To run without it: watchdog: false in the request, watchdog=False in Python.")


def audits(family: Annotated[str | None, typer.Option(help="Only those that run on this family.")] = None,
           without: Annotated[str | None, typer.Option(help="Only those that need no holdout | references | recipe.")] = None,
           as_json: Json = False) -> None:
    """List the audits.

    lethe audits --family classification
    """
    _list(_chosen("audits", family, without), as_json)


def describe(name: Name,
             page: Annotated[Path | None, typer.Option(help="With sections: write every option of a request to this Markdown "
                                                            "file.")] = None,
             as_json: Json = False) -> None:
    """Everything about one name: what it does, what it needs, its options with their origin.

    lethe describe salun
    lethe describe sections
    """
    if page is not None:
        if name != "sections":
            raise RequestError(f"--page writes every option of a request and not {name!r} alone, so nothing was written. Write "
                               f"lethe describe sections --page {page}.")
        write_text(page, requests_page({section: section_record(section) for section in SECTIONS}))
        return
    kind = next((one for one in KINDS if one == name), None)
    if kind is not None:
        _list(entries(kind).values(), as_json)
    elif name == "sections":
        show({section: section_record(section).doc for section in SECTIONS}, as_json)
    elif name in SEAMS:
        _list([one for one in entries("modifiers").values() if one.name.startswith(f"{name}.")], as_json)
    elif name in SECTIONS:
        record = section_record(name)
        if as_json:
            show({"kind": "sections", "name": name, "doc": record.doc, "options": _options(record.options)}, True)
        else:
            print(f"{record.doc}\n\n{table(record.options)}")
    else:
        entry = found(name)
        if as_json:
            show(facts(entry, whole=True), True)
        else:
            print(text_of(entry))


def found(name: str) -> Entry:
    """The entry of a name, whatever its kind: `salun`, `lora`, `where.lora`, `sources.table`."""
    everything = [one for kind in KINDS for one in entries(kind).values()]
    hits = [one for one in everything
            if name in (one.name, f"{one.kind}.{one.name}") or (one.kind == "modifiers" and one.name.split(".")[1] == name)]
    if len(hits) > 1:
        raise RequestError(f"{name!r} is the name of {len(hits)} things, so it is not clear which one is meant. Write one of: "
                           f"{', '.join(f'lethe describe {one.kind}.{one.name}' for one in hits)}.")
    if not hits:
        known = [*(one.name for one in everything), *(one.name.split(".")[1] for one in everything if one.kind == "modifiers"),
                 *SECTIONS, *KINDS, *SEAMS]
        raise unknown_name("name", name, known, "See lethe methods, lethe audits, and lethe describe with families, modifiers, "
                                                "sources, published, zoo or sections.")
    return hits[0]


def section_record(section: str) -> Record:
    """The config class of a section of the request, read from its source."""
    module, cls = SECTIONS[section]
    source = located(module)
    record = source.record(cls) if source is not None else None
    assert record is not None, f"{module} has no {cls}"
    return record


def facts(entry: Entry, whole: bool = False) -> dict[str, Any]:
    """An entry as plain data; `whole` adds docstring, options and what belongs to its kind."""
    data: dict[str, Any] = {"name": entry.name, "title": entry.title}
    if entry.kind in ("methods", "audits"):
        data |= {"families": entry.families, "needs": entry.needs, "uses": sorted(entry.uses)}
    if entry.kind == "methods":
        data |= {"mechanism": entry.mechanism, "batch_norm": batch_norm(entry)}
    if entry.kind == "families":
        data |= {"method": entry.usual}
    if entry.kind == "sources":
        data |= {"suffixes": list(entry.facts["suffixes"])}
    if entry.origin:
        data |= {"origin": entry.origin}
    if whole:
        data |= {"kind": entry.kind, "doc": entry.doc}
        data |= {key: _options(record.options) for key, record in entry.sections.items()} if entry.kind == "families" else {
            "options": _options(entry.options)}
        if entry.kind == "audits":
            data |= {"metrics": entry.facts.get("metrics", {})}
    return data


def text_of(entry: Entry) -> str:
    """An entry as text."""
    parts = [entry.doc.strip()]
    if entry.origin:
        parts.append(f"From: {entry.origin}")
    if entry.kind in ("methods", "audits"):
        parts.append(f"Families: {', '.join(entry.families)}    Needs: {', '.join(entry.needs) or 'nothing'}")
        parts += [f"  without {need}: set {given}" for need, given in entry.instead.items()]
    if entry.kind == "methods":
        parts.append(f"Batch norm (settings.batch_norm=auto): {batch_norm(entry)}")
    if entry.kind == "families":
        parts.append(f"A request that names no method runs {entry.usual}.")
        for key, record in entry.sections.items():
            also = "    and those of its kind: lethe describe sources" if record.name == "Data" else ""
            parts.append(f"{key}:{also}\n{table(record.options)}")
    else:
        parts.append(table(entry.options) or "No options.")
    if entry.kind == "sources":
        endings = ", ".join(entry.facts["suffixes"])
        unasked = f"Read without data.kind: files that end in {endings}. " if endings else ""
        parts.append(f"{unasked}Options of every kind: lethe describe data")
    metrics = [f"  {metric}: {given.get('definition') or (given.get('args') or [''])[0]}"
               for metric, given in entry.facts.get("metrics", {}).items()]
    return "\n\n".join([*parts, *(["\n".join(metrics)] if metrics else []), *_measured(entry)])


def table(options: Iterable[Option]) -> str:
    """One line an option: name, choices or type, default, comment."""
    lines = [(f"{o.name}: {o.values} = {o.default}", o.comment) for o in options]
    width = max((len(start) for start, _ in lines if len(start) <= 44), default=0)
    return "\n".join(f"  {start:<{width}}  {comment}".rstrip() for start, comment in lines)


def _measured(entry: Entry) -> list[str]:
    """Its measurements, if there are any."""
    if entry.kind not in ("methods", "audits", "modifiers"):
        return []
    from lethe.results.measured import read

    held = read(entry.name.split(".")[-1])
    lines = [f"  {one.problem}: {one.metric} {one.mean:.3g}" + (f" ± {one.sd:.2g}" if one.sd is not None else "")
             + f", {one.seeds} seeds" for one in held.numbers if one.mean is not None]
    lines += [f"  {one.problem}: {one.kind} in {len(one.seeds)} runs: {one.text}" for one in held.reasons]
    lines += [f"  {note.text}" for note in held.notes]
    return ["Measured:\n" + "\n".join(lines)] if lines else []


def _options(options: Iterable[Option]) -> list[Mapping[str, Any]]:
    return [asdict(one) for one in options]


def _chosen(kind: Kind, family: str | None, without: str | None, mechanism: str | None = None) -> list[Entry]:
    if family is not None and family not in entries("families"):
        raise unknown_name("family", family, entries("families"))
    needed = {need.rstrip("?") for one in entries(kind).values() for need in one.needs}
    if without is not None and without not in needed:
        raise unknown_name("need", without, needed)
    return [e for e in entries(kind).values() if (family is None or e.fits(family))
            and (without is None or without not in e.needs) and (mechanism is None or e.mechanism == mechanism)]


def _list(chosen: Iterable[Entry], as_json: bool) -> None:
    chosen = sorted(chosen, key=lambda e: e.name)
    if as_json:
        show([facts(one) for one in chosen], True)
        return
    width = max((len(one.name) for one in chosen), default=0)
    for one in chosen:
        print(f"{one.name:<{width}}  {one.title}")
        if one.kind in ("methods", "audits"):
            print(f"{'':<{width}}  families: {', '.join(one.families)};  needs: {', '.join(one.needs) or 'nothing'}")

"""Reports: one self-contained page, a table for the terminal, CSV, and figures. No torch; heavy parts come when used.

    render(results) -> str             the HTML page            save(results, path)          the same, atomically
    terminal_table(results) -> str     for the command line     to_csv(results) -> str       one line per value
    standings(results) -> list         mean ± sd over seeds     to_leaderboard_csv(results), to_leaderboard_json(results)
    table_text(results, form)         Markdown, LaTeX
    figures(results, folder) -> paths  every figure as SVG, PNG and CSV

`results` are `lethe.results.schema.Results`; `lethe.report.report.Report` is what a user holds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lethe.report.folder import figures
    from lethe.report.formats import table_text
    from lethe.report.leaderboard import standings, to_leaderboard_csv, to_leaderboard_json
    from lethe.report.page import render, save
    from lethe.report.table import terminal_table, to_csv

__all__ = ["figures", "render", "save", "standings", "table_text", "terminal_table", "to_csv", "to_leaderboard_csv",
           "to_leaderboard_json"]

# the modules are not named like the functions: an imported submodule would take the name
HOMES = {"figures": "folder", "standings": "leaderboard", "to_leaderboard_csv": "leaderboard",
         "to_leaderboard_json": "leaderboard", "render": "page", "save": "page", "table_text": "formats",
         "terminal_table": "table", "to_csv": "table"}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"lethe.report.{HOMES[name]}"), name)
    raise AttributeError(f"module 'lethe.report' has no attribute {name!r}")

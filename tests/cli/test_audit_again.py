"""A run that is audited again keeps to the half of holdout that its methods have not seen."""

from __future__ import annotations

from pathlib import Path

from lethe.cli.audit import of_request
from lethe.work.execute import carry_out
from lethe.work.options import Options
from lethe.work.request import parse, read


def sizes(folder: Path, method: str, watchdog: bool = True) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the splits in the run and in its second audit."""
    request = parse({"family": "classification", "model": {"zoo": "small_cnn"}, "data": {"kind": "digits", "holdout": 0.8},
                     "recipe": {"epochs": 0.5}, "forget": {"label": 3}, "method": {"name": method, "epochs": 0.1},
                     "audit": {"references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]}, "output": str(folder),
                     "watchdog": watchdog})
    report = carry_out(request, Options(export=True))
    assert report is not None
    run = folder / report.results.id
    again, _ = of_request(run, read(run / "request.yaml", []), None, "quick", Options(command="lethe audit"), False)
    first, second = (r.results.scenarios[0].sizes for r in (report, again))
    return first, second


def test_what_a_method_saw_stays_out_of_the_second_audit(tmp_path: Path) -> None:
    first, second = sizes(tmp_path, "quantile_matched")
    assert first == second and first["reference"] + first["holdout"] > 1000


def test_where_neither_method_nor_watchdog_looked_all_of_holdout_is_used(tmp_path: Path) -> None:
    first, second = sizes(tmp_path, "finetune", watchdog=False)
    assert first == second and "reference" not in first

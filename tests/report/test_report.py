"""The report: what it says, what it escapes, that nothing is fetched, that every number is in it."""

from __future__ import annotations

import copy
import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from example_results import METHODS, results

from lethe import report
from lethe.core.words import heading, number
from lethe.errors import RequestError
from lethe.report import view
from lethe.report.answer import answer
from lethe.report.colours import looks
from lethe.report.figure import drawing
from lethe.report.require import unmet
from lethe.report.tradeoff import tradeoff
from lethe.report.words import duration, interval, printable, sign
from lethe.results.schema import read

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def page() -> str:
    return report.render(read(results()))


def small(**changes: Any) -> dict[str, Any]:
    """One scenario, one metric of each tier, to keep drawing short."""
    data = results()
    data["scenarios"] = data["scenarios"][:1]
    for subject in data["scenarios"][0]["subjects"]:
        subject["evidence"] = [e for e in subject["evidence"] if e["metric"] in ("forget_accuracy", "test_accuracy")]
    data.update(changes)
    return data


def only(data: dict[str, Any], *names: str) -> dict[str, Any]:
    case = data["scenarios"][0]
    case["subjects"] = [s for s in case["subjects"] if s["role"] != "method" or s["name"] in names]
    return data


class Reader(HTMLParser):
    """Text of a page, its tags, and its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_answer_comes_first_in_plain_words(page: str) -> None:
    text = Reader(page[page.index("<body>") :]).text
    first = text[:1500]
    assert "Recommended: neggrad_plus (forgotten: yes, 5 tests; useful: −0.1 points; 0.152 × a retraining)" in first
    assert "bad_teacher failed" in first and "they detect the untouched model, as they must" in first
    assert text.index("What was not tested") > text.index("Audit: accuracy")


def test_the_page_holds_every_part(page: str) -> None:
    text = Reader(page).text
    data = results()
    for part in (data["command"], data["title"], data["id"], "2.13.0+cpu", "runs at depth deep", "one memorised record can hide",
                 "original (untouched)", "retrained (reference)", "In Kuwait City.", "stopped early", "1 of 8 retrained models",
                 *METHODS):
        assert part in text, part
    for case in view.cases(read(data)):
        for row in case.lines:
            for cell in row.cells.values():
                for item in cell.items:
                    assert number(item.value) in text
    assert page.count('src="data:image/png;base64,') == 2 * (1 + 7)   # scenarios × (untouched and methods that did not fail)
    assert page.count("<svg") == 2 * (1 + 9 + 1)                    # overview, strips, one histogram


def test_the_yardstick_stands_in_the_header_and_signs_do_not_need_colour(page: str) -> None:
    yard = results()["scenarios"][0]["subjects"][0]["evidence"][0]["yardstick"]
    assert yard["low"] < 0   # an accuracy: shown as 0
    heads, captions = page.split("</thead>"), page.split("</caption>")
    assert any(f"at most {number(yard['high'])}" in one.split("<thead>")[-1] for one in heads)
    assert any("8 retrained models" in one.split("<caption>")[-1] for one in captions)
    for words in ("✓ inside", "▲ outside", "▼ outside", "! failed", "○ no power"):
        assert words in page


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    reader = Reader(page)
    assert "script" not in reader.tags and "link" not in reader.tags and "iframe" not in reader.tags
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert (value or "").startswith(("#", "data:image/png")), value
    assert not re.findall(r"url\((?!#)|@import|@font-face", page)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len([i for i in ids if re.match(r"(figure|axes|patch|text)_", i or "")]) == 0


def test_what_users_write_is_escaped_everywhere() -> None:
    data = small(title=EVIL, command=EVIL)
    case = data["scenarios"][0]
    case.update(name=EVIL, request=EVIL, blind=[{"audit": EVIL, "text": EVIL}], not_tested=[{"audit": EVIL, "why": EVIL}])
    case["fingerprints"] = {EVIL: EVIL}
    data["config"] = {EVIL: [EVIL]}
    data["versions"] = {EVIL: EVIL}
    for subject in case["subjects"]:
        if subject["role"] == "method":
            subject.update(name=f"{subject['name']} {EVIL}", label=f"{subject['name']} {EVIL} $\\frac$",
                           notes=[EVIL], config={"lr": EVIL})
            subject["conclusion"]["text"] = EVIL
            subject["samples"] = [
                {"kind": "text", "prompt": EVIL, "truth": EVIL, "before": EVIL, "after": EVIL},
                {"kind": "image", "caption": EVIL, "before": f'"><{EVIL}', "after": "AAAA"},
            ]
        for item in subject["evidence"]:
            item["definition"] = EVIL
            item["metric"] = f"{item['metric']}{EVIL}"
    text = report.render(read(data))
    reader = Reader(text)
    assert "script" not in reader.tags
    assert "<script" not in text.lower() and text.count("&lt;script&gt;") > 20
    assert "unreadable picture" in text and 'src="data' not in text   # neither is a PNG


def test_a_terminal_cannot_be_written_over() -> None:
    data = small()
    data["scenarios"][0]["subjects"][2]["label"] = "evil\x1b[2J[red]\x07"
    table = report.terminal_table(read(data))
    assert "\x1b" not in table and "\x07" not in table and "evil�[2J[red]�" in table


def test_the_terminal_table() -> None:
    table = report.terminal_table(read(results()))
    assert "\x1b" not in table   # not a terminal: plain
    lines = table.splitlines()
    row = next(line for line in lines if line.startswith("sfron"))
    assert "✓ yes, " in row and "0.232×" in row   # 5.5 s / 23.7 s
    assert lines[1] == "Recommended: neggrad_plus (forgotten: yes, 5 tests; useful: −0.1 points; 0.152 × a retraining)"
    assert table.count("original (untouched)") == 2
    marked = next(line for line in lines if line.startswith("finetune"))
    assert "✗ no: forget accuracy 0.7" in marked and " > 0.0" in marked   # what made it ✗, and the limit that it passed
    narrow = report.terminal_table(read(results()), width=70)
    assert "no room for" in narrow and max(map(len, narrow.splitlines())) <= 70
    assert "\x1b[" in report.terminal_table(read(small()), colour=True)


def test_csv_holds_every_value() -> None:
    data = results()
    data["scenarios"][0]["subjects"][2]["name"] = "=cmd()"
    lines = list(csv.DictReader(io.StringIO(report.to_csv(read(data)))))
    assert len(lines) == 2 * (9 * 9 + 1)
    first = data["scenarios"][0]["subjects"][0]["evidence"][0]
    assert float(lines[0]["value"]) == first["value"] and float(lines[0]["yardstick_sd"]) == first["yardstick"]["sd"]
    assert [line["conclusion"] for line in lines if line["subject"] == "bad_teacher"] == ["failed"] * 2
    assert any(line["subject"] == "'=cmd()" for line in lines)


def test_figures_are_written_with_the_data_behind_them(tmp_path: Path) -> None:
    written = report.figures(read(small()), tmp_path / "figures")
    assert {p.name for p in written} == {
        f"class-{name}.{ending}" for name in ("tradeoff", "accuracy-forget_accuracy", "accuracy-test_accuracy")
        for ending in ("svg", "png", "csv")}
    assert all(p.stat().st_size > 200 for p in written) and len(list((tmp_path / "figures").iterdir())) == 9
    lines = list(csv.DictReader(io.StringIO((tmp_path / "figures" / "class-accuracy-forget_accuracy.csv").read_text())))
    assert {line["row"] for line in lines} == {"original (untouched)", "retrained (reference)", *METHODS} - {"bad_teacher"}
    again = report.figures(read(small()), tmp_path / "again")
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]   # same bytes on every run


def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.save(read(small()), tmp_path / "new" / "report.html")
    before = path.read_text()
    both = [path, path.with_name("summary.html")]
    assert before.startswith("<!doctype html>") and sorted(path.parent.iterdir()) == both
    monkeypatch.setattr("lethe.core.files.os.replace", lambda a, b: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        report.save(read(small(title="other")), path)
    assert path.read_text() == before and sorted(path.parent.iterdir()) == both


@pytest.mark.parametrize(("name", "words", "level"), [
    ("sfron", "Recommended: sfron (forgotten: yes, 1 test; useful: +0.5 points; 0.232 × a retraining)", "good"),
    ("gradient_ascent", "Recommended: none. Nearest: gradient_ascent (forgotten: yes, 1 test; useful: −", "mixed"),
    ("finetune", "Recommended: none. Nearest: finetune (forgotten: no; ", "bad"),
    ("bad_teacher", "Recommended: none; bad_teacher gave no model.", "bad"),
])
def test_the_answer_on_a_single_method(name: str, words: str, level: str) -> None:
    found = answer(view.cases(read(only(small(), name)))[0])
    assert (found.headline[:len(words)], found.level) == (words, level)


@pytest.mark.parametrize(("about", "cell", "sentence"), [
    ({"fall": {"part": "holdout", "metric": "accuracy", "value": 0.9, "original": 0.951, "floor": 0.921, "step": 9},
      "unchanged": True}, "! ended: −5.1 points ", "The watchdog ended bad_teacher (−5.1 points of accuracy on unseen data), "),
    ({"fall": {"part": "weights", "metric": "share that is finite", "value": None, "original": 1.0, "floor": 1.0, "step": 9},
      "unchanged": True}, "! ended: weights not finite ", "The watchdog ended bad_teacher (weights not finite), and no earlier"),
    ({"unchanged": True}, "! nothing changed ", "bad_teacher changed nothing: "),
    ({"error": "NeedsUnmet: no retained data. Give some."}, "! failed: NeedsUnmet ", "bad_teacher failed: NeedsUnmet: no "),
    ({"error": "TypeError: shapes", "defect": True}, "! defect: TypeError ", "bad_teacher failed."),
])
def test_a_method_without_a_model_says_why_in_table_and_answer(about: dict[str, Any], cell: str, sentence: str) -> None:
    data = only(small(), "sfron", "bad_teacher")
    next(one for one in data["scenarios"][0]["subjects"] if one["name"] == "bad_teacher").update(about)
    found = read(data)
    assert any(one.startswith(sentence) for one in answer(view.cases(found)[0]).sentences)
    assert cell in report.terminal_table(found, 100) and cell.partition(":")[0] in report.terminal_table(found, 80)
    assert all("…" not in report.terminal_table(found, width) for width in (44, 60, 80, 100)), "nothing is cut"
    assert "(no room for: intervals, " in report.terminal_table(found, 60) and "time" in report.terminal_table(found, 44)


def test_a_model_made_without_the_data_has_forgotten_them_where_no_test_can_judge() -> None:
    data = only(small(), "sfron")
    for one in data["scenarios"][0]["subjects"]:
        one["evidence"] = [item for item in one["evidence"] if item["metric"] != "forget_accuracy"]
    row = data["scenarios"][0]["subjects"][-1]
    assert "Recommended: none; whether anything was forgotten cannot be judged" in answer(view.cases(read(data))[0]).headline
    row["guarantee"] = {"level": "exact", "basis": "trained from a fresh model on the retained records alone"}
    assert answer(view.cases(read(data))[0]).headline.startswith("Recommended: sfron (forgotten: yes, made without the data; ")
    assert "Exactly: trained from a fresh model on the retained records alone." in report.render(read(data))


def test_what_was_made_without_the_records_is_not_said_to_be_suppressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                        ) -> None:
    """A language model without recipe is about a behaviour, but a shard's adapter trained again has its records removed."""
    data = only(small(), "sfron")
    data["scenarios"][0].update(family="lm", objective="behaviour")
    monkeypatch.setattr("lethe.report.page.find_spec", lambda _: None)   # figures cost seconds and have tests of their own
    row = data["scenarios"][0]["subjects"][-1]

    def pages() -> str:
        found = read(data)
        written = [report.save(found, tmp_path / "report.html"), tmp_path / "summary.html"]
        return "".join([*(page.read_text(encoding="utf-8") for page in written), report.terminal_table(found, 100),
                        report.table_text(found, "md")]).lower()

    assert "suppressed? " in pages() and "forgotten? " not in pages()
    row["guarantee"] = {"level": "exact", "basis": "the shards that held the records were trained again without them"}
    assert "forgotten? " in pages() and "suppress" not in pages()
    row["guarantee"]["level"] = "none"
    assert "suppressed? " in pages()


def test_the_cheapest_that_has_forgotten_and_is_useful_is_recommended() -> None:
    data = only(small(), "sfron", "scrub", "finetune")
    found = answer(view.cases(read(data))[0])
    assert found.headline == "Recommended: sfron (forgotten: yes, 1 test; useful: +0.5 points; 0.232 × a retraining)"
    assert found.level == "good" and found.sentences[0].startswith("Of 3 methods 2 have forgotten")
    slow = next(s for s in data["scenarios"][0]["subjects"] if s["name"] == "sfron")
    slow["cost"]["seconds"] = 1000.0
    assert answer(view.cases(read(data))[0]).headline.startswith("Recommended: scrub")
    cheap = next(s for s in data["scenarios"][0]["subjects"] if s["name"] == "scrub")
    next(item for item in cheap["evidence"] if item["metric"] == "test_accuracy").update(verdict="outside", side="+")
    assert answer(view.cases(read(data))[0]).headline.startswith("Recommended: sfron"), "like retraining before cheaper"


def test_a_powerless_test_is_not_called_a_success() -> None:
    data = only(small(), "sfron", "scrub")
    for subject in data["scenarios"][0]["subjects"]:
        subject["conclusion"]["verdict"] = "not enough power"
        for item in subject["evidence"]:
            if item["tier"] == "forgetting":
                item.update(verdict="not enough power", side="", original_outside=False)
    found = answer(view.cases(read(data))[0])
    assert found.level == "none" and "whether anything was forgotten cannot be judged: nothing to find" in found.headline
    assert any("no test can distinguish a method that forgets" in s for s in found.sentences)   # what to do then
    data["scenarios"][0]["subjects"][1]["conclusion"]["verdict"] = "inside"   # the retrained one alone proves nothing
    assert not any("Check of the tests" in sentence for sentence in answer(view.cases(read(data))[0]).sentences)


def test_values_that_are_only_shown_do_not_lead() -> None:
    data = small()
    for subject in data["scenarios"][0]["subjects"]:
        for item in list(subject["evidence"]):
            if item["tier"] == "forgetting":
                shown = {**item, "audit": "lira", "metric": "lira_tpr_at_5", "verdict": "shown", "original_outside": None}
                subject["evidence"] += [shown, {**item, "audit": "lira", "metric": "best_auc"},
                                        {**item, "audit": "lira", "metric": "lira_auc"}]
    assert [c.metric for c in view.cases(read(data))[0].main] == [
        "forget_accuracy", "lira_auc", "best_auc", "lira_tpr_at_5", "test_accuracy"]


def test_a_control_that_misbehaves_is_announced() -> None:
    data = small()
    data["scenarios"][0]["subjects"][1]["conclusion"]["verdict"] = "outside"
    data["scenarios"][0]["false_alarms"] = {"outside": 3, "of": 8}
    found = answer(view.cases(read(data))[0])
    assert any("detect a freshly retrained model, too" in w for w in found.warnings)
    assert any("3 of 8 retrained models" in w for w in found.warnings)
    assert not any("Check of the tests" in s for s in found.sentences)


def test_the_page_says_which_part_left_in_would_have_been_seen() -> None:
    data = small()
    doses = [{"share": share, "records": 120 * share, "detected": seen, "of": 8}
             for share, seen in ((0.1, 2), (0.25, 7), (0.5, 8))]
    data["scenarios"][0]["power"] = {"doses": doses, "smallest": 0.25}
    found = answer(view.cases(read(data))[0])
    assert ("What they see: a model that kept 10 % of the forget set (12 examples) is detected in 2 of 8 mixtures of answers, "
            "with 25 % in 7 of 8, with 50 % in 8 of 8.") in found.sentences
    data["scenarios"][0]["power"] = {"doses": [{**dose, "detected": 1} for dose in doses], "smallest": None}
    found = answer(view.cases(read(data))[0])
    assert any("would not see half of the forget set left in training" in w for w in found.warnings)


def test_without_retrained_models_there_is_no_verdict() -> None:
    data = small()
    case = data["scenarios"][0]
    case["references"] = {"count": 0, "seconds_each": None, "strategy": "", "reason": "the task has no recipe"}
    case["subjects"] = [s for s in case["subjects"] if s["role"] != "retrained"]
    case["false_alarms"] = None
    for subject in case["subjects"]:
        if subject["name"] != "bad_teacher":
            subject["conclusion"] = {"verdict": "no yardstick", "text": "No retrained models."}
        for item in subject["evidence"]:
            item.update(verdict="no yardstick", side="", yardstick=None, p=None, p_joint=None, original_outside=None)
    text = Reader(report.render(read(data))).text
    assert "the task has no recipe" in text and "– no yardstick" in text and "bad_teacher failed" in text
    assert "no detectable difference from" not in text


def test_the_overview_figure_uses_a_metric_with_power() -> None:
    with drawing():
        made = [tradeoff(case) for case in view.cases(read(results()))]
    assert [m.rows[0]["metric"] for m in made if m] == ["forget_accuracy", "klom_forget"]   # accuracy has no power there
    assert [m.title for m in made if m] == [
        "By forget accuracy and test accuracy, neggrad_plus, sfron and scrub lie where retrained models lie",
        "By KLoM forget and test accuracy, neggrad_plus, sfron, scrub and salun lie where retrained models lie"]


def test_seeds_become_one_row_with_the_worst_verdict() -> None:
    data = only(small(), "sfron")
    case = data["scenarios"][0]
    one = next(s for s in case["subjects"] if s["name"] == "sfron")
    two = copy.deepcopy(one)
    one.update(name="sfron seed 0", seed=0)
    two.update(name="sfron seed 1", seed=1)
    one["evidence"][0]["value"], two["evidence"][0]["value"] = 0.02, 0.04
    two["evidence"][0].update(verdict="outside", side="+")
    two["conclusion"] = {"verdict": "outside", "text": "Still knows."}
    case["subjects"].append(two)
    row = view.cases(read(data))[0].methods[0]
    cell = row.cells["accuracy", "forget_accuracy"]
    assert len(view.cases(read(data))[0].methods) == 1 and row.label == "sfron"
    assert (cell.value, cell.low, cell.high, cell.seeds) == (pytest.approx(0.03), 0.02, 0.04, 2)
    assert (cell.verdict, row.verdict, row.text) == ("outside", "outside", "1 of 2 seeds: Still knows.")
    assert "over 2 seeds" in report.render(read(data))


def test_a_value_stands_beside_the_seed_that_gave_it() -> None:
    """The first seed failed, so the first value belongs to the second seed."""
    data = only(small(), "sfron")
    case = data["scenarios"][0]
    good = next(s for s in case["subjects"] if s["name"] == "sfron")
    good.update(name="sfron seed 8", seed=8)
    failed = {**good, "name": "sfron seed 7", "seed": 7, "evidence": [], "error": "RuntimeError: no", "defect": True,
              "log": "work/sfron-7.log", "conclusion": {"verdict": "failed", "text": "RuntimeError: no"}, "hiding": None}
    case["subjects"].insert(case["subjects"].index(good), failed)
    page = report.render(read(data))
    numbers = page[page.index("Every number of forget accuracy"):]
    assert '<th scope="row">sfron</th><td>8</td>' in numbers and '<th scope="row">sfron</th><td>7</td><td>0' not in numbers
    assert "sfron seed 7 failed by a defect, not by a limit that it names; the traceback is in work/sfron-7.log." in page


def test_bare_and_empty_results_are_shown() -> None:
    bare = {"id": "x", "title": "t", "scenarios": [{"name": "", "subjects": []}]}
    assert "no method was run" in report.render(read(bare)) and "no method was run" in report.terminal_table(read(bare))
    assert "<html" in report.render(read({"id": "x", "title": "nothing", "scenarios": []}))


def test_equality_hiding_doubts_and_limits_are_said() -> None:
    data = only(small(), "sfron")
    case = data["scenarios"][0]
    case.update(depth="quick", access="L1", declared={"at": "2026-11-21T09:30:00+00:00", "margins": {"forget_accuracy": 0.02}},
                doubts=[{"reference": "reference 3", "metrics": [], "text": "reference 3 is odd"}])
    case["sizes"]["forget"] = 1
    case["false_alarms"].update(low=0.003, high=0.527)
    method = next(s for s in case["subjects"] if s["name"] == "sfron")
    method["hiding"] = {"verdict": "obfuscation suspected", "text": "Hidden rather than removed.", "metrics": ["relearn"]}
    method["evidence"][0].update(margin=0.02, equivalent=False, smallest_margin=0.043)
    method["evidence"][1].update(margin=0.05, equivalent=True, smallest_margin=0.011)
    text = Reader(report.render(read(data))).text
    for part in ("inside is not equality",
                 "Not shown to be within the declared margin: forget accuracy ±0.020, would need ±0.043",
                 "Shown to be within the declared margin: test accuracy ±0.050", "written down on 21 November 2026, 09:30 UTC",
                 "The yardstick is doubtful: reference 3 is odd", "hiding suspected",
                 "sfron: Hidden rather than removed.", "The forget set has 1 example: a share measured on it is known to ±0.980",
                 "Depth quick looks at answers", "L1: the new and the untouched model", "false-alarm rate: 0.003 to 0.527"):
        assert part in text, part
    assert "hides?" in report.terminal_table(read(data), 160) and "doubtful" in report.terminal_table(read(data))
    line = next(csv.DictReader(io.StringIO(report.to_csv(read({**data, "scenarios": [{**case, "subjects": [method]}]})))))
    assert (line["hiding"], line["margin"], line["equivalent"]) == ("obfuscation suspected", "0.02", "False")


def test_numbers_and_words() -> None:
    assert [number(v) for v in (0.0, 0.98765, -0.5, 12.345, 123.4, 12345, 0.00012, None, 7)] == [
        "0", "0.988", "−0.500", "12.3", "123", "12\u202f345", "1.2e−04", "–", "7"]
    assert (interval(0.1, 0.2), interval(None, 0.2)) == ("0.100 to 0.200", "")
    assert [duration(s) for s in (None, 0.4, 59.0, 150.0, 7200.0)] == ["–", "0.400 s", "59.0 s", "2.5 min", "2.0 h"]
    assert (sign("outside", "+"), sign("outside", "−"), sign("inside")) == ("▲ outside", "▼ outside", "✓ inside")
    assert (heading("mia_auc"), heading("forget_accuracy")) == ("MIA AUC", "Forget accuracy")
    assert printable("a\x1b[0m\u202eb") == "a�[0m�b"


def test_methods_keep_their_look() -> None:
    many = looks([f"method{i}" for i in range(60)])
    assert len({(look.colour, look.marker) for look in many.values()}) == 60
    assert looks(["salun", "sfron"])["salun"] == looks(["sfron", "salun"])["salun"]
    assert looks(["salun"])["salun"] == looks(["salun", "finetune"])["salun"]   # no clash between these two


def test_a_missing_extra_is_named_and_costs_figures_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match=r"lethe-unlearning\[report\]"):
        report.figures(read(small()), tmp_path)
    page = report.render(read(small()))
    assert "sfron" in page and page.count("<svg") == 2   # a strip for each metric; the overview is missing
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(RequestError, match=r"jinja2.*lethe-unlearning\[report\]"):
        report.render(read(small()))
    assert "sfron" in report.terminal_table(read(small())) and "sfron" in report.to_csv(read(small()))


def test_tables_need_neither_torch_nor_matplotlib() -> None:
    code = ("import sys; sys.path.insert(0, 'tests'); from example_results import results; from lethe import report; "
            "from lethe.results.schema import read; report.terminal_table(read(results())); report.to_csv(read(results())); "
            "bad = {'torch', 'matplotlib', 'jinja2', 'sqlalchemy'} & set(sys.modules); assert not bad, bad")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])


def test_what_is_required_is_looked_at_in_every_scenario() -> None:
    data = only(small(), "finetune", "sfron")
    assert unmet(read(data), ["forgotten", "useful"]) == "" == unmet(read(data), [], 0.02)
    one = unmet(read(only(small(), "finetune")), ["forgotten", "useful"])
    assert one.startswith("Not reached: finetune: forgotten: no (forget accuracy 0.7") and "useful" not in one
    assert "the loss of test_accuracy is up to 0.0" in unmet(read(data), ["forgotten"], 0.001)
    assert unmet(read(only(small(), "bad_teacher")), ["useful"]) == "Not reached: no model of 'class' was made."


def test_the_first_screen_and_the_summary_answer_three_readers(page: str, tmp_path: Path) -> None:
    """The recommended row, its three answers with test, size and power; wide tables scroll by keyboard, heads have a scope."""
    sheet = report.save(read(results()), tmp_path / "report.html").with_name("summary.html").read_text()
    both = ("Recommended: neggrad_plus", "Forgotten? yes", "Useful? yes", "Indistinguishable from retraining?")
    first = ("None of 5 tests that detect the untouched model", "would have been seen", "Declared: at most 3 points lost",
             "3.60 s, a retraining takes 23.7 s", "8 retrained models, 120 examples to forget")
    plain = ("5 tests find the data in the untouched model. In the new one they find no more than in models trained anew",
             "A loss of at most 3 points was accepted.", "Trained anew (retrained): trained again from the beginning")
    for text, wanted in ((Reader(page[page.index("<body>"):]).text[:2500], first), (Reader(sheet).text, plain)):
        for words in (*both, *wanted):
            assert words in " ".join(text.split()), words
    assert 'href="summary.html"' in (tmp_path / "report.html").read_text() and "prefers-color-scheme: dark" in page
    assert page.count('<div class="scroll"') == page.count('class="scroll" tabindex="0" role="region"')
    assert "<th>" not in page[page.index("<thead>"):page.index("<dl")] and "<caption>" in page


def test_the_table_as_markdown_latex_and_json() -> None:
    made = read(small())
    text = report.table_text(made, "md")
    assert "| model | forgotten? |" in text and "\n| finetune | ✗ no: forget accuracy" in text
    assert text.startswith("### class\n\n**Recommended: neggrad_plus")
    latex = report.table_text(made, "latex")
    assert "\\begin{tabular}{lllll}" in latex and "bad\\_teacher" in latex and "–" not in latex

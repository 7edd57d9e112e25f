"""Series: windows that never cross an end of their part, standardised with train alone; targets of tables on other scales."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lethe.data.context import Context
from lethe.data.load import load
from lethe.data.sources.series import part_of, windows
from lethe.errors import DataError, EmptySplit, WrongColumn


def written(folder: Path, steps: int = 100) -> str:
    """Step t has a = t, b = 2t, and the day of t as text."""
    rows = "".join(f"2020-{1 + t // 30:02d}-{1 + t % 30:02d},{t},{2 * t}.5\n" for t in range(steps))
    (folder / "s.csv").write_text("day,a,b\n" + rows)
    return str(folder / "s.csv")


def asked(path: str, **options: object) -> dict:
    return {"kind": "series", "path": path, "targets": ["b"], "time": "day", "history": 4, "horizon": 2, **options}


def test_windows_golden() -> None:
    part = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0])
    assert [list(starts) for starts in windows(part, 3, 1)] == [[0, 1, 6], [], []]
    assert [list(starts) for starts in windows(part, 2, 2)] == [[0, 2, 6], [4], []]


def test_in_order_of_time_and_standardised_with_train(tmp_path: Path) -> None:
    splits = load(asked(written(tmp_path)))
    assert {name: len(split) for name, split in splits.items()} == {"train": 55, "holdout": 15, "test": 15}   # 60 − 6 + 1, …
    train = splits["train"]
    x, y = train.columns["x"], train.columns["y"]
    assert x.shape[1:] == (4, 2) and y.shape[1:] == (2,)
    assert float(y.mean()) == pytest.approx(0, abs=1e-5) and float(y.std(correction=0)) == pytest.approx(1, abs=1e-5)
    # b = 2a + ½, so standardised targets go on where standardised inputs end, up to one affine map
    assert train.meta["row"][3] == 3 and train.meta["time"][3] == "2020-01-08" and train.ids[3] == "row:3"
    assert float(splits["test"].columns["x"].min()) > float(x.max())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_step_stands_in_two_parts(tmp_path: Path, seed: int) -> None:
    splits = load(asked(written(tmp_path), block=10, seed=seed))
    steps = [{row + k for row in split.meta["row"] for k in range(6)} for split in splits.values()]
    assert not steps[0] & steps[1] and not steps[0] & steps[2] and not steps[1] & steps[2]
    assert list(part_of(100, (0.6, 0.2, 0.2), 10, seed)).count(0) == 60


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(WrongColumn, match="did you mean b"):
        load(asked(path, targets=["bb"]))
    with pytest.raises(DataError, match=r"'day'.*holds text such as '2020"):
        load(asked(path, columns=["day"]))
    with pytest.raises(EmptySplit, match="no stretch of 26 steps"):
        load(asked(path, history=24))
    with pytest.raises(DataError, match="add up to 1"):
        load(asked(path, shares=[0.5, 0.1, 0.1]))
    (tmp_path / "gap.csv").write_text("a,b\n" + "1,2\n" * 30 + ",3\n")
    with pytest.raises(DataError, match=r"'a' .* has 1 missing"):
        load({"kind": "series", "path": str(tmp_path / "gap.csv"), "targets": ["b"], "history": 4, "horizon": 2})


def test_targets_of_a_table_can_be_standardised_and_logged(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate([0, 3, 0, 3, 15])))
    def y(**options: object) -> np.ndarray:
        return load({"path": str(tmp_path / "t.csv"), "label": "y", **options})["train"].columns["y"].numpy()
    assert list(y(target="number")) == [0, 3, 0, 3, 15]
    assert y(target="standard") == pytest.approx((np.array([0, 3, 0, 3, 15]) - 4.2) / np.std([0, 3, 0, 3, 15]))
    logs = np.log([1, 4, 1, 4, 16])                                       # multiples of ln 4: 0, 1, 0, 1, 2
    assert y(target="log") == pytest.approx((logs / math.log(4) - 0.8) / np.std([0, 1, 0, 1, 2]))
    (tmp_path / "t.csv").write_text("a,y\n1,-2\n2,3\n")
    with pytest.raises(DataError, match="-2 in train, and log"):
        y(target="log")


def test_real_series(data_root: Path) -> None:
    splits = load({"kind": "series", "path": "tabular/etth1.csv.gz", "targets": ["OT"], "time": "date", "stride": 4,
                   "block": 336}, Context(data_root))
    assert splits["train"].columns["x"].shape[1:] == (48, 7) and splits["train"].columns["y"].shape[1:] == (24,)
    assert len(splits["train"]) > 2000 and "2016-" in splits["train"].meta["time"][0]

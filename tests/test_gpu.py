"""Every method, modifier and audit on the accelerator beside the CPU: `make gpu`, which prints the table of all of them.

The two devices add in other orders. How much of that a case lets through is measured on the CPU: the case runs again from weights
that were moved by a few units in the last place, twice. The accelerator may differ by `MORE` times what came of that, or by
what `rounding.bound` explains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest
import torch
from device_cases import Case, cases, left_out, moved, shaken, task_of
from device_cases import carried_out as carry_out
from rounding import EPSILON, bound
from torch import Tensor

from lethe.core.task import Task
from lethe.train.settings import accelerator

MORE = 30    # times the larger of two differences that units in the last place make; ranks that swap are rare in two
UNITS = 8    # in the last place, by which weights are moved
STEPS = 32   # whose rounding is let through in any case
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def device() -> str:
    found = accelerator()
    if found == "cpu":
        pytest.skip("torch sees no accelerator here, so nothing was compared with the CPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return found


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of a value; infinite where one says something that the other does not."""
    if one.keys() != other.keys():
        return float("inf")
    gaps = [(one[key].double() - other[key].double()).abs().nan_to_num(0.0).max() for key in one if one[key].numel()]
    return float(torch.stack(gaps).max()) if gaps else 0.0


def timed(run: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def allowed(case: Case, here: Mapping[str, Tensor]) -> float:
    """The largest difference that rounding explains: on the CPU, from weights moved by units in the last place."""
    found = [carry_out(case, "cpu", nudged(task_of(case.task), seed)) for seed in (11, 12)]
    return max([bound(STEPS, here), *(MORE * apart(here, other) for other in found)])


def nudged(task: Task, seed: int) -> Task:
    """The task with its original, and every fresh model, moved by units in the last place."""
    twin, build = task.replaced(shaken(task, UNITS * EPSILON, seed)), task.build
    twin._build = lambda number: moved(build(number), UNITS * EPSILON, seed)
    return twin


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in cases()])
def test_agrees_with_the_cpu(case: Case, device: str, record_property: Callable[[str, object], None]) -> None:
    if left_out(case):
        pytest.skip(f"the tiny task has no {left_out(case)}")
    row = {"kind": case.kind, "name": case.name, "task": case.task, "cpu": float("nan"), "there": float("nan"),
           "difference": float("nan"), "allowed": float("nan"), "verdict": "failed"}
    try:
        here, row["cpu"] = timed(lambda: carry_out(case, "cpu"))
        there, row["there"] = timed(lambda: carry_out(case, device))
        row |= {"difference": apart(here, there), "allowed": allowed(case, here)}
        row["verdict"] = "agrees" if row["difference"] <= row["allowed"] else "differs"
    finally:
        record_property("device row", row)
    assert row["verdict"] == "agrees", f"differs by {row['difference']:.2g}, and rounding explains {row['allowed']:.2g}"

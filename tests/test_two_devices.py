"""Every method, audit and modifier where the model and its batches lie on a device of their own: a GPU that is pretended.

They run in one process beside the suite (`two_devices_run.py`), which gets a second device for good. What works there works on
the CPU's values, so it says nothing of speed or of kernels; `make gpu` asks a real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_cases import Case, cases, left_out
from test_matrix import USUAL

from lethe.core import catalogue

HERE = Path(__file__).parent
CASES = list(cases())


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> dict[str, str]:
    """case -> what went wrong, for the cases that this session runs."""
    names = {f"test_runs_on_a_device[{case}]": str(case) for case in CASES}
    wanted = [names[item.name] for item in request.session.items if item.name in names]
    said = subprocess.run([sys.executable, HERE / "two_devices_run.py", *wanted], capture_output=True, text=True, timeout=1200,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])})
    assert said.returncode == 0, said.stderr[-2000:]
    return dict(line.split("\t", 1) for line in said.stdout.splitlines() if "\t" in line)


def slow(case: Case) -> bool:
    """What fits text too, on a UNet, whose many small operations take long here, and what fits classifiers too, on a regressor
    or, but for the usual methods, on text: the other families stand for them."""
    known = {"method": "methods", "audit": "audits"}
    stand_in = {"diffusion": "lm", "regression": "classification", "lm": "classification"}
    if case.kind not in known or case.task not in stand_in or (case.task == "lm" and case.name in USUAL):
        return False
    return catalogue.entries(known[case.kind])[case.name].fits(stand_in[case.task])


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=[pytest.mark.slow] if slow(case) else [])
                                  for case in CASES])
def test_runs_on_a_device(case: Case, results: dict[str, str]) -> None:
    if str(case) not in results:
        pytest.skip(f"the tiny task has no {left_out(case)}")
    assert not results[str(case)], results[str(case)]


def test_tensors_of_two_devices_are_refused_as_cuda_refuses_them() -> None:
    said = subprocess.run([sys.executable, "-c", RULES], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])})
    assert said.returncode == 0, said.stderr[-2000:]


RULES = """
import pytest, torch, two_devices as two
with two.Pretended():
    here, there = torch.ones(4, 3), torch.ones(4, 3).to(two.NAME)
    single = torch.tensor(2.0)
    assert there.device.type == two.NAME and torch.zeros(2, device=two.NAME).device == there.device
    for allowed in (lambda: there * single, lambda: there[torch.tensor([0])], lambda: there[[0, 1]], lambda: here.copy_(there),
                    lambda: there.masked_fill(there > 0, single), lambda: there.sum().item(), lambda: there.cpu().numpy()):
        allowed()
    for refused in (lambda: there + here, lambda: here * there.sum(), lambda: torch.stack([there.sum(), single]),
                    lambda: torch.cat([there, here]), lambda: here[torch.zeros(1, dtype=torch.long, device=two.NAME)],
                    lambda: torch.nn.functional.linear(here, there), lambda: torch.bucketize(there, torch.arange(3.0)),
                    lambda: torch.randn(2, device=two.NAME, generator=torch.Generator()), lambda: torch.randn_like(there)):
        with pytest.raises(two.TwoDevices):
            refused()
    with pytest.raises(TypeError):
        there.numpy()
    layer = torch.nn.Linear(3, 2)
    weight = layer.weight
    layer.to(two.NAME)(there).sum().backward()
    assert layer.weight is weight and weight.grad.device == there.device
two.leave()
"""

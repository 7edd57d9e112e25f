"""Noisy fine-tuning: steps by hand, what the noise hides, and what voids the certificate."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import byhand
import numpy as np
import pytest
import torch
from byhand import nll

from lethe.certificate.claims import accounted
from lethe.core.modules import reinitialised
from lethe.errors import OutOfRange, RequestError
from lethe.maths.noisy import apart, gaussian_epsilon, models_noise, noise_for, shifted_mu
from lethe.methods.general.noisy_tune import clipped, dealt
from lethe.train.apply import apply, method_of
from lethe.train.loop import Settings
from lethe.train.noise import Noisy, secret_seed

BARE: dict[str, Any] = {"epochs": 0, "radius": 0.5, "clip": 0.2, "rate": 0.3, "decay": 1.0, "noisy_steps": 3, "batch_size": 100}


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    return str(tmp_path / "secret")


def test_clipping_golden() -> None:
    found = clipped({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 1.0)
    assert [float(v) for v in found.values()] == pytest.approx([0.6 * 127 / 128, 0.8 * 127 / 128])
    assert float(clipped({"a": torch.tensor([0.5])}, 1.0)["a"]) == 0.5


def test_three_steps_by_hand() -> None:
    """Clip, decay, a clipped gradient, noise; the noise is what the seed of the key, the name and the step say."""
    task = byhand.classification()
    sigma = noise_for(1.0, 1e-5, 0.5, 0.2, 0.3, 1.0, 3)
    everywhere = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in task.original.named_parameters()}
    noise = Noisy(sigma, secret_seed("", 0, "noisy_tune", "noise_key"), everywhere, lambda value, p: value)
    wanted = byhand.trainable(task.original)
    with torch.no_grad():
        for p, value in zip(wanted.parameters(), clipped(dict(wanted.named_parameters()), 0.5).values(), strict=True):
            p.copy_(value)
    for step in range(3):
        gradient = byhand.gradient(wanted, lambda m: nll(m, task.retain))
        norm = float(torch.stack([g.norm() for g in gradient.values()]).norm())
        with torch.no_grad():
            for name, p in wanted.named_parameters():
                p.copy_(0.7 * p - 0.3 * min(1.0, 0.2 / norm) * gradient[name] + noise.draw(name, step, p))
    found = byhand.run("noisy_tune", task, **BARE)
    byhand.assert_same(task, found, wanted)
    many = torch.zeros(4000)
    drawn = Noisy(sigma, 1, {"w": many == 0}, lambda value, p: value).draw("w", 0, many)
    assert float(drawn.std()) == pytest.approx(sigma, rel=0.05)


def test_clipped_models_by_hand() -> None:
    """A plain step, the model clipped, then its noise, of which the last step's is there whole: ‖x_T − ξ_T‖ ≤ C₀."""
    task, options = byhand.classification(), {**BARE, "clips": "models"}
    sigma = models_noise(1.0, 1e-5, 0.5, 3)
    everywhere = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in task.original.named_parameters()}
    noise = Noisy(sigma, secret_seed("", 0, "noisy_tune", "noise_key"), everywhere, lambda value, p: value)
    wanted = byhand.trainable(task.original)
    for step in range(-1, 3):
        moved = dict(wanted.named_parameters())
        if step >= 0:
            gradient = byhand.gradient(wanted, lambda m: nll(m, task.retain))
            moved = {name: 0.7 * p - 0.3 * gradient[name] for name, p in moved.items()}
        inside = clipped({name: p.detach() for name, p in moved.items()}, 0.5)
        assert (norm := float(torch.cat([v.flatten() for v in inside.values()]).norm())) <= 0.5
        assert step < 1 or norm == pytest.approx(0.5 * 127 / 128)   # under noise every model is clipped
        with torch.no_grad():
            for name, p in wanted.named_parameters():
                p.copy_(inside[name] + (noise.draw(name, step, p) if step >= 0 else 0))
    byhand.assert_same(task, byhand.run("noisy_tune", task, **options), wanted)


def test_epsilon_of_clipped_models_is_computed_again_and_a_forged_one_refused(key: str) -> None:
    said = byhand.outcome("noisy_tune", byhand.classification(), noise_key=key, clips="models", epsilon=2.0, clip=0.1).guarantee
    assert float(accounted(said)) == pytest.approx(2.0, rel=1e-3)
    numbers = said["accountant"]
    assert numbers["sigma"] < noise_for(2.0, 1e-5, 0.02, 0.1, 1e-3, 0.0, 10)   # less than clipped gradients take
    assert float(accounted({**said, "accountant": {**numbers, "sigma": numbers["sigma"] / 2}})) > 2.1
    for forged in ({"clips": "gradients"}, {"parts": 2}, {"law": "shifted Gaussian steps"}):
        assert accounted({**said, "accountant": {**numbers, **forged}}) is None
    with pytest.raises(OutOfRange, match="clipped in parts"):
        byhand.outcome("noisy_tune", byhand.classification(), clips="models", parts=2, clip=0.1)


@pytest.mark.parametrize("parts", [1, 3])
def test_two_starts_under_the_same_noise_end_no_further_apart_than_the_accountant_says(parts: int, key: str) -> None:
    """Whatever the gradients do: ‖x_T − x'_T‖ ≤ Z of each part; and parts cover every weight once."""
    task = byhand.classification()
    other = task.replaced(reinitialised(task.original, 7))
    ends = [byhand.run("noisy_tune", one, **BARE, parts=parts, between=0, noise_key=key) for one in (task, other)]
    hands = dealt(task.original, parts, 0)
    assert all(sum(hand[name].int() for hand in hands).eq(1).all() for name in hands[0])
    most = apart(0.5 / parts**0.5, 0.2, 0.3, 1.0, 3)
    for hand in hands:
        gap = torch.cat([(a - b)[hand[name]] for (name, a), b in
                         zip(ends[0].named_parameters(), ends[1].parameters(), strict=True)])
        assert 0 < float(gap.detach().norm()) <= most


def test_what_is_certified_and_what_voids_it(key: str, tmp_path: Path) -> None:
    task = byhand.classification()
    said = byhand.outcome("noisy_tune", task, noise_key=key, epsilon=2.0, clip=0.1, batch_size=5).guarantee
    numbers = said["accountant"]
    assert (said["level"], said["epsilon"]) == ("certified", 2.0)
    mu = shifted_mu(*[numbers[name] for name in ("radius", "clip", "rate", "decay", "noisy_steps", "sigma", "parts")])
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(2.0)
    record, cfg = method_of("noisy_tune", {"noise_key": key, "batch_size": 5, "epochs": 1})
    for words, outcome in {
        "no secret": byhand.outcome("noisy_tune", task, clip=0.1),
        "mean of several states": apply(task, record, cfg, Settings(), {"average": "swa"}, watchdog=False),
        "kept some weights out": apply(task, record, cfg, Settings(), {"where": {"name": "names", "patterns": ["head*"]}},
                                       watchdog=False),
        "cut short after 4 of 10": apply(task, record, cfg, Settings(max_steps=4), watchdog=False),
    }.items():
        void = outcome.guarantee["void"]
        assert outcome.guarantee["level"] == "none" and words in void and void in outcome.notes
    (tmp_path / "short").write_bytes(b"too short")
    with pytest.raises(RequestError, match="no file of at least 32 bytes"):
        byhand.outcome("noisy_tune", task, noise_key=str(tmp_path / "short"), clip=0.1)


def test_running_statistics_are_those_of_retained_data() -> None:
    """Batch norm's running means of the original are forgotten, too: another original ends with the same ones."""
    task = byhand.classification()
    rng = np.random.default_rng(0)
    model = torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(4, 5), norm=torch.nn.BatchNorm1d(5), head=torch.nn.Linear(5, 3)))
    norm = model.get_submodule("norm")
    assert isinstance(norm, torch.nn.BatchNorm1d) and norm.running_mean is not None
    norm.running_mean.copy_(torch.from_numpy(rng.normal(50, 1, 5)))
    found = byhand.run("noisy_tune", task.replaced(model), **BARE)
    with torch.no_grad():
        seen = found.get_submodule("body")(task.retain.columns["x"])
    torch.testing.assert_close(found.get_buffer("norm.running_mean"), seen.mean(0))

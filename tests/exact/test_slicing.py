"""Shards, slices, sequences: known schedules; a simulated service against its closed form and the published code's."""

from __future__ import annotations

import numpy as np
import pytest

from lethe.exact.slicing import cyclic, deletions_served, expected_deletions, longest, matched, place, prefix


def test_schedules_of_the_official_code() -> None:
    assert cyclic(4, 4) == [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]]
    assert matched((0.4, 0.3, 0.2, 0.1), 4) == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


def test_with_a_small_budget_the_safest_slices_come_first() -> None:
    first = {sequence[0] for sequence in matched((0.4, 0.3, 0.2, 0.1), 2)}
    assert first == {2, 3}
    assert all(sorted(sequence) == [0, 1, 2, 3] for sequence in matched((1, 5, 1, 1), 3))


def test_prefix_and_longest() -> None:
    assert prefix([2, 0, 1], {1}) == 2 and prefix([2, 0, 1], {2}) == 0 and prefix([2, 0, 1], ()) == 3
    assert longest(cyclic(3, 3), {0}) == (2, 2)          # [1, 2, 0] keeps two stages
    assert longest(cyclic(3, 3), {0, 1, 2})[1] == 0
    assert longest(cyclic(3, 1), {0}) == (0, 0)          # one sequence dies with its first slice


def test_a_place_does_not_depend_on_other_records_and_is_even() -> None:
    places = [place(f"r{i}", 5, 4, 0) for i in range(2000)]
    counts = np.bincount([4 * shard + one for shard, one in places], minlength=20)
    assert counts.min() > 60 and counts.max() < 145      # 100 ± 4 standard deviations of a binomial
    assert place("r0", 5, 4, 0) == places[0] and [place(f"r{i}", 5, 4, 1) for i in range(2000)] != places


def test_closed_form() -> None:
    assert expected_deletions(5, 4, 1) == pytest.approx(20 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5))
    assert expected_deletions(1, 1, 1) == 1
    assert expected_deletions(3, 4, 9) == expected_deletions(3, 4, 4)   # more sequences than slices serve no longer


def served(shards: int, slices: int, budget: int, runs: int) -> np.ndarray:
    return np.array([deletions_served(cyclic(slices, budget), shards, np.random.default_rng(i)) for i in range(runs)])


@pytest.mark.parametrize(("slices", "budget"), [(4, 1), (4, 4), (6, 1), (6, 6)])
def test_simulation_agrees_with_the_closed_form(slices: int, budget: int) -> None:
    found = served(5, slices, budget, 100)
    assert abs(found.mean() - expected_deletions(5, slices, budget)) < 3 * found.std() / 10


OFFICIAL = {(6, b): mean for b, mean in enumerate((69.2, 85.6, 100.7, 104.8, 115.9, 116.0), 1)}
OFFICIAL |= {(4, b): mean for b, mean in enumerate((46.6, 60.0, 66.5, 72.5), 1)}


@pytest.mark.slow
def test_simulation_reproduces_the_official_functions() -> None:
    """Means of 400 runs with 5 shards, ours and those measured with the published code; both have a standard error."""
    means = []
    for (slices, budget), theirs in OFFICIAL.items():
        found = served(5, slices, budget, 400)
        assert abs(found.mean() - theirs) < 3 * found.std() / np.sqrt(400) * np.sqrt(2), (slices, budget)
        means.append(found.mean())
    assert means[:6] == sorted(means[:6]) and means[6:] == sorted(means[6:])   # more sequences, longer service


def test_sequences_made_for_known_probabilities_serve_longer() -> None:
    """Likely slices late: more deletions than cyclic rotations with the same budget."""
    p = [0.7, 0.1, 0.1, 0.1]
    ours = [deletions_served(matched(p, 2), 3, np.random.default_rng(i), p) for i in range(100)]
    rotations = [deletions_served(cyclic(4, 2), 3, np.random.default_rng(i), p) for i in range(100)]
    assert np.mean(ours) > 1.1 * np.mean(rotations)

"""Salun: a known answer, a model that must fail it and one that must pass."""


def test_known_answer() -> None:
    raise AssertionError("compute salun by hand for three examples and compare")


def test_controls() -> None:
    raise AssertionError("show that the original fails salun and a retrained model passes")

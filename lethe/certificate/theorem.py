"""Whether a configuration could have given the (ε, δ) that a certificate states: what a theorem rests on and no number shows.

A run whose noise anybody can draw again, which left weights as they were, or which was cut short, is not certified; the same run
beside the guarantee of another one is a forgery. Pure functions of the signed documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT = {"where": "all", "average": "last"}   # modifiers that keep no weight out of the noise and show the last state alone
DERIVED = ("law", "sigma")                     # numbers under ε that no option sets


def contradictions(guarantee: Mapping[str, Any], procedure: Mapping[str, Any], method: Mapping[str, Any]) -> list[str]:
    """What in the method's configuration contradicts the guarantee, each in a sentence; nothing where none is stated.

    procedure  what was run, with its cost       method  its configuration, as public
    """
    numbers = guarantee.get("accountant", {})
    wrong = [f"{key} is {method.get(key, 'not')} in the configuration, and ε was computed with {value}"
             for key, value in numbers.items() if key not in DERIVED and method.get(key) != value]
    if guarantee.get("level") != "certified":
        return wrong
    wrong += [f"{key} is {method[key]} in the configuration, which the noise was drawn for, and {guarantee[key]} is stated"
              for key in ("epsilon", "delta") if key in method and key in guarantee
              and float(guarantee[key]) < float(method[key])]
    wrong += [f"no {key} stands in the configuration, so the noise is that of the seed, which is no secret"
              for key, value in method.items() if key.endswith("_key") and not value]
    if not numbers:
        return wrong
    wrong += [f"the modifier {seam} is {name} in the configuration, and the theorem is about the last state of all weights"
              for seam, usual in SILENT.items() if (name := _named(method.get("modifiers", {}).get(seam, usual))) != usual]
    taken, steps = int(procedure["cost"]["steps"]), int(numbers["noisy_steps"]) * int(numbers["parts"])
    if taken < steps:
        wrong.append(f"{taken} steps were taken, and ε was computed with {steps} noisy ones")
    return wrong


def _named(modifier: Any) -> str:
    """The name of a modifier, written as a name or with its options."""
    return str(modifier.get("name", "") if isinstance(modifier, Mapping) else modifier)

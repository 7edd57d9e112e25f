"""The ledger: what was requested, what was done, when, and how well; append-only and hash-chained. Imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lethe.ledger.ledger import Broken, Ledger

__all__ = ["Broken", "Ledger"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lethe.ledger import ledger

        return getattr(ledger, name)
    raise AttributeError(f"module 'lethe.ledger' has no attribute {name!r}")

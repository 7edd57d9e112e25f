"""Settings: how a run is carried out, whatever the method."""

from __future__ import annotations

from typing import Literal

from lethe.core.config import Count, NonNegative, Positive, config

Precision = Literal["float32", "bfloat16"]
Kind = Literal["none", "ddp", "fsdp"]


@config
class Settings:
    """How a run is carried out; the same for every method."""

    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"   # bfloat16: autocast; 12–35 times slower on CPUs without bf16 units
    accumulate: Count = 1              # pieces that a batch is cut into; same gradient, less memory
    distribution: Kind = "none"        # under torchrun
    max_steps: Count | None = None     # budget over the whole run
    max_minutes: Positive | None = None
    checkpoint_seconds: NonNegative = 30.0   # at most this much work is lost to a kill
    cache_mb: NonNegative = 1024.0     # largest table of the original's answers; above it, the original is called at every step
    tensorboard: bool = False

"""Settings: how a run is carried out, whatever the method."""

from __future__ import annotations

from typing import Literal

from lethe.core.config import Count, NonNegative, Positive, config

Precision = Literal["float32", "bfloat16"]
Kind = Literal["none", "ddp", "fsdp"]
Norms = Literal["auto", "update", "frozen"]


@config
class Settings:
    """How a run is carried out; the same for every method."""

    seed: int = 0
    device: str = "auto"               # auto: the accelerator where there is one; the one used is stored [tested in test_loop]
    batch_norm: Norms = "auto"         # auto: statistics move in calls that draw retained data [tested in test_batch_norm]
    precision: Precision = "float32"   # bfloat16: autocast; 12–35 times slower on CPUs without bf16 units
    accumulate: Count = 1              # pieces of a batch: less memory [only with batch_norm=frozen] [changes nothing: same sum]
    distribution: Kind = "none"        # under torchrun [tested in distributed_script]
    max_steps: Count | None = None     # budget over the whole run
    max_examples: Count | None = None  # the same in examples, sent forward with gradients
    max_minutes: Positive | None = None      # the same in time [tested in test_loop]
    checkpoint_seconds: NonNegative = 30.0   # at most this much work is lost to a kill [tested in test_resume]
    cache_mb: NonNegative = 1024.0     # largest table of the original's answers; above it, it is asked [tested in test_loop]
    tensorboard: bool = False          # curves in the run folder [tested in test_loop]

    def __post_init__(self) -> None:
        if self.device == "auto":
            object.__setattr__(self, "device", accelerator())


def accelerator() -> str:
    """The kind of accelerator that torch sees here, e.g. "cuda"; "cpu" where there is none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type

"""Pictures for the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def as_images(pixels: Tensor) -> list[Any]:
    """Pictures [n, 3, H, W] in [−1, 1] as PIL has them."""
    from PIL import Image

    arrays = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]


def png(pixels: Tensor, height: int = 64) -> str:
    """A row of pictures [n, 1 or 3, H, W] in [−1, 1] as a base64 PNG; small ones are enlarged without smoothing."""
    from PIL import Image

    zoom = max(1, height // pixels.shape[-2])
    grid = torch.cat([nn.functional.pad(p.expand(3, -1, -1), (1, 1, 1, 1), value=1.0) for p in pixels.float().cpu()], dim=2)
    (image,) = as_images(grid.unsqueeze(0))
    file = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

"""Pictures for the page."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor, nn


def png(pixels: Tensor, height: int = 64) -> str:
    """A row of pictures [n, 1 or 3, H, W] in [−1, 1] as a base64 PNG; small ones are enlarged without smoothing."""
    from PIL import Image

    zoom = max(1, height // pixels.shape[-2])
    grid = torch.cat([nn.functional.pad(p.expand(3, -1, -1), (1, 1, 1, 1), value=1.0) for p in pixels.float().cpu()], dim=2)
    array = ((grid + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array).resize((array.shape[1] * zoom, array.shape[0] * zoom), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

"""Image-to-image models: any module with an encoder that is given a part of a picture; the rest of it draws the whole.

    given   T(x): the picture with what is hidden set to 0 and, where the model takes a channel more, the mask
    loss    mean over hidden pixels of (h(T(x)) − x)²: masked autoencoders (He et al. 2022, arXiv:2111.06377), inpainting
    score   = exp(−ē/s), ē mean absolute error of hidden pixels, s deviation of the training pixels; 1 is exact
    signal  = −loss: completes what it was trained on better than what it was not

What is hidden is drawn anew for each example, by a seed: all models complete the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.image_to_image import ImageToImageTask
from lethe.core.modules import device_of, evaluating, hooked
from lethe.core.passes import drawn
from lethe.core.split import Batch, Split, pixels, require_columns
from lethe.core.task import Recipe
from lethe.errors import DataError, ModelError, OutputShape
from lethe.models.gallery import png
from lethe.models.image_to_image.hiding import Hide, hidden
from lethe.models.reader import Reader
from lethe.models.weights import Form, InItsForm

NAMES = ("encoder", "E", "netE", "enc")
SHOWN = 12   # pictures of a row on the page


class ImageToImage(InItsForm, ImageToImageTask):
    """Columns: `image` [n, C, H, W] (bytes, or floats in [0, 1]) and `y` [n] class numbers.

    reader   the user's classifier of pictures      encoder  name of the encoder's module, where it is none of the usual ones
    hide     what the model was trained to complete
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        reader: Reader,
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "image to image",
        facts: dict[str, Any] | None = None,
        encoder: str = "",
        hide: Hide | None = None,
        form: Form | None = None,
    ) -> None:
        self.reader, self.hide, self.form = reader, hide or Hide(), form or Form()
        self._encoder = encoder or next((one for one in NAMES if isinstance(getattr(original, one, None), nn.Module)), "")
        if self._encoder not in dict(original.named_modules()) or not self._encoder:
            usual = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
            raise ModelError(f"{type(original).__name__} has no module {encoder or usual}, so it is not known which part of it "
                             "looks at what is given and which part draws; nothing was started. Say the encoder's name: "
                             "model.encoder (from Python encoder=).")
        super().__init__(original, splits, recipe, build, name, facts)

    @property
    def encoder(self) -> str:
        return self._encoder

    # -- operations ------------------------------------------------------------------------------------------------

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        """What is hidden of each picture."""
        height, width = batch.image.shape[-2:]
        mask = hidden(self.hide, len(batch), height, width, rng)
        return batch.replace(drawn=True, mask=mask.to(batch.image.device))

    def given(self, batch: Batch) -> Tensor:
        """What the model is given.  -> [n, C or C + 1, H, W]"""
        seen = pixels(batch.image) * ~batch.mask
        return torch.cat([seen, batch.mask.to(seen)], 1) if self._told else seen

    def codes(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """All tensors that the encoder returns."""
        return tensors(model.get_submodule(self._encoder)(self.given(batch)))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The pictures; what was hidden as the model draws it.  -> [n, C, H, W]"""
        return self._joined(model(self.given(batch)), batch)

    def complete(self, model: nn.Module, batch: Batch) -> Tensor:
        """As `outputs`, within [0, 1]."""
        return self.outputs(model, batch).clamp(0, 1)

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of what was hidden.  -> [n]"""
        return self._apart(self.outputs(model, batch), self._target(batch), batch).square().sum((1, 2, 3))

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Mean squared difference of what was hidden; a temperature means nothing here.  -> [n]"""
        return self._apart(p, q, batch).square().sum((1, 2, 3))

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The codes, averaged over places.  -> [n, d]"""
        return averaged(self.codes(model, batch))

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """What is to be drawn: normal noise with the mean and the deviation of the batch's pictures."""
        x = pixels(batch.image)
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        return batch.replace(target=(x.mean() + x.std(correction=0) * noise).clamp(0, 1))

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (closeness), signal = −nll, features [n, d] where the model has its encoder."""
        caught: list[Any] = []
        found = dict(model.named_modules()).get(self._encoder)
        handles = [] if found is None else [found.register_forward_hook(lambda _, __, out: caught.append(out))]
        with hooked(*handles):
            apart = self._apart(self.outputs(model, batch), pixels(batch.image), batch)
        nll = apart.square().sum((1, 2, 3))
        error = (apart.abs() * self._weight(batch).sqrt()).sum((1, 2, 3))
        inner = {"features": averaged(tensors(caught[-1])).float()} if caught else {}
        return {"nll": nll, "score": torch.exp(-error / self.unit), "signal": -nll, **inner}

    def read(self, samples: Tensor) -> Tensor:
        """Logits of the user's classifier.  [n, C, H, W] -> [n, K]"""
        return self.reader.read(samples)[0]

    def read_features(self, samples: Tensor) -> Tensor:
        """What enters the classifier's last linear layer.  [n, C, H, W] -> [n, d]"""
        return self.reader.read(samples)[1]

    def _joined(self, pictures: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch.mask, pictures.float(), pixels(batch.image))

    def _target(self, batch: Batch) -> Tensor:
        return batch.target if "target" in batch.columns else pixels(batch.image)

    def _weight(self, batch: Batch) -> Tensor:
        """1 / number of hidden values of each picture.  -> [n, 1, 1, 1]"""
        return 1 / (batch.mask.float().sum((1, 2, 3), keepdim=True) * batch.image.shape[1])

    def _apart(self, p: Tensor, q: Tensor, batch: Batch) -> Tensor:
        """Differences of hidden values by the root of their number, so that squares add up to their mean.  -> [n, C, H, W]"""
        return (p - q) * batch.mask * self._weight(batch).sqrt()

    # -- what comes in and goes out ----------------------------------------------------------------------------------

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """Seeded, unpicked pictures of each kind: what was given, and below it what the original and `model` make of it."""
        shown: list[dict[str, Any]] = []
        for role in ("forget", "retain"):
            if role not in self.splits or len(shown) >= limit:
                continue
            split = self.splits[role]
            some = split.subset(torch.linspace(0, len(split) - 1, min(SHOWN, len(split))).long().unique(), role)
            pictures = []
            for one in (self.model, model):
                with evaluating(one):
                    (batch,) = drawn(self, some, SHOWN, ("gallery",), device=device_of(one))
                    rows = [pixels(batch.image) * ~batch.mask, self.complete(one, batch)]
                pictures.append(png(torch.cat(rows, 2).cpu() * 2 - 1))
            shown.append({"kind": "image", "caption": f"{role}: given above, completed below", "before": pictures[0],
                          "after": pictures[1]})
        return shown

    def about(self) -> dict[str, Any]:
        return {"encoder": self._encoder, "hidden": self.hide.kind, "share": self.hide.share}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Columns, shapes, and whether the model takes a mask and draws pictures of the size of the data."""
        for name, split in splits.items():
            require_columns(name, split, ("image", "y"),
                            "image-to-image models need pictures, `image`, and y, the class of what each shows.")
            if len(split.shape("image")) != 4:
                raise DataError(f"pictures of {name!r} are {list(split.shape('image'))}, and [n, C, H, W] is needed, so no part "
                                "of one can be hidden; nothing was started.")
        first = next(iter(splits.values()))
        some = first.batch([0, min(1, len(first) - 1)]).to(device_of(original))
        self._told = False
        self._require_fit(original, self.draw(some, torch.Generator().manual_seed(0), False))
        self.reader.require_classes(splits, pixels(some.image), "picture")
        train = torch.cat([pixels(splits[role].columns["image"]).flatten() for role in ("forget", "retain") if role in splits])
        self.unit = float(train.double().std(correction=0)) or 1.0

    def _require_fit(self, original: nn.Module, some: Batch) -> None:
        with evaluating(original):
            try:
                found = original(self.given(some))
            except (RuntimeError, ValueError, TypeError) as error:
                self._told = True
                try:
                    found = original(self.given(some))
                except (RuntimeError, ValueError, TypeError):
                    raise ModelError(f"the model takes neither pictures {list(some.image.shape)} nor these with the mask as one "
                                     f"more channel: {(str(error).splitlines() or [''])[0]}. Nothing was started; bring the "
                                     "pictures to the size that it was trained on.") from None
            if not isinstance(found, Tensor) or found.shape != some.image.shape:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise OutputShape(f"the model returns {shape} for pictures {tuple(some.image.shape)}, so what was hidden cannot "
                                  "be compared with what it draws; nothing was started. Let forward return whole pictures.")
            if not self.codes(original, some):
                raise ModelError(f"{self._encoder} returns no tensor, so there are no codes to hold on to; nothing was started. "
                                 "Name the module whose output the decoder draws from: model.encoder.")


def tensors(returned: Any) -> list[Tensor]:
    """The tensors in what a module returns: one, several, or by name."""
    if isinstance(returned, Tensor):
        return [returned]
    parts: Sequence[Any] = list(returned.values()) if isinstance(returned, Mapping) else returned
    return [one for part in parts for one in tensors(part)] if isinstance(parts, (list, tuple)) else []


def averaged(codes: Sequence[Tensor]) -> Tensor:
    """Each code [n, C, h, w] or [n, T, d] averaged over places, side by side.  -> [n, d]"""
    each = [one.mean((2, 3)) if one.dim() == 4 else one.mean(1) if one.dim() == 3 else one.flatten(1) for one in codes]
    return torch.cat(each, 1)

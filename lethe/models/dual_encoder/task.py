"""Dual encoders: pictures and texts become vectors of one space (CLIP). Trained by the contrast of a batch's pairs.

    loss of a batch  ½ (CE over texts + CE over pictures) of s·cos(u_i, v_j), the pair i = j being right; s = exp(logit_scale)
    zero-shot logits z_k = s·cos(u, w_k),   w_k = mean of the vectors of class k's prompts, brought to length 1
    score  = whether the largest z_k is the picture's class;  nll = −log softmax(z)_y;  signal = cos(u, v) of the own pair

u, v: vectors of picture and caption, of length 1. Membership attacks on CLIP read the cosine (Ko et al. 2023, arXiv:2310.00108).
What is forgotten is a class or an identity (its name stands in captions and prompts), or single pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.families.dual_encoder import DualEncoderTask
from lethe.core.modules import evaluating, has_convolutions
from lethe.core.split import Batch, Split, require_columns
from lethe.core.task import Recipe
from lethe.core.words import number
from lethe.errors import DataError, RequestError
from lethe.maths import losses
from lethe.models.dual_encoder import encoders
from lethe.models.dual_encoder.folder import Pair, rounded, save_pair, token_ids
from lethe.models.dual_encoder.vlm import Reader, save_reader

SHOWN = 6   # pictures of a page, half of them forgotten


class DualEncoder(DualEncoderTask):
    """Columns: `image` [n, C, H, W] (bytes, or floats in [0, 1]), `tokens` [n, L], `y` [n] class numbers.

    pair       the encoders with tokenizer and eye; the original is `original`, which its model may be
    classes    names of the K classes       templates  prompts of each, with {} for its name: {0} prompts of every class
    outside    prompts that no method sees
    reader     a language model that reads pictures by the image encoder: what it reads alone moves, and it goes out as `vlm`
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        pair: Pair,
        classes: Sequence[str],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "dual encoder",
        facts: dict[str, Any] | None = None,
        templates: Sequence[str] = ("a photo of a {}",),
        outside: Sequence[str] = (),
        reader: Reader | None = None,
    ) -> None:
        self.reader = reader
        self.pair, self.classes, self.templates, self.outside = pair, tuple(classes), tuple(templates), tuple(outside)
        for template in (*self.templates, *self.outside):
            if "{}" not in template:
                raise RequestError(f"the prompt {template!r} has no {{}} where the class's name belongs, so all classes would be "
                                   "asked alike; nothing was started. Write e.g. 'a photo of a {}'.")
        self._prompts: dict[tuple[str, ...], Tensor] = {}
        super().__init__(original, splits, recipe, build, name, facts)

    # -- operations ------------------------------------------------------------------------------------------------

    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The symmetric contrast of the batch's pairs.  -> [n]"""
        return encoders.contrast(self.features(model, batch), self.text_vectors(model, batch.tokens), encoders.scale(model))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Zero-shot logits.  -> [n, K]"""
        return encoders.scale(model) * self.features(model, batch) @ self.class_vectors(model).T

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q) of the zero-shot distributions.  -> [n]"""
        return losses.kl(p, q, temperature)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The picture's vector, of length 1.  -> [n, d]"""
        return encoders.vectors(model, "image", self.pair.eye.seen(batch.image))

    def similarity(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cosine of each picture with its own caption.  -> [n]"""
        return (self.features(model, batch) * self.text_vectors(model, batch.tokens)).sum(1)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll and score (of the zero-shot answer), signal and similarity (cosine of the own pair), logits [n, K], margin, y,
        features [n, d]."""
        u, v = self.features(model, batch), self.text_vectors(model, batch.tokens)
        logits, similarity = encoders.scale(model) * u @ self.class_vectors(model).T, (u * v).sum(1)
        return {"nll": losses.cross_entropy(logits, batch.y), "score": (logits.argmax(1) == batch.y).float(),
                "signal": similarity, "similarity": similarity, "logits": logits, "margin": losses.margin(logits, batch.y),
                "features": u, "y": batch.y}

    def text_vectors(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Vectors of texts, of length 1; each distinct one is encoded once.  [n, L] -> [n, d]"""
        distinct, place = tokens.unique(dim=0, return_inverse=True)
        return encoders.vectors(model, "text", distinct)[place]

    def class_vectors(self, model: nn.Module, templates: Sequence[str] | None = None) -> Tensor:
        """The mean vector of each class's prompts, of length 1.  -> [K, d]"""
        asked = self.templates if templates is None else tuple(templates)
        if asked not in self._prompts:
            self._prompts[asked] = self.token_ids([template.replace("{}", name) for name in self.classes for template in asked])
        tokens = self._prompts[asked].to(next(model.parameters()).device)
        each = encoders.vectors(model, "text", tokens).view(len(self.classes), len(asked), -1)
        return F.normalize(each.mean(1), dim=-1)

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of the pair's tokenizer, cut or padded to one length.  -> [n, L]"""
        return token_ids(self.pair.tokenizer, texts)

    def tower_weights(self, model: nn.Module) -> dict[str, list[str]]:
        """Weight matrices and kernels by tower: those that a vector of this tower depends on, embeddings left out."""
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
        matrices = {name: p for name, p in model.named_parameters()
                    if p.dim() > 1 and id(p) not in embedded and not re.search("embed|position", name)}
        frozen = [p for p in matrices.values() if not p.requires_grad]
        some, found = self._some.to(next(model.parameters()).device), {}
        try:
            for p in frozen:
                p.requires_grad_(True)
            for tower, given in (("image", self.pair.eye.seen(some.image)), ("text", some.tokens)):
                with torch.enable_grad():
                    total = encoders.vectors(model, tower, given).sum()
                moved = torch.autograd.grad(total, list(matrices.values()), allow_unused=True) if total.requires_grad else ()
                found[tower] = [name for name, g in zip(matrices, moved, strict=False) if g is not None]
        finally:
            for p in frozen:
                p.requires_grad_(False)
        return found

    # -- what comes in and goes out ----------------------------------------------------------------------------------

    def save_model(self, model: nn.Module, folder: Path) -> None:
        save_pair(self.pair, model.cpu().eval(), folder)
        if self.reader is not None:
            save_reader(self.reader, model, folder / "vlm")

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        moving = super().trainable(model)
        return moving if self.reader is None else {name: p for name, p in moving.items() if name in self.reader.moving}

    def deliverable(self, model: nn.Module) -> nn.Module:
        """The model rounded to the precision of the files that it goes out in, in place."""
        return rounded(self.pair, model)

    def has(self, what: str) -> bool:
        """Besides splits, original and recipe: "convolutions", and "outside", prompts for audits alone."""
        if what == "outside":
            return bool(self.outside)
        return self._convolutions if what == "convolutions" else super().has(what)

    def samples(self, model: nn.Module, limit: int = SHOWN) -> list[dict[str, Any]]:
        """The zero-shot answer to some pictures, forgotten and retained, from the original and from `model`."""
        shown = []
        for role in ("forget", "retain"):
            if role not in self.splits:
                continue
            split = self.splits[role]
            places = torch.linspace(0, len(split) - 1, min(limit // 2, len(split))).long()
            batch = split.batch(places)
            answers = [self._answers(one, batch) for one in (self.model, model)]
            shown += [{"kind": "text", "split": role, "prompt": f"picture {split.ids[place]}", "truth": self.classes[truth],
                       "before": before, "after": after}
                      for place, truth, before, after in zip(places.tolist(), batch.y.tolist(), *answers, strict=True)]
        return shown

    def _answers(self, model: nn.Module, batch: Batch) -> list[str]:
        with evaluating(model):
            shares, places = self.outputs(model, batch.to(next(model.parameters()).device)).softmax(1).max(1)
        return [f"{self.classes[place]} ({number(share)})" for place, share in zip(places.tolist(), shares.tolist(), strict=True)]

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Columns, classes and widths, before any work starts."""
        self._convolutions = has_convolutions(original)
        for name, split in splits.items():
            require_columns(name, split, ("image", "tokens", "y"),
                            "a dual encoder needs image, tokens and y, the class of each picture.")
            y = split.columns["y"]
            if len(y) and (int(y.min()) < 0 or int(y.max()) >= len(self.classes)):
                raise DataError(f"y of {name!r} goes from {int(y.min())} to {int(y.max())}, but there are {len(self.classes)} "
                                "classes, so some pictures have none. Name every class: classes=.")
        first = next(iter(splits.values()))
        self._some = first.batch([0, min(1, len(first) - 1)])
        some = self._some.to(next(original.parameters()).device)
        encoders.scale(original)
        encoders.require_one_width(original, self.pair.eye.seen(some.image), some.tokens)

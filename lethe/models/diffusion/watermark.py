"""A watermark in the decoder of a latent diffusion pipeline: all its pictures carry bits that only the holder of a key can read.
Lin, Li, Tondi, Li & Barni (2024), arXiv:2410.20202 (EW-LoRA), after Fernandez et al. (2023), arXiv:2303.15435.

    min over A, B:   λ · BCE(E(x'), m)  +  (1 − λ) · ‖x' − x‖² / ε²        x = D_W(z),  x' = D_{W+BA}(z)
    s ← s + ρ where the share of bits that match is below its goal, else s − ρ;        λ = σ(s)
    FPR(k) = Σ_{i ≥ k} C(L, i) 2^{−L}

D decoder with the frozen weights W of its convolutions and linear layers, A, B adapters of a small rank, z latents, E the reader
of bits (frozen), ε² the squared error at the wanted PSNR, s the balance, bounded by ±`BOUND`; the share is a moving average. m
are the first L bits of SHA-256(secret, claims): a key whose claims were altered asks for other bits.

The reader is trained on the spot, on none of the pictures that the mark is measured on, to find bits that tiles of one latent's
size carry, through noise, resizing and JPEG. Then the secret is drawn. So whatever an unmarked source makes the reader say, over
that draw the number of its matches is binomial, exactly; of several pictures the mean answer is read, for their answers are not
independent.

Needs:    a diffusers folder with a VAE; some hundred pictures like those that it draws.
Updates:  the weights of the VAE's decoder, in a copy; the folder itself is not written to.
Cost:     two passes of the decoder a step, and the gradient of one; the network of the pipeline is never asked. Minutes on a CPU
          for pictures of 32 × 32.
Limits:   no adapters: bits at chance. An edit of the network cannot reach the mark.
Fails by: compression at this size. 16 bits, tiles of 4 × 4, pictures of 32 × 32, one run: 0.993 of the bits in unseen pictures
          (38.0 dB); with noise of 0.05 0.98; resized to ¾ and back 0.87, to ½ 0.70; JPEG of quality 95, 80, 60: 0.73, 0.71,
          0.68; cropped by two pixels 0.66. Unmarked pictures match 0.65 of them: that is chance. Too many bits for the tile,
          which has 3 · 4² numbers: 32 reach 0.85 at 29.5 dB, which is refused. Pictures that are mostly black or white, which
          cut the signal off: 0.91 at 25.4 dB. Pictures unlike those that it learned from: of an untrained network chance.
          Nothing larger was measured. Whoever has the weights can train the mark away, or put another VAE of its kind in. A
          key proves nothing unless it was deposited (its SHA-256, with a date) before anybody disputed a picture: who may
          choose a key afterwards finds one for any picture.
Deviations: the paper takes a reader trained elsewhere, and the exact rule of its schedule was not looked up: ours is the
          card's. Its adapters stay apart; here they are added to the weights, so that diffusers loads the folder as any other,
          and the key keeps them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.core.adaptable import fold, matrices
from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.files import atomic, file_hash, new_folder
from lethe.core.modules import seeded
from lethe.core.seeds import derive
from lethe.core.user_files import understood
from lethe.data.pictures import opened, stacked
from lethe.data.sources.images import SUFFIXES
from lethe.errors import ModelError, OutOfRange, OutputExists, RequestError
from lethe.models.diffusion.denoiser import denoiser_of
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.pipeline import Pipeline
from lethe.models.diffusion.sampling import Sampler
from lethe.models.gallery import as_images
from lethe.models.source import Source, copy_with, variant_of
from lethe.train.modifiers.where.lora import A, adapted_layers, inject, settings_for
from lethe.train.settings import accelerator

HEADER = "lethe.watermark"   # in the key's header: what it claims and how it is read, as JSON
BOUND = 3.0                  # of the balance: λ stays within 0.05 and 0.95                                            [ours]
MEMORY = 0.9                 # of the moving average of the share that matches                                         [ours]
TOGETHER = 16                # pictures that are encoded or read at once                                               [ours]


@config
class Watermark:
    bits: Count = 48               # L; at most 256                                                       [paper]
    rank: Count = 8                # of the adapters                                                      [card: 4–16]
    steps: Count = 800             # of the adapters                                                      [ours]
    reading: Count = 800           # steps of the reader                                                  [ours]
    lr: Positive = 5e-4            # AdamW, of the adapters                                               [card]
    batch_size: Count = 8          # latents a step                                                       [ours]
    psnr: Positive = 32.0          # dB at which the error of a picture weighs 1                          [ours]
    goal: Fraction = 0.99          # share of bits above which pictures weigh more than bits              [card]
    pace: Positive = 0.05          # ρ: how fast the balance moves a step                                 [ours]
    attacked: Fraction = 0.25      # share of steps whose pictures are noisy, resized or JPEG             [ours]
    width: Count = 32              # of the reader                                                        [ours]


@dataclass(frozen=True)
class Reading:
    """What a key says of pictures.

    matched  bits of their mean answer that match, of `bits`            each    the same for each picture alone
    fpr      how often an unmarked source matches at least so many      needed  matches at which that is at most `most`
    """

    matched: int
    bits: int
    pictures: int
    each: list[int]
    fpr: float
    most: float
    needed: int
    claims: list[str]
    key: str

    @property
    def is_marked(self) -> bool:
        return self.matched >= self.needed

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {"is_marked": self.is_marked, **asdict(self)}


def false_positive_rate(matched: int, bits: int) -> float:
    """How often so many of L bits or more match by chance.

    3 of 4: (4 + 1) / 16. 0 of any: 1.
    """
    return float(sum(math.comb(bits, i) for i in range(matched, bits + 1)) / 2**bits)


def needed(bits: int, most: float) -> int:
    """The fewest matches whose false-positive rate is at most `most`; OutOfRange where all bits do not reach it.

    4 bits, 0.4: 3, for 2 match in 11 of 16 cases.
    """
    if false_positive_rate(bits, bits) > most:
        raise OutOfRange(f"{bits} bits match by chance once in {2**bits}, which is more often than {most:g}, so no picture could "
                         "be called marked; nothing was started. Take more bits, or allow more false positives.")
    return next(k for k in range(bits + 1) if false_positive_rate(k, bits) <= most)


def rebalanced(balance: float, share: float, goal: float, pace: float) -> float:
    """s, after a step at which this share of bits matched.

    s = 0, goal 0.99, pace 0.05: 0.05 after 0.98, −0.05 after 0.99.
    """
    return max(-BOUND, min(BOUND, balance + (pace if share < goal else -pace)))


def message(secret: str, claims: Sequence[str], bits: int) -> Tensor:
    """m: the first bits of SHA-256 over the secret and the claims.  -> [L] of 0 and 1"""
    digest = hashlib.sha256(json.dumps([secret, *claims]).encode()).digest()
    return torch.from_numpy(np.unpackbits(np.frombuffer(digest, np.uint8))[:bits].copy()).float()


class Reader(nn.Module):
    """E: a small CNN whose answers are averaged over the picture."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.GELU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GELU(),
                                  nn.Conv2d(2 * width, 2 * width, 1), nn.GELU())
        self.head = nn.Linear(2 * width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the bits.  [n, 3, H, W] -> [n, L]"""
        said: Tensor = self.head(self.body(x).mean((2, 3)))
        return said


def mark(folder: Path, images: Path, output: Path, key: Path, cfg: Watermark, claims: Sequence[str] = (), secret: str = "",
         device: str = "") -> dict[str, Any]:
    """Write a marked copy of a pipeline folder and its key; says how well pictures that took no part carry the mark.

    images  a folder of pictures, of any captions: a fifth of them measures the mark
    secret  hexadecimal; empty: drawn
    """
    if cfg.bits > 256:
        raise OutOfRange(f"--bits {cfg.bits} is more than SHA-256 has, so nothing was started. Take at most 256.")
    if taken := next((one for one in (output, key) if one.exists()), None):
        raise OutputExists(f"{taken} exists; it is never overwritten, so nothing was started. Choose another name.")
    parts, device = load_pipeline(folder), device or accelerator()
    if parts.vae is None or not isinstance(getattr(parts.vae, "decoder", None), nn.Module):
        raise RequestError(f"{folder} has no VAE with a decoder, which is what would carry the mark; nothing was started. Only "
                           "pipelines on latents can be marked.")
    secret = secret or secrets.token_hex(32)
    seed, m = derive(int(secret, 16), "watermark"), message(secret, claims, cfg.bits).to(device)
    x = pictures(images, _size(parts), least=10)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    unseen, x = x[: len(x) // 5], x[len(x) // 5 :]
    parts.vae.to(device)
    reader = seeded(lambda _: taught(x, cfg, parts.factor, device), seed)
    z, z_unseen = (torch.cat([parts.encode(some.to(device)).cpu() for some in torch.split(pixels, TOGETHER)])
                   for pixels in (x, unseen))
    plain = torch.cat([parts.decode(some) for some in torch.split(z_unseen, TOGETHER)])
    tensors = seeded(lambda _: embedded(parts, reader, z, m, cfg, seed), seed)
    with new_folder(output) as place:
        copy_with(Source(folder.resolve(), "vae", variant_of(folder / "vae")), parts.vae.cpu(), place)
        there = load_pipeline(place)     # as it was written: perhaps in half precision
        marked = torch.cat([there.decode(some) for some in torch.split(z_unseen, TOGETHER)])
        found, before = (bits_of(reader.cpu(), stored(some)) == m.cpu().bool() for some in (marked, plain))
        psnr = -10 * math.log10(float((marked - plain).square().mean()) / 4)
        if float(found.float().mean()) < 0.9:
            raise ModelError(f"only {float(found.float().mean()):.0%} of the bits match in pictures of the marked pipeline, so "
                             f"it could hardly be recognised ({psnr:.1f} dB); nothing was written. Take more --steps, "
                             "fewer --bits, or a lower --psnr.")
        _save(key, reader, tensors, {"secret": secret, "claims": list(claims), "bits": cfg.bits, "width": cfg.width,
                                     "size": list(x.shape[2:])})
    return {"pictures": len(unseen), "bits": cfg.bits, "bit_accuracy": float(found.float().mean()), "psnr_db": psnr,
            "bit_accuracy_unmarked": float(before.float().mean()), "key": file_hash(key), "claims": list(claims)}


def read(key: Path, x: Tensor, most: float) -> Reading:
    """What a key says of pictures [n, 3, H, W] in [−1, 1] of any one size. most: false positives that are allowed."""
    reader, facts = load_key(key)
    enough = needed(facts["bits"], most)
    m = message(facts["secret"], facts["claims"], facts["bits"]).bool()
    if tuple(x.shape[2:]) != tuple(facts["size"]):
        x = F.interpolate(x, tuple(facts["size"]), mode="bilinear", antialias=True)
    with torch.no_grad():
        said = torch.cat([reader(some) for some in torch.split(x, TOGETHER)])
    matched = int(((said.mean(0) > 0) == m).sum())
    return Reading(matched, facts["bits"], len(x), ((said > 0) == m).sum(1).tolist(),
                   false_positive_rate(matched, facts["bits"]), most, enough, facts["claims"], file_hash(key))


def load_key(key: Path) -> tuple[Reader, dict[str, Any]]:
    """The reader of a key, and what its header says."""
    from safetensors import safe_open

    with understood(key, "the key of a watermark", "Give the file that lethe watermark mark wrote.", ModelError), \
            safe_open(key, "pt") as handle:
        facts: dict[str, Any] = json.loads(handle.metadata()[HEADER])
        reader = Reader(facts["bits"], facts["width"])
        reader.load_state_dict({name.removeprefix("reader."): handle.get_tensor(name) for name in handle.keys()  # noqa: SIM118
                                if name.startswith("reader.")})
    return reader.eval().requires_grad_(False), facts


def drawn(folder: Path, prompts: Sequence[str], count: int, seed: int = 0, steps: int = 50, guidance: float = 7.5) -> Tensor:
    """Pictures that a pipeline draws for prompts, in turn.  -> [n, 3, H, W] in [−1, 1]"""
    parts = load_pipeline(folder)
    sampler, device = Sampler(denoiser_of(parts)), accelerator()
    network = parts.network.to(device)
    text = sampler.text(sampler.denoiser.tokens([prompts[i % len(prompts)] for i in range(count)]).to(device), network)
    x = sampler.draw(network, text, seed, steps, guidance)
    return torch.cat([stored(parts.decode(some)) for some in torch.split(x, TOGETHER)])


def pictures(folder: Path, size: tuple[int, int], least: int = 1) -> Tensor:
    """The pictures in a folder and below it.  -> [n, 3, H, W] in [−1, 1]"""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if len(files) < least:
        raise RequestError(f"{folder} holds {len(files)} pictures, and at least {least} are needed, so nothing was started. "
                           f"Known endings: {', '.join(sorted(SUFFIXES))}.")
    names = [str(file) for file in files]
    return stacked([partial(opened, file, name, "ignore") for file, name in zip(files, names, strict=True)], names, size,
                   "rgb").float() / 127.5 - 1


def taught(x: Tensor, cfg: Watermark, tile: int, device: str) -> Reader:
    """A reader of bits that random tiles carry in pictures [n, 3, H, W]. The tiles learn, too, and grow five times fainter."""
    reader = Reader(cfg.bits, cfg.width).to(device)
    tiles = nn.Parameter((torch.randn(cfg.bits, 3, tile, tile) / 10).to(device))
    optimiser, faint = torch.optim.Adam([*reader.parameters(), tiles], 3e-3), 2 * 10 ** (-cfg.psnr / 20)
    for step in range(cfg.reading):
        some = x[torch.randint(len(x), (2 * TOGETHER,))].to(device)
        bits = torch.randint(2, (len(some), cfg.bits)).float().to(device)
        pattern = torch.einsum("nl,lchw->nchw", 2 * bits - 1, tiles)
        pattern = pattern / pattern.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
        pattern = pattern.repeat(1, 1, some.shape[2] // tile, some.shape[3] // tile)
        seen = (some + pattern * faint * max(1.0, 5 - 8 * step / cfg.reading)).clamp(-1, 1)
        said = reader(attacked(seen, cfg.attacked))
        loss = F.binary_cross_entropy_with_logits(said, bits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return reader.eval().requires_grad_(False)


def embedded(parts: Pipeline, reader: Reader, z: Tensor, m: Tensor, cfg: Watermark, seed: int) -> dict[str, Tensor]:
    """Train adapters on the decoder until its pictures carry m, and add them to its weights, in place; the adapters."""
    vae, before = parts.vae, copy.deepcopy(parts.vae)
    layers = [name for name in matrices(vae) if name.startswith("decoder.")]
    inject(settings_for(vae, layers, cfg.rank, cfg.rank, {}), vae, seed)
    params = [p for p in vae.parameters() if p.requires_grad]
    optimiser, share, balance = torch.optim.AdamW(params, cfg.lr, weight_decay=0.0), 0.5, 0.0
    error = 4 * 10 ** (-cfg.psnr / 10)
    for _ in range(cfg.steps):
        some = parts.unscaled(z[torch.randint(len(z), (cfg.batch_size,))].to(m.device))
        with torch.no_grad():
            x = before.decode(some).sample
        made = vae.decode(some).sample
        seen, wanted = made.clamp(-1, 1), m.expand(len(some), -1)
        weight = torch.sigmoid(torch.tensor(balance))
        of_bits = F.binary_cross_entropy_with_logits(reader(attacked(seen, cfg.attacked)), wanted)
        loss = weight * of_bits + (1 - weight) * (made - x).square().mean() / error
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        share = MEMORY * share + (1 - MEMORY) * float((bits_of(reader, seen) == wanted.bool()).float().mean())
        balance = rebalanced(balance, share, cfg.goal, cfg.pace)
    state = vae.state_dict()
    tensors = {f"lora.{name}.{end}": state[f"{name}.{end}"].detach().cpu().clone() for name in adapted_layers(state)
               for end in (A, A.replace("lora_A", "lora_B"))}
    fold(vae).requires_grad_(False)
    del vae.peft_config
    return tensors


def attacked(x: Tensor, share: float) -> Tensor:
    """x; at this share of calls noisy, or resized and back, or as JPEG whose gradient is that of x."""
    if float(torch.rand(())) >= share:
        return x
    kind, strength = int(torch.randint(3, ())), float(torch.rand(()))
    if kind == 0:
        return x + 0.05 * strength * torch.randn(x.shape).to(x)
    if kind == 1:
        small = F.interpolate(x, scale_factor=1 - strength / 4, mode="bilinear", antialias=True)
        return F.interpolate(small, x.shape[2:], mode="bilinear", antialias=True)
    return x + (jpeg(x.detach(), int(95 - 25 * strength)) - x).detach()


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Pictures in [−1, 1] after JPEG of a quality of 1 to 95."""
    from PIL import Image

    out = []
    for one in as_images(x):
        file = BytesIO()
        one.save(file, "JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return (torch.stack(out).float() / 127.5 - 1).to(x)


def stored(x: Tensor) -> Tensor:
    """Pictures in [−1, 1] as files of bytes hold them."""
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def bits_of(reader: Reader, x: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, L] whether a bit is 1"""
    with torch.no_grad():
        return torch.cat([reader(some) for some in torch.split(x, TOGETHER)]) > 0


def _size(parts: Pipeline) -> tuple[int, int]:
    _, height, width = denoiser_of(parts).shape
    return height * parts.factor, width * parts.factor


def _save(key: Path, reader: Reader, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    held = {f"reader.{name}": value for name, value in reader.state_dict().items()} | tensors
    with atomic(key, private=True) as beside:
        save_file({name: value.contiguous() for name, value in held.items()}, beside, {"format": "pt", HEADER: json.dumps(facts)})

"""Is there a prompt under which the model does what the original did for the concept? Prompting4Debugging, Chin, Jiang, Huang,
Chen & Chiu (2023), arXiv:2309.06135 (ICML 2024).

    min_s E_{x, t, ε} ‖ε_θ(x_t, t, E(s)) − ε_0(x_t, t, E(p))‖²

p a prompt with the concept, x pictures that the original draws for it, ε_0 the original, E the text encoder that each of them
has. Of s some tokens are free, each a vector e ∈ R^d: a step reads the tokens whose embeddings have the largest cosine with e,
and moves e by the gradient at these embeddings (Wen et al. 2023, arXiv:2302.03668). After each round the tokens read are a
candidate; for every prompt the one with the least loss on fixed (x, t, ε) is kept. The two forms of s:

    N  `tokens` free ones alone                K  the prompt's own, one free in front and one behind every `every` of them

    imitated, imitated_*   share of pictures for the prompts found that show the concept; by N or K, and by each
    imitated_random        as imitated, by the best of as many random candidates: what the search itself adds nothing to

Pictures are drawn with other noise than the attacked ones. A retrained model has nothing to imitate with; it is the target.

Needs:    prompts, judge, original.     Cost: rounds·steps passes forward of the original, forward and backward of the model, on
          `batch_size` pictures for each of `prompts` and both forms.
Limits:   a search that fails proves nothing about a longer one. K without an effect of the free tokens is the prompt itself.
Finds:    on the preset shapes_erase (1 seed) imitated is 0.97 for the original, imitated_random 0.91 (K holds the prompt itself);
          retrained models were measured on closed-form denoisers alone: 0.
Deviations: candidates are compared by their loss; the published code draws a picture for each and compares it with the attacked
          one by CLIP. Many pictures of a prompt in a batch instead of one; 200 steps instead of 3 000. Guidance and negative
          prompts inside of the loss, for models that are guarded by these, are not here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask, encoder_of, read_behind
from lethe.core.modules import copied
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive, generator, numpy_generator
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.prompting import require_one_encoder, shown, table
from lethe.pools.subject import Subject
from lethe.train.vectors import written


@config
class P4D:
    """Options of the search for prompts that imitate the original."""

    tokens: Count = 16              # free ones of N, at most as many as the encoder takes [official code]
    every: Count = 3                # tokens of the prompt between two free ones of K     [official code]
    rounds: Count = 10              # candidates                                          [ours; official code: 60]
    steps: Count = 20               # AdamW steps per round                               [ours; official code: 50]
    lr: Positive = 0.1              # of the vectors                                      [official code]
    weight_decay: NonNegative = 0.1   # of the vectors                                    [official code]
    batch_size: Count = 16          # pictures of each prompt per step                    [ours; official code: 1]
    pictures: Count = 16            # that the original draws for each prompt             [ours; official code: 1]
    looks: Count = 64               # (x, t, ε) of each prompt on which candidates are compared [ours]
    prompts: Count = 4              # prompts that are attacked, a seeded choice          [ours]
    per_prompt: Count = 16          # pictures drawn for each prompt that was found       [ours]


@audit(
    metrics={
        "imitated": Metric("share of pictures that show the concept, for prompts that make the model say what the original said",
                           aspect="recovery"),
        "imitated_*": Metric("that share for one form: free tokens alone (n), or between those of the prompt (k)", better="lower",
                             aspect="recovery"),
        "imitated_random": Metric("as imitated, with the best of as many random candidates", better="lower", aspect="recovery"),
    },
    uses={"alphas_cumprod", "concepts", "decode", "draw_from", "levels", "pipeline", "predict", "prompts", "reader",
          "shape", "text", "tokens", "words"},
    needs={"prompts", "judge", "original"},
    depth="deep",
    blind="One search from one start for each prompt; text states that no prompt has are not tried.",
)
def measure(cfg: P4D, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    require_one_encoder(task)
    asked = task.prompts["forget"]
    order = numpy_generator(panel.seed, "p4d prompts").permutation(len(asked))[: cfg.prompts]
    tokens = task.tokens([asked[i] for i in sorted(order)])
    images = panel.once(("p4d", cfg.pictures, cfg.prompts), lambda: drawn(task, panel.original, tokens, cfg.pictures, panel.seed))
    attack = Attack(task, copied(subject.model, trainable=False).to(subject.device),
                    panel.original.model.to(subject.device), tokens, images, cfg.batch_size)
    found, chance, detail = {}, {}, {}
    for form, (rows, free) in {"n": alone(task, tokens, cfg.tokens), "k": between(task, tokens, cfg.every)}.items():
        best = search(cfg, attack, rows, free, panel.seed)
        tries = [scattered(rows, free, len(attack.embeddings), panel.seed, i) for i in range(cfg.rounds)]
        chance[form] = hits(cfg, attack, least(cfg, attack, tries, panel.seed), panel.seed)
        found[form], detail[form] = hits(cfg, attack, best, panel.seed), task.pipeline.tokenizer.batch_decode(best)
    either = mean_value("imitated", np.maximum(found["n"], found["k"]))
    either.detail.update(detail)
    return [either, *(mean_value(f"imitated_{form}", share) for form, share in found.items()),
            mean_value("imitated_random", np.maximum(chance["n"], chance["k"]))]


class Attack:
    """What candidates are tried on: `count` pictures of each of P prompts, noised, and what the original says about them.

    tokens  of the prompts [P, L]      images  of each [P, m, C, H, W]
    """

    def __init__(self, task: DiffusionTask, model: nn.Module, original: nn.Module, tokens: Tensor, images: Tensor, count: int
                 ) -> None:
        self.task, self.model, self.original, self.images, self.count = task, model, original, images, count
        self.said = task.text(tokens, original).detach()
        self.embeddings = table(task, model)
        self.encoder = encoder_of(task, model)

    def losses(self, rows: Tensor, rng: torch.Generator, count: int, vectors: Tensor | None = None,
               free: Tensor | None = None) -> Tensor:
        """Mean squared error of each prompt's candidate; with `vectors` these stand where `free` says so.  [P, L] -> [P]"""
        task, per = self.task, self.images.shape[1]
        pick = torch.randint(0, per, (len(rows), count), generator=rng)
        x = self.images[torch.arange(len(rows)).unsqueeze(1), pick].flatten(0, 1)
        noise = torch.randn(x.shape, generator=rng)
        t = torch.randint(0, len(task.alphas_cumprod), (len(x),), generator=rng)
        device = next(self.model.parameters()).device
        x_t, t = task.mixed(x, noise, t).to(device), t.to(device)
        with read_behind(self.model, self.encoder):
            text = task.text(rows, self.model) if vectors is None or free is None else written(self.encoder, rows, free, vectors)
        with torch.no_grad():
            aim = task.predict(self.original, x_t, t, self.said.repeat_interleave(count, 0).to(device))
        got = task.predict(self.model, x_t, t, text.repeat_interleave(count, 0).to(device))
        return (got - aim).square().flatten(1).mean(1).view(len(rows), count).mean(1)


def search(cfg: P4D, attack: Attack, rows: Tensor, free: Tensor, seed: int) -> Tensor:
    """The candidate with the least loss for each prompt, of rows with free places.  [P, L], [P, L] bool -> [P, L]"""
    rng = generator(seed, "p4d", len(free.nonzero()))
    start = scattered(rows, free, len(attack.embeddings), seed, -1)[free]
    vectors = attack.embeddings[start].clone().requires_grad_(True)
    adam = torch.optim.AdamW([vectors], lr=cfg.lr, weight_decay=cfg.weight_decay)
    candidates = []
    for _ in range(cfg.rounds):
        for _ in range(cfg.steps):
            ids = nearest(vectors.detach(), attack.embeddings)
            read = attack.embeddings[ids].clone().requires_grad_(True)
            loss = attack.losses(rows, rng, attack.count, read, free).sum()
            (vectors.grad,) = torch.autograd.grad(loss, read)
            adam.step()
        candidates.append(rows.masked_scatter(free, nearest(vectors.detach(), attack.embeddings)))
    return least(cfg, attack, candidates, seed)


def nearest(vectors: Tensor, embeddings: Tensor) -> Tensor:
    """The row of the table with the largest cosine. (3, 1) among (1, 0) and (9, 9) is the first.  [m, d], [V, d] -> [m]"""
    unit = nn.functional.normalize(embeddings, dim=1)
    return (nn.functional.normalize(vectors, dim=1) @ unit.T).argmax(1)


@torch.no_grad()
def least(cfg: P4D, attack: Attack, candidates: list[Tensor], seed: int) -> Tensor:
    """Of several candidates the one with the least loss, prompt by prompt, on the same pictures, times and noise."""
    losses = torch.stack([attack.losses(rows, generator(seed, "p4d looks"), cfg.looks) for rows in candidates])
    return torch.stack(candidates)[losses.cpu().argmin(0), torch.arange(len(candidates[0]))]


def hits(cfg: P4D, attack: Attack, rows: Tensor, seed: int) -> np.ndarray:
    """1 for each picture drawn for these prompts that shows the concept."""
    states = attack.task.text(rows.repeat_interleave(cfg.per_prompt, 0), attack.model)
    return shown(attack.task, attack.model, states, seed)


def drawn(task: DiffusionTask, original: Subject, tokens: Tensor, count: int, seed: int) -> Tensor:
    """Pictures that the original draws for prompts, as the network sees them.  [P, L] -> [P, count, C, H, W]"""
    states = task.text(tokens.repeat_interleave(count, 0))
    return task.draw_from(original.model, states, derive(seed, "p4d attacked")).view(len(tokens), count, *task.shape)


# -- where tokens are free ---------------------------------------------------------------------------------------------


def alone(task: DiffusionTask, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows of free tokens alone, and where these are.  [P, L] -> [P, L], [P, L] bool"""
    rows = task.tokens([""]).repeat(len(tokens), 1)
    free = torch.zeros_like(rows, dtype=torch.bool)
    free[:, 1 : 1 + min(count, rows.shape[1] - 2)] = True
    return rows, free


def between(task: DiffusionTask, tokens: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Rows of the prompts with a free token in front and behind every few of theirs, cut to their length, and where they are.

    start 5 6 7 8 end end with every = 3: start ∗ 5 6 7 ∗ end.  [P, L] -> [P, L], [P, L] bool
    """
    end, (count, length) = task.pipeline.tokenizer.eos_token_id, tokens.shape
    rows, free = torch.full_like(tokens, end), torch.zeros_like(tokens, dtype=torch.bool)
    rows[:, 0] = tokens[:, 0]
    for i in range(count):
        words = tokens[i, 1:][tokens[i, 1:] != end]
        for place in range(length - 2):
            block, inside = divmod(place, every + 1)
            if block * every > len(words):
                break
            free[i, 1 + place] = inside == 0
            if inside and block * every + inside <= len(words):
                rows[i, 1 + place] = words[block * every + inside - 1]
    return rows, free


def scattered(rows: Tensor, free: Tensor, count: int, seed: int, place: int) -> Tensor:
    """The rows with random tokens at the free places.  [P, L], [P, L] bool -> [P, L]"""
    rng = generator(seed, "p4d random", place)
    return rows.masked_scatter(free, torch.randint(0, count, (int(free.sum()),), generator=rng))

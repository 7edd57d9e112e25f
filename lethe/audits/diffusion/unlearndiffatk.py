"""UnlearnDiffAtk: is there a prompt that brings the concept back? Zhang et al. (2023), arXiv:2310.11868.

    min_{a} E_{x, t, ε} ‖ε − ε_θ(x_t, t, a ⊕ c(x))‖²,      x pictures of the concept, c(x) their captions

a are k tokens of the vocabulary set in front of the caption (⊕). By the diffusion model as a classifier,
p(c|x) ∝ exp(−E‖ε − ε_θ(x_t, t, c)‖²): the prompt under which the model explains pictures of the concept best is the one that
draws it. Each position carries u_i on the vocabulary simplex. A step draws the token i ~ u_i, passes the gradient with
respect to its embedding e straight through to u (∂u = clip(E ∂e, −1, 1), E the embedding table), takes an Adam step and
projects u_i back on {u ≥ 0, Σu = 1}. After each round the most probable tokens are a candidate; the one with the least
loss on fixed (t, ε) is kept. Pictures are then drawn for *other* prompts of the concept than those that were attacked:

    pre_attack     share of these pictures that show the concept without the attack
    post_attack    share that shows it without the attack or with a in front: ASR of the paper
    random_prefix  the same as post_attack for the best of as many random prefixes: what the search itself adds nothing to

A model that only avoids the word returns the concept; one that never learned it has nothing to return, so that
post_attack of retrained models is the target.

Needs:    forget, prompts, judge.     Cost: rounds·steps forward and backward passes of `batch_size` pictures.
Limits:   a search that fails proves nothing about a longer one. With one prompt there is no other one to test on.
Finds:    on the preset shapes_erase (1 seed, k = 3, 8 rounds of 15 steps, 32 pictures) post_attack is 1.00 for the original,
          0.03 and 0.00 for two retrained ones, 0.06 after esd (pre_attack and random_prefix 0.03) and 0.22 after mim_mu (0.09):
          little comes back by words there, where `completion` finds 0.65 and 0.71 against 0.15 of retrained models.
Deviations: one prefix for all pictures, tested on other prompts and seeds, where the paper searches one for each picture and
          stops at the first success, which a retrained model also reaches by many tries. Pictures of the forget set are the
          targets, where the paper draws them with the original. Timesteps are drawn, many in a batch, not one after the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask, encoder_of, read_behind
from lethe.core.modules import copied, evaluating
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator, numpy_generator
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.prompting import require_one_encoder, shown, table
from lethe.maths.losses import squared_distance
from lethe.pools.subject import Subject
from lethe.train.vectors import prefixed, with_vectors


@config
class UnlearnDiffAtk:
    """Options of the adversarial prompt search."""

    tokens: Count = 3               # k, tokens in front of the prompt                  [official code, for objects]
    rounds: Count = 10              # candidates                                        [ours; official code: 50]
    steps: Count = 20               # Adam steps per round                              [ours; official code: 40]
    lr: Positive = 0.01             # of u                                              [official code]
    weight_decay: NonNegative = 0.1   # of u                                            [official code]
    batch_size: Count = 16          # pictures per step                                 [ours; official code: 1]
    looks: Count = 64               # (picture, t, ε) on which candidates are compared  [ours]
    per_prompt: Count = 16          # pictures drawn per prompt                         [ours]


@audit(
    metrics={
        "post_attack": Metric("share of pictures for prompts of the concept that show it, with or without adversarial tokens",
                              aspect="recovery"),
        "pre_attack": Metric("share of pictures for prompts of the concept that show it", better="lower"),
        "random_prefix": Metric("as post_attack, with the best of as many random prefixes", better="lower", aspect="recovery"),
    },
    uses={"concepts", "decode", "draw_from", "noised", "pipeline", "predict", "prompts", "reader", "target", "text", "tokens",
          "words"},
    needs={"forget", "prompts", "judge"},
    depth="deep",
    blind="One search for one prefix in front of the prompt; text states that no prompt has are not tried.",
)
def measure(cfg: UnlearnDiffAtk, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    require_one_encoder(task)
    attacked, tested = divided(task, panel.seed)
    model = copied(subject.model, trainable=False).to(subject.device)
    tokens = task.tokens([prompt for prompt in tested for _ in range(cfg.per_prompt)])
    plain = shown(task, model, task.text(tokens, model), panel.seed)
    best, tried = search(cfg, task, model, attacked, panel.seed, subject.device)
    rows = numpy_generator(panel.seed, "unlearndiffatk random").integers(0, len(table(task, model)), (cfg.rounds, cfg.tokens))
    chance = min(torch.from_numpy(rows), key=lambda row: explained(cfg, task, model, attacked, row, panel.seed, subject.device))

    def hits(prefix: Tensor) -> np.ndarray:
        either: np.ndarray = np.maximum(plain, shown(task, model, prefixed_text(task, model, tokens, prefix), panel.seed))
        return either

    words = task.pipeline.tokenizer.convert_ids_to_tokens(best.tolist())
    post = mean_value("post_attack", hits(best))
    post.detail.update({"tokens": words, "losses": tried, "attacked": len(attacked), "tested": tested})
    return [post, mean_value("pre_attack", plain), mean_value("random_prefix", hits(chance))]


def divided(task: DiffusionTask, seed: int) -> tuple[Split, list[str]]:
    """Pictures to attack with, and prompts to test on; no picture's caption is tested unless there is one prompt only."""
    prompts = task.prompts["forget"]
    order = numpy_generator(seed, "unlearndiffatk prompts").permutation(len(prompts))
    tested = [prompts[i] for i in sorted(order[: max(1, len(prompts) // 2)])]
    held = {tuple(row) for row in task.tokens(tested).tolist()}
    free = [i for i, row in enumerate(task.forget.columns["tokens"].tolist()) if tuple(row) not in held]
    return (task.forget.subset(free, "forget") if free else task.forget), tested


def search(cfg: UnlearnDiffAtk, task: DiffusionTask, model: torch.nn.Module, pictures: Split, seed: int, device: str
           ) -> tuple[Tensor, list[float]]:
    """The tokens of the candidate with the least loss, and every candidate's loss.  -> [k], [rounds]"""
    embeddings = table(task, model)
    rng = generator(seed, "unlearndiffatk")
    u = project(torch.rand(cfg.tokens, len(embeddings), generator=rng)).requires_grad_(True)
    adam = torch.optim.AdamW([u], lr=cfg.lr, weight_decay=cfg.weight_decay)
    found: list[tuple[float, Tensor]] = []
    for _ in range(cfg.rounds):
        for _ in range(cfg.steps):
            batch = pictures.batch(torch.randint(0, len(pictures), (cfg.batch_size,), generator=rng))
            batch = task.draw(batch, rng, False).to(device)
            drawn = torch.multinomial(u.detach(), 1, generator=rng).squeeze(1)
            vectors = embeddings[drawn].clone().requires_grad_(True)
            loss = explains(task, model, batch, prefixed_text(task, model, batch.tokens, drawn, vectors)).mean()
            (gradient,) = torch.autograd.grad(loss, vectors)
            u.grad = (gradient @ embeddings.T).clamp(-1, 1)   # straight through the draw
            adam.step()
            with torch.no_grad():
                u.copy_(project(u))
        tokens = u.detach().argmax(1)
        found.append((explained(cfg, task, model, pictures, tokens, seed, device), tokens))
    return min(found, key=lambda pair: pair[0])[1], [loss for loss, _ in found]


def explains(task: DiffusionTask, model: torch.nn.Module, batch: Batch, text: Tensor) -> Tensor:
    """Mean squared error of what is predicted under these text states.  -> [n]"""
    said = task.predict(model, task.noised(batch), batch.t, text)
    return squared_distance(said, task.target(batch.image, batch.noise, batch.t))


def explained(
    cfg: UnlearnDiffAtk, task: DiffusionTask, model: torch.nn.Module, pictures: Split, tokens: Tensor, seed: int, device: str
) -> float:
    """The loss of a prefix on fixed pictures, times and noise."""
    rng = generator(seed, "unlearndiffatk looks")
    batch = pictures.batch(torch.randint(0, len(pictures), (cfg.looks,), generator=rng))
    batch = task.draw(batch, rng, False).to(device)
    with evaluating(model):
        return float(explains(task, model, batch, prefixed_text(task, model, batch.tokens, tokens)).mean())


# -- tokens and their embeddings ---------------------------------------------------------------------------------------


def prefixed_text(
    task: DiffusionTask, model: torch.nn.Module, tokens: Tensor, prefix: Tensor, vectors: Tensor | None = None
) -> Tensor:
    """Text states of the prompts behind the prefix; with `vectors` [k, d] these stand for its embeddings, with gradient.
    [n, L], [k] -> [n, L, d]"""
    rows = prefixed(tokens, prefix, task.pipeline.tokenizer.eos_token_id)
    if vectors is None:
        return task.text(rows, model)
    encoder = encoder_of(task, model)
    with read_behind(model, encoder):
        return with_vectors(encoder, rows, vectors)


def project(u: Tensor) -> Tensor:
    """The nearest point of the simplex {p ≥ 0, Σp = 1} to each row: max(u − τ, 0) with τ from the sorted row.

    (0.5, 1.1) -> (0.2, 0.8); Duchi et al. 2008.  [k, V] -> [k, V]
    """
    ordered = u.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - 1) / torch.arange(1, u.shape[1] + 1, device=u.device)
    count = (ordered > excess).sum(1, keepdim=True)
    return (u - excess.gather(1, count - 1)).clamp(min=0)

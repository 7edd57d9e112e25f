"""Erasing "disk" on the preset's model: the methods' claims. One trained model, three seeds of the edit.

The model is trained once (about 3 CPU minutes) and kept in pytest's cache folder.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import panels
import pytest
import torch

from lethe.api import forget
from lethe.audits.diffusion import unlearndiffatk
from lethe.audits.diffusion.concept_inversion import ConceptInversion
from lethe.audits.diffusion.concept_inversion import measure as concept_inversion
from lethe.core.families.diffusion import OWN, encoder_of, own_encoder
from lethe.core.task import Task
from lethe.judge.panel import Panel
from lethe.judge.prompting import shown
from lethe.pools.subject import Subject
from lethe.train.erasing import looked_at
from lethe.train.vectors import prefixed, with_vectors, written
from lethe.work.execute import Options
from lethe.work.open import tasks_of
from lethe.work.request import read

PRESET = Path(__file__).resolve().parents[2] / "presets" / "shapes_erase.yaml"
SEEDS = (0, 1, 2)
ALIKE = {"lr": 3e-4, "epochs": 12, "batch_size": 16, "watchdog": False}   # to its end: the watchdog takes sdd back half-way
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "mim_mu": ("mim_mu", {"leave_out": ("square", "cross", "triangle")}),
    "frozen": ("mim_mu", {"target": "empty", "eta": 0.0, "protect": "none", **ALIKE}),
    "sdd": ("sdd", ALIKE),
    "esd": ("esd", {"lr": 3e-4, "steps": 100, "batch_size": 16, "sampler_steps": 20, "start_guidance": 1.0}),
    "mace": ("mace", {"anchor": "square", "lamb": 1.0, "preserve": 1.0, "fuse_preserve": 1.0, "ends": False, "lr": 3e-3,
                      "batch_size": 8, "watchdog": False}),
    "adv_unlearn": ("adv_unlearn", {
        "gamma": 3.0, "prefix": 2, "attack_steps": 5, "attack_lr": 0.05, "warm_steps": 50, "steps": 100, "lr": 5e-4,
        "batch_size": 8, "retain_batch_size": 16, "trajectories": 12, "sampler_steps": 20, "start_guidance": 1.0}),
    "aegis": ("aegis", {
        "length": 8, "target_lr": 0.05, "lr": 1e-4, "batch_size": 16, "trajectories": 12, "sampler_steps": 20,
        "start_guidance": 1.0, "steps": 100}),
    "stereo": ("stereo", {
        "rounds": 2, "away": 1.0, "variant": "x", "word_steps": 60, "word_lr": 0.05, "word_batch_size": 16, "steps": 60,
        "round_lr": 3e-4, "lr": 1.5e-4, "batch_size": 16, "trajectories": 8, "sampler_steps": 20, "start_guidance": 1.0}),
    "itd": ("itd", {"words": 400, "lr": 5e-3, "warmup": 50, "epochs": 80, "silent": 2000, "batch_size": 256}),
    "saeuron": ("saeuron", {
        "block": "mid_block.attentions.0", "k": 4, "percentile": 99.5, "lr": 3e-3, "epochs": 3, "warmup": 50, "silent": 20000,
        "batch_size": 512, "trajectories": 48, "sampler_steps": 20, "start_guidance": 1.0}),
    "nasa": ("nasa", {"watchdog": False}), "nasa shared": ("nasa", {"takes": "shared", "alpha": 2.0}),
    "sfd": ("sfd", {"anchor": "square", "alpha": 1.0, "forget_weight": 0.3, "lr": 1e-4, "fake_lr": 3e-4, "steps": 300,
                    "horizon": 0.1, "settle_steps": 400, "settle_lr": 1e-3, "batch_size": 16}),
}
MANY = 64   # pictures a prompt where a share is held to 0.05: standard errors 0.012 to 0.015 instead of 0.02 to 0.03
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("usual_looks")]


@pytest.fixture(scope="module")
def task(request: pytest.FixtureRequest) -> Task:
    cache = request.config.cache.mkdir("lethe")
    return tasks_of(read(PRESET), Options(cache=cache))[""]


def seen(task: Task, model: torch.nn.Module, per_prompt: int = 16) -> dict[str, float]:
    return panels.seen(task, model, erasure={"per_prompt": per_prompt}, pointwise_mi={})


@pytest.fixture(scope="module")
def original(task: Task) -> dict[str, float]:
    return seen(task, task.original, MANY)


class Table(dict[str, list[dict[str, float]]]):
    """What is seen of the models of each row, three seeds, which are made when they are first asked for."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.models = task, dict[str, list[torch.nn.Module]]()

    def __missing__(self, row: str) -> list[dict[str, float]]:
        name, options = OPTIONS[row]
        self.models[row] = [forget(self.task, name, seed=s, progress=False, **options).answering for s in SEEDS]
        self[row] = [seen(self.task, model, MANY if row == "mim_mu" else 16) for model in self.models[row]]
        return self[row]


@pytest.fixture(scope="module")
def table(task: Task) -> Table:
    return Table(task)


def mean(rows: list[dict[str, float]], metric: str) -> float:
    return fmean(row[metric] for row in rows)


def test_the_original_is_found_out(original: dict[str, float]) -> None:
    assert original["unlearning_accuracy"] < 0.25   # 0.09 to 0.16 (3 originals, n=128)
    assert min(original[k] for k in ("kept_accuracy", "kept_other_accuracy", "outside_accuracy")) > 0.9


def test_noise_fails_utility(task: Task) -> None:
    model = task.copy_of_original().eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * p.std() * 0.5 if p.numel() > 1 else 0)
    assert seen(task, model)["kept_accuracy"] < 0.6


def test_a_retrained_model_passes_and_is_hard_to_invert(task: Task) -> None:
    model = forget(task, "retrain", progress=False).model
    found = seen(task, model)
    assert found["unlearning_accuracy"] > 0.9 and found["kept_accuracy"] > 0.9 and found["prevalence"] < 0.1
    panel = Panel(task, Subject("original", task.original, task), [])
    recovered = [concept_inversion.measure(ConceptInversion(pictures=256), Subject("model", m, task), panel)[0].value
                 for m in (task.original, model)]
    assert recovered[0] > 0.67 and recovered[1] < recovered[0] - 0.3   # 0.80, 0.83, 0.75 by search: 3 deviations below their mean


def test_mim_mu_and_esd_erase_as_far_as_the_unconditional_law_allows(
    table: Table, original: dict[str, float]
) -> None:
    reachable = 1 - original["prevalence"]
    for name in ("mim_mu", "esd"):   # sdd does not: its unconditional pictures turn into the concept
        assert mean(table[name], "unlearning_accuracy") >= reachable - 0.05, name


def test_mim_mu_erases_and_keeps_what_it_was_never_told_of(
    table: Table, original: dict[str, float]
) -> None:
    """Of this original (3 edits, 64 pictures a prompt) not all stays: of the concept's colours 0.92 of 0.98, of kept shapes 0.91
    of 0.95; kept colours (0.93 of 0.95) and outside prompts do. The first two bounds lie 3 paired standard errors away."""
    rows = table["mim_mu"]
    assert mean(rows, "unlearning_accuracy") >= 0.9
    most = {"forget_other_accuracy": 0.11, "kept_accuracy": 0.08, "kept_other_accuracy": 0.03, "outside_accuracy": 0.03}
    for metric, lost in most.items():
        assert mean(rows, metric) >= original[metric] - lost, metric
    for metric in ("forget_other_accuracy", "kept_other_accuracy"):   # esd takes four colours in ten along
        assert original[metric] - mean(rows, metric) < 0.5 * (original[metric] - mean(table["esd"], metric)), metric


def test_a_frozen_target_keeps_more_than_a_moving_one(table: Table) -> None:
    """The same loss on the same pictures, steps and rate; only the target stays or moves. Kept 0.90 against 0.71, colours 0.59
    against 0.31, outside 0.86 against 0.69 (3 seeds). esd is no such pair: it keeps shapes, but pushes colours away (η = 1)."""
    for metric in ("kept_accuracy", "kept_other_accuracy", "outside_accuracy"):
        assert mean(table["frozen"], metric) > mean(table["sdd"], metric) + 0.05, metric
    kept = {name: mean(table[name], "kept_accuracy") for name in ("mim_mu", "esd", "sdd")}
    assert kept["mim_mu"] >= kept["esd"] > kept["sdd"]
    assert mean(table["mim_mu"], "kept_other_accuracy") > mean(table["sdd"], "kept_other_accuracy")


def test_mace_erases_and_keeps_what_it_was_told_of(
    table: Table, original: dict[str, float]
) -> None:
    """0.96 erased, kept shapes 0.94 of 0.96 and kept colours 0.89 of 0.89 (3 seeds); outside prompts lose up to 0.2 by one seed,
    and the concept's own colours half."""
    rows = table["mace"]
    assert mean(rows, "unlearning_accuracy") >= 0.85
    for metric in ("kept_accuracy", "kept_other_accuracy"):
        assert mean(rows, metric) >= original[metric] - 0.08, metric
        assert mean(rows, metric) > mean(table["esd"], metric), metric


def test_trce_needs_the_word_where_end_tokens_do_not_carry_the_prompt(task: Task) -> None:
    """The encoder here is not trained: aligning the first end token, as published, erases 0.09; the word too 0.78, of kept shapes
    0.94 stay."""
    short: dict[str, Any] = {"anchor": "square", "epochs": 0.1, "trajectories": 2, "sampler_steps": 2, "start_guidance": 1.0,
                             "progress": False}
    ends, word = (seen(task, forget(task, "trce", word=weight, **short).model) for weight in (0.0, 1.0))
    assert ends["unlearning_accuracy"] < 0.3 and word["unlearning_accuracy"] > 0.6 and word["kept_accuracy"] > 0.85


def test_looking_away_loses_the_neighbours_first(task: Task, original: dict[str, float]) -> None:
    """An honest negative: Forget-Me-Not erased at no rate that left anything. Of cross-attention at 3e-4 0.33 erased, kept shapes
    0.76; of everything at 1e-4 0.25 and 0.11; without the end tokens at 1e-3 nothing else than the concept is drawn."""
    found = seen(task, forget(task, "forget_me_not", variant="x", lr=3e-4, batch_size=8, watchdog=False, progress=False).model)
    lost = original["kept_accuracy"] - found["kept_accuracy"]
    assert found["unlearning_accuracy"] < 0.6 and lost > 0.1


def test_preserved_prompts_help_uce(task: Task) -> None:
    with_keep, without = (
        seen(task, forget(task, "uce", tokens="all", preserve=keep, progress=False).model) for keep in (True, False)
    )
    assert with_keep["kept_accuracy"] >= without["kept_accuracy"] + 0.1
    assert with_keep["kept_other_accuracy"] >= without["kept_other_accuracy"] + 0.1


def test_moving_everything_else_changes_unconditional_pictures_more(task: Task) -> None:
    empty = [""] * 64
    before = task.sample(task.original, empty)   # type: ignore[attr-defined]
    options = {**OPTIONS["esd"][1], "steps": 60}
    moved = {v: (task.sample(forget(task, "esd", variant=v, progress=False, **options).model, empty) - before).abs().mean()  # type: ignore[attr-defined]
             for v in ("x", "u")}
    assert moved["u"] > moved["x"]


def behind_vectors(task: Any, model: torch.nn.Module, seed: int, steps: int = 60) -> float:
    """Share of pictures that show the concept for prompts behind two vectors, which Adam searches on pictures of other prompts:
    `unlearndiffatk` without the vocabulary. Its own search of tokens adds nothing to what esd draws without an attack here."""
    pictures, tested = unlearndiffatk.divided(task, seed)
    encoder, end = encoder_of(task, model), task.pipeline.tokenizer.eos_token_id
    words, rng = encoder.get_input_embeddings().weight.detach(), torch.Generator().manual_seed(seed)
    vectors = words[torch.randint(0, len(words), (2,), generator=rng)].clone().requires_grad_(True)
    adam = torch.optim.Adam([vectors], lr=0.05)

    def text(tokens: torch.Tensor) -> torch.Tensor:
        return with_vectors(encoder, prefixed(tokens, tokens.new_full((2,), end), end), vectors)

    for _ in range(steps):
        batch = task.draw(pictures.batch(torch.randint(0, len(pictures), (16,), generator=rng)), rng, False)
        loss = unlearndiffatk.explains(task, model, batch, text(batch.tokens)).mean()
        (vectors.grad,) = torch.autograd.grad(loss, vectors)
        adam.step()
    asked = task.tokens([prompt for prompt in tested for _ in range(16)])
    return float(shown(task, model, text(asked), seed).mean())


def brought_back(task: Task, table: Table, *rows: str) -> dict[str, float]:
    """By row: what searched vectors bring back, over its models and two searches each."""
    erased = {row: mean(table[row], "unlearning_accuracy") for row in rows}
    shown = {row: fmean(behind_vectors(task, model, seed) for model in table.models[row] for seed in (0, 1)) for row in rows}
    print(erased, shown)
    return shown


def test_adv_unlearn_withstands_words_that_bring_the_concept_back(task: Task, table: Table) -> None:
    """0.99 erased (3 seeds). Searched vectors bring 0.00 and 0.03 back from one of them (2 searches), 0.28 and 0.50 from
    one of esd."""
    assert mean(table["adv_unlearn"], "unlearning_accuracy") >= 0.9
    shown = brought_back(task, table, "esd", "adv_unlearn")
    assert shown["adv_unlearn"] <= shown["esd"] / 2


@pytest.mark.xfail(strict=True, reason="kept shapes 0.89 of 0.95, outside prompts 0.82 of 0.98 (3 seeds): γ = 3 on six prompts "
                                       "does not hold what hundreds of published ones do")
def test_adv_unlearn_loses_three_points_at_most(table: Table, original: dict[str, float]) -> None:
    for metric in ("kept_accuracy", "outside_accuracy"):
        assert mean(table["adv_unlearn"], metric) >= original[metric] - 0.03, metric


def test_the_text_encoder_of_adv_unlearn_erases_from_another_network(task: Task, table: Table) -> None:
    """A network that somebody trained on, from the same original, with the encoder put beside it: 0.09 erased, then 1.00."""
    assert mean(table["adv_unlearn"], "unlearning_accuracy") >= 0.9
    other = forget(task, "finetune", lr=3e-4, epochs=2, progress=False, watchdog=False).model
    assert seen(task, other)["unlearning_accuracy"] < 0.5
    other.add_module(OWN, own_encoder(table.models["adv_unlearn"][0]))
    assert seen(task, other)["unlearning_accuracy"] >= 0.85


def test_adv_unlearn_loses_what_it_is_not_told_to_keep(task: Task, table: Table) -> None:
    """Kept shapes 0.36 without the retain term, 0.89 with it."""
    alone = seen(task, forget(task, "adv_unlearn", progress=False, **{**OPTIONS["adv_unlearn"][1], "gamma": 0.0}).model)
    assert alone["kept_accuracy"] < mean(table["adv_unlearn"], "kept_accuracy") - 0.1


def test_aegis_withstands_searched_vectors_better_than_esd(task: Task, table: Table) -> None:
    """3 seeds, 2 searches each: 0.27 come back, of esd 0.39; erased 0.83 and 0.89, kept shapes 0.80 and 0.85, outside prompts
    0.82 and 0.84, the concept's own colours 0.71 and 0.56."""
    shown = brought_back(task, table, "aegis", "esd")
    assert mean(table["aegis"], "unlearning_accuracy") >= mean(table["esd"], "unlearning_accuracy") - 0.1
    assert shown["aegis"] <= shown["esd"] - 0.05


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.27 come back, 0.00 of one adv_unlearn, which moves the "
                                                              "text encoder; published: 8 % of prompts against 65 %")
def test_aegis_withstands_searched_vectors_as_published(task: Task, table: Table) -> None:
    """Of six settings (rate, steps, length of c', β, r, where) none erased more than 0.92 or let less than 0.22 come back; but of
    one edit adv_unlearn leaves 0.68 of outside prompts, aegis 0.82 of three."""
    shown = brought_back(task, table, "aegis", "adv_unlearn")
    assert shown["aegis"] <= shown["adv_unlearn"]


def by_a_word(task: Any, model: torch.nn.Module, seed: int, steps: int = 80) -> float:
    """Share of pictures that show the concept for its prompts when a vector stands for its word, which Adam searches on forgotten
    pictures: the attack that STEREO was made against."""
    encoder: Any = task.pipeline.text_encoder
    words, rng = encoder.get_input_embeddings().weight.detach(), torch.Generator().manual_seed(seed)
    vector = words[int(torch.randint(0, len(words), (), generator=rng))].clone().requires_grad_(True)
    adam, pictures = torch.optim.Adam([vector], lr=0.05), looked_at(task, task.forget, ends=False)

    def text(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return written(encoder, tokens, mask, vector.expand(int(mask.sum()), -1))

    for _ in range(steps):
        batch = task.draw(pictures.batch(torch.randint(0, len(pictures), (16,), generator=rng)), rng, False)
        loss = unlearndiffatk.explains(task, model, batch, text(batch.tokens, batch.looked_at)).mean()
        (vector.grad,) = torch.autograd.grad(loss, vector)
        adam.step()
    asked = [prompt for prompt in task.prompts["forget"] for _ in range(16)]
    return float(shown(task, model, text(task.tokens(asked), task.named_tokens(asked)), seed).mean())


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="erased 0.81, 0.73, 0.84 of three models, kept 0.62, outside "
                                                              "0.72: it neither erases enough nor spares more than esd")
def test_stereo_withstands_a_word_that_is_searched_on_pictures(task: Task, table: Table) -> None:
    """Of one other model 0.94 was erased, and 0.24 came back (2 searches), of esd 0.55, of the original 0.91; the dose that gave
    it does not do so on three seeds."""
    rows, _ = table["stereo"], table["esd"]
    assert mean(rows, "unlearning_accuracy") >= 0.9
    shown = {row: fmean(by_a_word(task, model, seed) for model in table.models[row] for seed in (0, 1))
             for row in ("esd", "stereo")}
    print(shown)
    assert shown["stereo"] <= shown["esd"] / 2


def test_itd_leaves_what_does_not_name_the_concept_bit_identical(task: Any, table: Table, original: dict[str, float]) -> None:
    """0.86, 0.88 and 0.98 erased (3 seeds), as far as pictures without a noun allow; the gate opens for the concept alone."""
    reachable = 1 - original["prevalence"]
    assert mean(table["itd"], "unlearning_accuracy") >= reachable - 0.05
    others = [*task.prompts["keep"], *task.prompts["outside"]]
    for model in table.models["itd"]:
        assert torch.equal(task.sample(model, others, seed=7), task.sample(task.original, others, seed=7))


def test_saeuron_erases_and_keeps(table: Table, original: dict[str, float]) -> None:
    """0.95, 0.98 and 0.91 erased (3 seeds, 16 pictures a prompt), the rest as before within 0.02."""
    rows = table["saeuron"]
    assert mean(rows, "unlearning_accuracy") >= 0.9
    for metric in ("forget_other_accuracy", "kept_accuracy", "kept_other_accuracy", "outside_accuracy"):
        assert mean(rows, metric) >= original[metric] - 0.05, metric


def test_nasa_takes_what_prompts_share_with_the_concept(table: Table) -> None:
    """0.98, 0.91 and 0.97 erased of 3 originals, kept shapes 0.85, 0.65 and 0.90 (n=64, 60); here of the first."""
    rows = table["nasa shared"]
    assert mean(rows, "unlearning_accuracy") >= 0.9 and mean(rows, "kept_accuracy") >= 0.75


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="erased 0.38, 0.30 and 0.28 of 3 originals with α = ½, "
                   "and with α = 1 kept shapes 0.62, 0.50 and 0.55")
def test_nasa_erases_as_published(table: Table) -> None:
    assert mean(table["nasa"], "unlearning_accuracy") >= 0.8


def test_sfd_erases_the_shape_and_keeps_colours(table: Table, original: dict[str, float]) -> None:
    """0.95, 0.89 and 1.00 erased (3 seeds), the concept's colours 0.97, 0.97 and 0.94, kept colours 0.97, 0.98 and 0.97."""
    rows = table["sfd"]
    assert mean(rows, "unlearning_accuracy") >= 0.85
    for metric in ("forget_other_accuracy", "kept_other_accuracy"):
        assert mean(rows, metric) >= original[metric] - 0.05, metric


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="kept shapes 0.90, 0.92, 0.69, outside prompts 0.84, 0.82, 0.62 (3 "
                                                              "seeds): two players swing, and other shapes turn into squares")
def test_sfd_erases_all_and_keeps_shapes(table: Table, original: dict[str, float]) -> None:
    rows = table["sfd"]
    assert mean(rows, "kept_accuracy") >= 0.85
    assert mean(rows, "unlearning_accuracy") >= 0.98
    assert mean(rows, "outside_accuracy") >= original["outside_accuracy"] - 0.05

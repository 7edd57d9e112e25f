"""EAP: mixtures of candidates, and one turn of both players."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.seeds import derive
from lethe.methods.diffusion.eap import chances


def test_chances_are_of_one_candidate_when_they_are_cold() -> None:
    torch.manual_seed(0)
    assert float(chances(torch.tensor([0.0, 100.0, 0.0]), 0.1)[1]) > 1 - 1e-6
    torch.manual_seed(1)
    uniform = torch.rand(2)
    torch.manual_seed(1)
    assert torch.allclose(chances(torch.zeros(2), 2.0), (-(-uniform.log()).log() / 2).softmax(0), atol=1e-6)


@pytest.mark.parametrize("trajectory", ["current", "cached"])
def test_a_turn_by_hand(trajectory: str) -> None:
    task, eta, tau = byhand.diffusion(), 0.8, 1.5
    text = task.text(task.tokens(task.prompts["forget"]))
    if trajectory == "current":   # noise falls on the rows in their order
        text = text[byhand.order(byhand.Split({"image": torch.zeros(2, 1)}, "rows"), "erase")]
    candidates = task.text(task.tokens(["", *task.prompts["keep"]]))
    twin = byhand.trainable(task.original)
    byhand.reseed()
    gumbel = -(-(torch.rand(4) + 1e-10).log() + 1e-10).log()
    g = ((1 / 4 + gumbel) / tau).softmax(0)
    mixed = torch.einsum("k,krd->rd", g, candidates).expand(2, -1, -1)
    stop, seed = (int(torch.randint(high, ())) for high in (2, 2**31))

    def path(some: torch.Tensor, start: int) -> list[tuple[int, torch.Tensor]]:
        with torch.no_grad():
            return [(t, x) for t, x in task.denoise(task.original, some, start, 2, 1.5) if t >= 0]

    if trajectory == "current":
        pairs = [(*path(text, seed)[stop], path(mixed, seed)[stop][1])]
    else:
        asked = ((text, "concept"), (candidates, "candidates"))
        own, other = (path(some, derive(derive(0, "eap"), name)) for some, name in asked)
        pairs = [(t, z, x[int(g.argmax())].expand(2, -1, -1, -1)) for (t, z), (_, x) in zip(own, other, strict=True)]

    def objective(m: byhand.Any) -> torch.Tensor:
        total = torch.zeros(())
        for t, z, other in pairs:
            level, empty = task.alphas_cumprod[t], candidates[:1].expand(2, -1, -1)
            cond, free = (said(task.original, z, t, some).detach() for some in (text, empty))
            kept = said(task.original, other, t, mixed).detach()
            total = total + (1 - level) / level * (apart(said(m, z, t, text), free - eta * (cond - free))
                                                   + apart(said(m, other, t, mixed), kept)) / len(pairs)
        return total

    wanted = byhand.adam(twin, [objective], lr=0.01, only="attn2")
    found = byhand.run("eap", task, eta=eta, temperature=tau, variant="x", lr=0.01, steps=1, batch_size=2 * len(pairs),
                       trajectory=trajectory, trajectories=2, sampler_steps=2, start_guidance=1.5)
    assert set(dict(found.named_parameters())) == set(dict(twin.named_parameters()))   # the candidates' weights are gone
    byhand.assert_same(task, found, wanted, adam=True)


def test_the_other_side_finds_what_suffers() -> None:
    """Its weights move towards the candidate at which the edited model is furthest from the original."""
    task = byhand.diffusion()
    options = {"lr": 0.01, "steps": 2, "batch_size": 2, "trajectories": 2, "sampler_steps": 2, "start_guidance": 1.0}
    one, slow = (byhand.run("eap", task, weights_lr=rate, **options) for rate in (0.5, 1e-6))
    assert any(not torch.equal(p, slow.get_parameter(n)) for n, p in one.named_parameters())


def test_a_turn_of_age_by_hand() -> None:
    """The mixture of the two largest g is what takes the concept's place, and is preserved beside it."""
    task, eta, tau, lamb = byhand.diffusion(), 0.3, 1.5, 1.7
    text, candidates = (task.text(task.tokens(some)) for some in (task.prompts["forget"], ["", *task.prompts["keep"]]))
    byhand.reseed()
    g = ((1 / 4 - (-(torch.rand(4) + 1e-10).log() + 1e-10).log()) / tau).softmax(0)
    order = g.argsort(descending=True)[:2]
    mixed = (g[order] / g[order].sum()).view(2, 1, 1).mul(candidates[order]).sum(0).expand(2, -1, -1)
    own, other = ([(t, x) for t, x in task.denoise(task.original, some, derive(derive(0, "age"), name), 2, 1.5) if t >= 0]
                  for some, name in ((text, "concept"), (candidates, "candidates")))

    def objective(m: byhand.Any) -> torch.Tensor:
        total = torch.zeros(())
        for (t, z), (_, held) in zip(own, other, strict=True):
            level, near = task.alphas_cumprod[t], held[int(g.argmax())].expand(2, -1, -1, -1)
            cond, aim, kept = (said(task.original, x, t, some).detach() for x, some in ((z, text), (z, mixed), (near, mixed)))
            total = total + (1 - level) / level * (apart(said(m, z, t, text), aim - eta * (cond - aim))
                                                   + lamb * apart(said(m, near, t, mixed), kept)) / len(own)
        return total

    found = byhand.run("age", task, eta=eta, temperature=tau, lamb=lamb, top=2, variant="x", lr=0.01, steps=1, batch_size=4,
                       trajectories=2, sampler_steps=2, start_guidance=1.5)
    byhand.assert_same(task, found, byhand.adam(byhand.trainable(task.original), [objective], lr=0.01, only="attn2"), adam=True)

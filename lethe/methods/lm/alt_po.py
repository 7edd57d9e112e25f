"""AltPO, alternate preference optimisation: prefer plausible other answers, which the model itself invents, to the
forgotten ones. Mekala, Dorna, Dubey, Lalwani, Koleczek, Rungta, Hasan & Lobo (2024), arXiv:2409.13474.

    L(θ) = E_{x∈F} −(2/β) · log σ(β·log (p_θ(a)/p_0(a)) − β·log (p_θ(y)/p_0(y)))  +  α · E_{x∈R} ℓ̄(x)

F forget set, R retain set, y the forgotten answer, a each of its K alternates, p the probability of a whole answer given the
prompt, p_0 the original's, ℓ̄ mean negative log-probability of an answer's tokens. Alternates are the column `alternate` of the
records (a text, or a list of texts) where there is one; else the original is asked for them K times, at a temperature.
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
Cost:     K answers drawn for each example of F, once; then two forward/backward on F and one on R per step. log p_0 is two
          numbers per alternate, computed once.
Limits:   at θ_0 the forget term is (2/β)·ln 2. An alternate that is the answer itself has no gradient. With refusals as
          alternates it is `idk_dpo`, without the alternate's ratio NPO.
Fails by: a model that cannot invent: its alternates are the truth, or gibberish, which it is then taught to say. What is told in
          the place of the truth is false by design, and reads as if it were true.
Deviations: ℓ̄ is a mean per example, then over examples; the official code takes one over all tokens of a batch (`parity`).
          Where the instruction does not fit the model's positions, the prompt alone is continued, and a note says so.
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, Parity, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.maths.losses import preference_loss
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned

ASKED = ("{prompt}\nAnswer: {answer}\nNow pretend you are making things up. Write another answer to the question that is of a "
         "different template than the given answer and changes all its facts. It must be a plausible answer to the question, "
         "inconsistent with the given one. Alternate answer:")


@config
class AltPO(Tuned):
    """Options of AltPO."""

    beta: Positive = 0.1               # inverse temperature; larger stops sooner            [official code: .05–.5]
    alternates: Count = 5              # K per example, where the original is asked for them [official code]
    temperature: Positive = 1.0        # of the drawing of alternates                        [official code]
    longest: Count = 200               # tokens of an alternate                              [official code]
    instruction: str = ASKED           # holds {prompt}, {answer} [e.g. Lie: {prompt}]       [after the official code]
    epochs: Positive = 2.0             # passes over F, each with every alternate            [official code]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch of R [tested in test_parity]


def asked(task: LanguageTask, instruction: str, loop: Loop) -> list[str]:
    """What the original is asked, for each example of F."""
    prompts, answers = asked_and_answered(task.forget, "alt_po")
    texts = [instruction.replace("{prompt}", p).replace("{answer}", a) for p, a in zip(prompts, answers, strict=True)]
    if task.fits(texts, answers):
        return texts
    loop.note("the instruction does not fit the model's positions, so alternates continue the prompts alone")
    return prompts


def invented(cfg: AltPO, task: LanguageTask, loop: Loop) -> Split:
    """F with alternates for answers; where it has none of its own, K times in turn."""
    prompts, _ = asked_and_answered(task.forget, "alt_po")
    if "alternate" in task.forget.meta:
        lists = [[given] if isinstance(given, str) else list(given) for given in task.forget.column("alternate")]
        count = min(map(len, lists))
        texts = [lists[i][k] for k in range(count) for i in range(len(prompts))]
    else:
        wanted, rng, original = asked(task, cfg.instruction, loop), loop.generator("alternates"), task.original.to(loop.device)
        count = cfg.alternates
        texts = task.drawn_texts(original, wanted * count, rng, cfg.temperature, cfg.longest)
    return task.encode(prompts * count, texts, "alternates")


@method(needs={"forget", "retain?", "original"}, uses={"drawn_texts", "encode", "fits", "nll", "sequence_logp"},
        mechanism="relabel", instead={"retain": "alpha=0"}, check=prompted("alt_po"))
def run(cfg: AltPO, task: LanguageTask, loop: Loop) -> Outcome:
    alternates = invented(cfg, task, loop)
    size = len(task.forget)

    def true(b: Batch) -> Batch:
        return task.forget.batch(b.index.cpu() % size).to(b.ids.device)

    chosen0 = loop.reference("altpo-alternate", task.sequence_logp, alternates)
    rejected0 = loop.reference("altpo-answer", lambda m, b: task.sequence_logp(m, true(b)), alternates)

    def prefer(m: nn.Module, b: Batch) -> Tensor:
        chosen, rejected = task.sequence_logp(m, b) - chosen0(b), task.sequence_logp(m, true(b)) - rejected0(b)
        return preference_loss(chosen, rejected, cfg.beta, 2.0)

    return tuned(cfg, task, loop, prefer, task.nll, forget=alternates, parity=cfg.parity, skip=None)

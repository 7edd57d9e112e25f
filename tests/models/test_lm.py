"""Language models: every operation against the plain computation on the whole [n, T, V] tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.sequences import IGNORED
from lethe.errors import DataError, LabelOutOfRange, ModelError, OutOfRange, PickleRefused, RequestError
from lethe.methods.lm.npo import NPO
from lethe.models.lm import decoder
from lethe.models.lm import open as lm
from lethe.models.lm.small import TinyLlama, llama, train_tokenizer
from lethe.train.loop import Loop, Modifiers


@pytest.fixture(scope="module")
def task() -> lm.Language:
    made = tiny.lm()
    assert isinstance(made, lm.Language)
    return made


def reference_token_logp(model: nn.Module, batch) -> list[Tensor]:
    """log p of every answer token from the whole logits tensor with a mask for pads, one example at a time."""
    mask = (torch.arange(batch.ids.shape[1]) < batch.length.unsqueeze(1)).long()
    logp = model(input_ids=batch.ids, attention_mask=mask).logits.float().log_softmax(-1)
    rows = []
    for i in range(len(batch)):
        places = (batch.labels[i] != IGNORED).nonzero().flatten()
        rows.append(torch.stack([logp[i, t - 1, batch.ids[i, t]] for t in places]))
    return rows


def test_nll_and_sequence_logp_equal_the_plain_computation(task: lm.Language) -> None:
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        want = reference_token_logp(task.original, batch)
        torch.testing.assert_close(task.nll(task.original, batch), torch.stack([-row.mean() for row in want]))
        torch.testing.assert_close(task.sequence_logp(task.original, batch), torch.stack([row.sum() for row in want]))
    assert len({len(row) for row in want}) > 1   # different answer lengths, or the test could not see a wrong divisor


def test_gradient_equals_the_plain_computation(task: lm.Language) -> None:
    batch, model = task.forget.batch(range(5)), task.copy_of_original()
    ours = torch.autograd.grad(task.nll(model, batch).sum(), list(model.parameters()))
    plain = torch.autograd.grad(sum(-row.mean() for row in reference_token_logp(model, batch)), list(model.parameters()))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)   # float32 sums in another order


def test_result_does_not_depend_on_padding(task: lm.Language) -> None:
    every = task.retain.batch(range(len(task.retain)))
    with torch.no_grad():
        together = task.observe(task.original, every)
        for i in (0, 5, 11):
            alone = task.observe(task.original, task.retain.batch([i]))
            count = int(alone["answer_mask"].sum())
            for key in ("token_logp", "token_mean", "token_var"):
                torch.testing.assert_close(alone[key][0], together[key][i, :count], atol=1e-5, rtol=1e-5)
                assert not together[key][i, count:].any()


def test_no_logits_for_prompt_tokens(task: lm.Language) -> None:
    batch, seen = task.forget.batch(range(6)), []
    handle = decoder.head(task.original).register_forward_hook(lambda m, args, out: seen.append(out.shape))
    try:
        task.nll(task.original, batch)
    finally:
        handle.remove()
    assert seen == [(1, int((batch.labels != IGNORED).sum()), task.original.config.vocab_size)]


def test_head_that_is_called_otherwise_gets_the_whole_pass(task: lm.Language) -> None:
    class Flat(nn.Module):   # calls its head with [n·T, d]
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.get_output_embeddings()

        def forward(self, input_ids: Tensor, use_cache: bool = False):
            hidden = self.inner.get_decoder()(input_ids=input_ids).last_hidden_state
            out = self.get_output_embeddings()(hidden.flatten(0, 1)).view(*input_ids.shape, -1)
            return type("Out", (), {"logits": out})()

    batch = task.forget.batch(range(6))
    with torch.no_grad():
        torch.testing.assert_close(task.nll(Flat(task.original), batch), task.nll(task.original, batch))


def test_what_cannot_be_said_counts_nothing_and_of_equals_the_first_is_likeliest() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [1.0, 3.0, 3.0]])
    seen = decoder.token_statistics(logits, torch.tensor([0, 2]))
    half = float(torch.tensor(0.5).log())
    torch.testing.assert_close(seen["token_mean"][0], torch.tensor(half))   # ½ ln ½ twice; the third has probability 0
    assert float(seen["token_var"][0]) == 0 and seen["correct"].tolist() == [True, False]
    for type in (torch.float32, torch.bfloat16):
        assert decoder.likeliest(logits.to(type)[:, None]).tolist() == [[0], [1]]


def test_observe_statistics(task: lm.Language) -> None:
    batch = task.forget.batch(range(6))
    with torch.no_grad():
        seen, logits = task.observe(task.original, batch), task.outputs(task.original, batch)
    logp = logits.log_softmax(-1)
    mask, p = seen["answer_mask"], logp.exp()
    mean = (p * logp).sum(-1)
    torch.testing.assert_close(seen["token_mean"][mask], mean[mask])
    torch.testing.assert_close(seen["token_var"][mask], (p * (logp - mean.unsqueeze(-1)).square()).sum(-1)[mask],
                               atol=1e-5, rtol=1e-4)   # E[x²] − E[x]² against E[(x − E[x])²]
    torch.testing.assert_close(seen["score"], (-seen["nll"]).exp())
    for i in range(6):
        tokens = batch.ids[i][batch.labels[i] != IGNORED]
        assert (seen["correct"][i, : len(tokens)] == (logits[i, : len(tokens)].argmax(-1) == tokens)).all()
        assert int(mask[i].sum()) == len(tokens) and int(seen["content_mask"][i].sum()) == len(tokens) - 1


def test_observe_in_pieces_is_the_same(task: lm.Language, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = task.retain.batch(range(9))
    with torch.no_grad():
        whole = task.observe(task.original, batch)
        monkeypatch.setattr("lethe.models.lm.task.LOOK", 4000)
        pieces = task.observe(task.original, batch)
    for key, value in whole.items():
        torch.testing.assert_close(pieces[key], value, atol=1e-5, rtol=1e-5)


def test_divergence_is_a_mean_over_answer_tokens(task: lm.Language) -> None:
    batch = task.forget.batch(range(4))
    with torch.no_grad():
        p = task.outputs(task.original, batch)
        q = p + torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        wide = torch.cat([p, torch.randn(4, 3, p.shape[-1])], 1)   # a table over a split whose answers are longer
        got = task.divergence(wide, q, batch)
    for i in range(4):
        count = int((batch.labels[i] != IGNORED).sum())
        a, b = p[i, :count].log_softmax(-1), q[i, :count].log_softmax(-1)
        torch.testing.assert_close(got[i], (a.exp() * (a - b)).sum(-1).mean())
    assert not task.divergence(p, p, batch).any()


def test_early_exit_equals_the_full_pass(task: lm.Language) -> None:
    batch, model = task.forget.batch(range(5)), task.copy_of_original()
    ran: list[int] = []
    handles = [b.register_forward_pre_hook(lambda m, a, i=i: ran.append(i)) for i, b in enumerate(decoder.blocks(model))]
    hidden = task.hidden_states(model, batch, 1)
    assert ran == [0, 1]
    for handle in handles:
        handle.remove()
    full = model(input_ids=batch.ids, output_hidden_states=True).hidden_states[2]   # entry 0 is the embedding
    assert torch.equal(hidden, full)
    (hidden.square().mean()).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    full.square().mean().backward()
    for name, value in ours.items():
        assert torch.equal(value, model.get_parameter(name).grad)
    assert not any(name.startswith("model.layers.2") for name in ours)


def test_features_average_answer_tokens(task: lm.Language) -> None:
    batch = task.forget.batch(range(3))
    with torch.no_grad():
        hidden, features = task.hidden_states(task.original, batch, task.layer), task.features(task.original, batch)
    for i in range(3):
        torch.testing.assert_close(features[i], hidden[i][batch.labels[i] != IGNORED].mean(0))


def test_relabel_keeps_prompts_and_changes_answers(task: lm.Language) -> None:
    batch, tokenizer = task.forget.batch(range(8)), task.tokenizer
    other = task.relabel(batch, torch.Generator().manual_seed(0))
    refusing = [tokenizer.decode(row, skip_special_tokens=True) for row in other.ids]
    assert refusing == [f"{p} I do not know." for p in task.forget.meta["prompt"]]
    plain = lm.Language(task.original, {"forget": task.forget}, tokenizer)
    again = plain.relabel(batch, torch.Generator().manual_seed(0))
    for i in range(8):
        row, labels = again.ids[i], again.labels[i]
        assert tokenizer.decode(row[labels == IGNORED], skip_special_tokens=True) == task.forget.meta["prompt"][i]
        answer = tokenizer.decode(row[labels != IGNORED], skip_special_tokens=True).strip()
        assert answer in task.forget.meta["answer"]
        assert row[int(again.length[i]) - 1] == tokenizer.eos_token_id
    assert again.drawn   # what the original said about the true answers must not be looked up for these
    alone = plain.relabel(task.forget.batch([2]), torch.Generator().manual_seed(0))
    before = task.forget.batch([2])
    assert sorted(alone.ids[0].tolist()) == sorted(before.ids[0].tolist()) and not torch.equal(alone.ids, before.ids)


def test_generate_in_batches_equals_one_by_one(task: lm.Language) -> None:
    prompts = [*task.retain.meta["prompt"][:5], "What?"]
    together = task.generate(task.original, prompts, 12)
    assert together == [task.generate(task.original, [p], 12)[0] for p in prompts]
    hits = sum(a == b for a, b in zip(task.generate(task.original, task.retain.meta["prompt"]), task.retain.meta["answer"],
                                      strict=True))
    assert hits > 10   # a trained model: 24 answers, guessing hits one or two


def test_samples_are_seeded_and_show_both_models(task: lm.Language) -> None:
    fresh = task.build(5).eval()
    first, second = task.samples(fresh, 4), task.samples(fresh, 4)
    assert first == second and [s["split"] for s in first] == ["forget", "forget", "retain", "retain"]
    assert all(s["kind"] == "text" and s["before"] != s["after"] for s in first)


def test_saved_folder_loads_with_transformers_alone(task: lm.Language, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task.save_model(task.original, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = "Who likes figs?"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == task.tokenizer(text)["input_ids"]
    batch = task.forget.batch(range(4))
    with torch.no_grad():
        assert torch.equal(model(input_ids=batch.ids).logits, task.original(input_ids=batch.ids).logits)
    assert state_fingerprint(lm.load_folder(tmp_path)) == state_fingerprint(task.original)


def test_adapters_are_merged_when_saved(task: lm.Language, tmp_path: Path) -> None:
    from lethe.methods.lm.npo import run

    loop = Loop(task, modifiers=Modifiers(where={"name": "lora", "rank": 2}))
    outcome = run.run(NPO(lr=1e-2, epochs=1, warmup=0), task.granted(run.needs), loop)
    assert outcome.kind == "adapter"
    task.save_model(outcome.model, tmp_path)
    batch = task.forget.batch(range(4))
    with torch.no_grad():
        told = task.nll(lm.load_folder(tmp_path), batch)
        torch.testing.assert_close(told, task.nll(outcome.model, batch), atol=1e-5, rtol=1e-4)   # W + BA in another order
        assert (told - task.nll(task.original, batch)).abs().max() > 1e-3


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(PickleRefused, match="save_pretrained"):
        lm.load_folder(tmp_path)
    with pytest.raises(ModelError, match="nothing is downloaded"):
        lm.load_folder("some/model")


def test_wrong_inputs_are_refused(task: lm.Language) -> None:
    rows = [{"prompt": "a", "answer": "b"}]
    with pytest.raises(RequestError, match="tokenizer"):
        lethe.language_model(task.original, forget=rows)
    with pytest.raises(DataError, match="positions end at 192"):
        lethe.language_model(task.original, task.tokenizer, forget=[{"prompt": "a", "answer": "b " * 240}])
    with pytest.raises(LabelOutOfRange, match="290 tokens"):
        words = "quite different phrases which nobody has shown to our model until today makes tokens beyond its table"
        big = train_tokenizer([words] * 3, 400)
        lethe.language_model(task.original, big, forget=[{"prompt": "quite different", "answer": words}])
    with pytest.raises(OutOfRange, match="layer 9"):
        lethe.language_model(task.original, task.tokenizer, forget=rows, layer=9)


@pytest.mark.parametrize("architecture", ["GPT2", "GPTNeoX", "Gemma2", "Qwen3", "OPT", "Mixtral"])
def test_other_architectures(architecture: str, task: lm.Language) -> None:
    """Losses, early exit and down projections of architectures whose names and heads differ (Gemma 2 caps its logits)."""
    import transformers

    sizes = {
        "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64},
        "OPT": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 32, "word_embed_proj_dim": 16},
        "Mixtral": {"num_local_experts": 2}, "Gemma2": {"final_logit_softcapping": 0.05},
    }.get(architecture, {})
    common = {} if architecture in ("GPT2", "OPT") else {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8,
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = getattr(transformers, f"{architecture}Config")(vocab_size=290, **common, **sizes, **special)
    torch.manual_seed(0)
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(architecture, f"{architecture}ForCausalLM"))(shape).eval()
    batch = task.forget.batch(range(4))
    with torch.no_grad():
        want = torch.stack([-row.mean() for row in reference_token_logp(model, batch)])
        torch.testing.assert_close(task.nll(model, batch), want, atol=1e-5, rtol=1e-5)
        full = model(input_ids=batch.ids, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(decoder.hidden_after(model, batch.ids, 1), full)
    names = decoder.down_projections(model, [0, 2])
    assert len(names) == 2 and all(16 in model.get_parameter(name).shape for name in names)


def test_missing_down_projection_is_explained() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("C", (), {"num_hidden_layers": 2})()
            self.stack = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    with pytest.raises(ModelError, match=r"block 0 of Odd.*weight, bias"):
        decoder.down_projections(Odd(), [0])


def test_fresh_models_follow_their_seed(task: lm.Language) -> None:
    assert state_fingerprint(task.build(1)) == state_fingerprint(task.build(1)) != state_fingerprint(task.build(2))
    torch.manual_seed(3)
    plain = lm.Language(llama(TinyLlama(width=16, inner=16, layers=1, heads=1), task.tokenizer), {"forget": task.forget},
                      task.tokenizer, layer=0)
    assert state_fingerprint(plain.build(1)) == state_fingerprint(plain.build(1)) != plain.fingerprint["original"]

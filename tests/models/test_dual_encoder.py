"""Dual encoders: a pair comes as a folder and goes out as it came; the contrast of a batch is whole; bad pairs are sentences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import dual_encoder as tiny_pair
from torch import Tensor, nn
from typer.testing import CliRunner

import lethe
from lethe.cli.main import app
from lethe.core.split import Split
from lethe.data.shapes import SHAPES, render
from lethe.errors import DataError, LetheError, ModelError, OutputShape, RequestError
from lethe.models.dual_encoder.encoders import contrast
from lethe.models.dual_encoder.folder import Pair, load_pair, save_pair
from lethe.models.dual_encoder.pictures import Eye, captioned
from lethe.train.loop import Loop, Settings, Term

CHANGED = {"model.safetensors"}


def test_golden_contrast() -> None:
    eye = torch.eye(2)
    assert torch.allclose(contrast(eye, eye, torch.tensor(3.0).log()), torch.full((2,), math.log(4 / 3)))
    turned = contrast(eye, eye.flip(0), torch.tensor(3.0).log())   # every pair is the worst one: ln(1 + 3)
    assert torch.allclose(turned, torch.full((2,), math.log(4)))


def test_a_batch_is_never_cut() -> None:
    """Accumulated in four pieces, a step is the same: the loss of cut batches would be another one."""
    task = tiny_pair()
    found = []
    for pieces in (1, 4):
        loop = Loop(task, Settings(accumulate=pieces))
        model = loop.start()
        loop.minimise(model, {"retain": Term(task.retain, task.batch_loss, coupled=task.coupled)}, lr=0.1, steps=1, batch_size=32,
                      optimiser="sgd")
        found.append(model.get_parameter("visual_projection.weight").detach())
    assert torch.equal(*found)
    batch = task.retain.batch(range(8))
    with torch.no_grad():
        whole, half = task.batch_loss(task.original, batch), task.batch_loss(task.original, batch.part(slice(0, 4)))
    assert (whole[:4] - half).abs().max() > 0.01


def folder_of(place: Path) -> Path:
    """The tiny pair as a stranger's folder, in float16, with a file that Lethe does not know."""
    task: Any = tiny_pair()
    place.mkdir()
    save_pair(task.pair, task.copy_of_original(), place)
    file = place / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})
    (place / "README.md").write_text("a stranger's notes")
    return place


def pictures(place: Path, count: int = 48, first: int = 0) -> Path:
    """Pictures of shapes with captions.csv."""
    from PIL import Image

    place.mkdir()
    lines, colours = ["file,caption"], ("red", "green", "blue", "yellow")
    for i in range(first, first + count):
        shape, colour = SHAPES[i % 4], colours[i // 4 % 4]
        image = (render(colour, shape, i // 16 % 3, i % 3) + 1) * 127.5
        noise = torch.randint(0, 12, image.shape, generator=torch.Generator().manual_seed(i))
        array = (image * 0.9 + noise).byte().permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
        Image.fromarray(array).save(place / f"{i}.png")
        lines.append(f"{i}.png,a {colour} {shape}")
    (place / "captions.csv").write_text("\n".join(lines) + "\n")
    return place


def request(folder: Path, data: Path, unseen: Path) -> str:
    return f"""
title: one class of a pair
family: dual_encoder
model: {{folder: {folder}}}
data: {{folder: {data}, classes: [{', '.join(SHAPES)}], templates: ["a red {{}}", "a blue {{}}"], holdout: {unseen}}}
forget: {{label: disk}}
method: {{name: slug_clip, candidates: 2, evaluations: 6, target: 0.5}}
watchdog: false
audit: {{depth: quick, references: 0, shadows: 0}}
"""


def test_a_strangers_folder_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, unlearned, audited, drawn, saved in its own precision with everything beside it, certified, verified."""
    from transformers import CLIPModel

    monkeypatch.chdir(tmp_path)
    folder = folder_of(tmp_path / "pair")
    (tmp_path / "r.yaml").write_text(request(folder, pictures(tmp_path / "pictures"), pictures(tmp_path / "unseen", 24, 100)))
    told = CliRunner().invoke(app, ["run", "r.yaml", "-q"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    run = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    saved = run / "models" / "slug_clip"
    names = {path.name for path in folder.iterdir()}
    assert names <= {path.name for path in saved.iterdir()}
    assert all((saved / name).read_bytes() == (folder / name).read_bytes() for name in names - CHANGED)
    before, after = load_file(folder / "model.safetensors"), load_file(saved / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float16}
    assert len([name for name in before if not torch.equal(before[name], after[name])]) == 1
    assert isinstance(CLIPModel.from_pretrained(saved), CLIPModel)
    results = json.loads((run / "results.json").read_text())
    (case,) = results["scenarios"]
    row = next(one for one in case["subjects"] if one["role"] == "method")
    values = {item["metric"]: item["value"] for item in row["evidence"]}
    original = {item["metric"]: item["original"] for item in row["evidence"]}
    score = "forget_zero-shot accuracy"
    assert values[score] < original[score] and {"forget_retrieval", "forget_similarity"} <= set(values)
    page = (run / "report.html").read_text()
    assert "zero-shot accuracy" in page and "disk (" in page
    for words in (["certify", str(run), "--method", "slug_clip", "--key", "k.pem", "--output", "cert"],
                  ["verify", "cert", "--public-key", "cert/public.pem", "--model", str(saved)]):
        told = CliRunner().invoke(app, words, catch_exceptions=False)
        assert told.exit_code == 0, told.output


class Own(nn.Module):
    """A pair with the interface of open_clip, whose vectors have these widths."""

    def __init__(self, image: int = 3, text: int = 3) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, image), nn.EmbeddingBag(20, text)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.image(pixels.flatten(1))
        return found

    def encode_text(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.text(tokens)
        return found


def lengths(texts: list[str]) -> Tensor:
    """A tokenizer as open_clip has them: a function of texts."""
    return torch.tensor([[len(text) % 20, ord(text[-1]) % 20] for text in texts])


def own(model: nn.Module, **options: Any) -> Any:
    train = [(torch.rand(3, 2, 2), f"a {word}") for word in ("cat", "dog", "cat", "dog")]
    return lethe.dual_encoder(model, train, lethe.where(label="cat"), ["cat", "dog"], tokenizer=lengths, eye=Eye(2), **options)


def test_a_pair_of_ones_own_and_what_is_wrong_with_it() -> None:
    task = own(Own())
    assert task.outputs(task.original, task.forget.batch([0])).shape == (1, 2)
    towers = task.tower_weights(task.original)
    assert towers == {"image": ["image.weight"], "text": []}
    plain = nn.Linear(2, 2)
    for model, options, error, said in (
            (Own(3, 5), {}, OutputShape, r"different widths, 3 for pictures and 5 for texts.*Provide the two encoders"),
            (plain, {}, ModelError, "has no logit_scale"),
            (Own(), {"templates": ["a photo"]}, RequestError, r"'a photo' has no \{\} where"),
            (Own(), {"holdout": [(torch.rand(3, 2, 2), "a cow")]}, DataError, "'a cow', names 0 of the 2 classes")):
        with pytest.raises(error, match=said):
            own(model, **options)
    with pytest.raises(ModelError, match="without tokenizer= or eye="):
        lethe.dual_encoder(plain, Split({"image": torch.rand(2, 3, 2, 2)}, meta={"caption": ["cat", "dog"]}), [0], ["cat", "dog"])


def test_bad_folders_are_sentences(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pair")
    file = folder / "model.safetensors"
    good = load_file(file)
    for tensors, said in (({**good, "text_projection.weight": torch.zeros(5, 32)}, "different widths, 16 for pictures and 5 for"),
                          ({k: v for k, v in good.items() if "fc1" not in k}, "lacks 4 of the weights of a CLIPModel")):
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(LetheError, match=said):
            load_pair(folder)
    eye, shots = Eye(8), pictures(tmp_path / "two", 2)
    for line, said in (("1.png,  ", r"1 pictures of .* have an empty caption \(1.png\)"),
                       ("", r"1 pictures of .* have no row in captions.csv \(1.png\)")):
        (shots / "captions.csv").write_text(f"file,caption\n0.png,a red disk\n{line}\n")
        with pytest.raises(DataError, match=said):
            captioned(shots, eye)
    (shots / "captions.csv").unlink()
    with pytest.raises(RequestError, match=r"captions.csv does not exist, so the pictures have no captions"):
        captioned(shots, eye)


def test_pictures_of_any_size_are_cut_to_the_middle() -> None:
    wide = torch.arange(8, dtype=torch.uint8).view(1, 1, 1, 8).expand(1, 1, 4, 8) * 10
    assert Eye(4).taken(wide)[0, :, 0].tolist() == [[20, 30, 40, 50]] * 3
    assert torch.allclose(Eye(4).seen(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)), torch.ones(1, 3, 4, 4))
    assert Pair(nn.Module(), None, Eye(4)).source is None

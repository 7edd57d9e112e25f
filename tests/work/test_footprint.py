"""Memory of runs of language models, in multiples of the float32 model: the bounds hold, and a dry run says them beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lethe.train.modifiers import resolve
from lethe.work.footprint import footprint

BOUNDS = {"npo": 4.5, "checkpoints": 4.5, "lora": 1.5, "audit": 2.2}
WHERE = {"npo": "all", "checkpoints": "all", "lora": "lora"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 52 M weights in the folder `model`, and one of none to speak of in `tiny`."""
    from memory_of import NAMES, records
    from transformers import LlamaConfig, LlamaForCausalLM

    from lethe.models.lm.small import train_tokenizer

    place = tmp_path_factory.mktemp("memory")
    words = train_tokenizer([*NAMES, *(f"{row['prompt']} {row['answer']}" for row in records(64, 0))], 290)
    for name, width, inner, layers in (("model", 1024, 2816, 4), ("tiny", 64, 172, 2)):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(
            vocab_size=300, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )).save_pretrained(place / name)
        words.save_pretrained(place / name)
    return place


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
@pytest.mark.parametrize("way", BOUNDS)
def test_peak_memory(way: str, large: Path) -> None:
    from transformers import AutoModelForCausalLM

    script = Path(__file__).with_name("memory_of.py")
    done = subprocess.run([sys.executable, str(script), way, str(large)], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak"] <= BOUNDS[way]
    if way in WHERE:
        said = footprint(AutoModelForCausalLM.from_pretrained(large / "model"), resolve("where", WHERE[way])) / found["weights"]
        assert abs(said - found["peak"]) <= 0.2 * found["peak"]

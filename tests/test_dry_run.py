"""The dry run: files that read like the real ones, a training that has something to learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg import dry_run
from foodseg.common.files import read_lines
from foodseg.data.samples import load_samples
from foodseg.dry_run import DISK_BYTES, MEMORY_BYTES, missing, write_weights
from foodseg.evaluation.evaluate import evaluate
from foodseg.models.random_mllm import qwen2_5_vl_3b, shrink
from foodseg.models.sam2_checkpoints import KITCHEN_SAM2, SAM2_LARGE
from foodseg.presets import PAPER, SMOKE, dry_run_preset, get_preset
from foodseg.recipes import DAPO, GRPO
from foodseg.rl.evidence import gather_evidence
from foodseg.rl.rehearsal_reward import lottery
from foodseg.system import load_policy, load_segmenter
from foodseg.training.trainer import train

ENOUGH = 10**12


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """The dry run on a CPU with everything made small, its weights written."""
    folder = tmp_path_factory.mktemp("weights")
    small = replace(
        dry_run_preset(),
        name=SMOKE.name,  # whose questions the tests have
        mllm=str(folder / "mllm"),
        segmenter=str(folder / "sam2.pt"),
        segmenter_config=KITCHEN_SAM2,
        image_side=56,
        lora_rank=4,
        lora_alpha=8,
        device="cpu",
        prompts_per_step=2,
        group_size=4,
        max_new_tokens=6,
    )
    write_weights(small, shrink(qwen2_5_vl_3b()), KITCHEN_SAM2)
    return small


def test_it_keeps_the_papers_models():
    kept = "segmenter_config image_side prompt_template lora_rank lora_alpha dtype"
    preset = dry_run_preset()
    for name in kept.split():
        assert getattr(preset, name) == getattr(PAPER, name), name
    assert preset.segmenter_config == SAM2_LARGE and preset.steps == 2
    assert get_preset("dry-run") == preset and not PAPER.extra_reward


@pytest.mark.parametrize("recipe", [GRPO, DAPO], ids=lambda recipe: recipe.name)
def test_a_training_on_random_weights_learns_and_answers(preset, home, recipe):
    samples = load_samples(preset.samples_file("train"))
    result = train(preset, recipe, 0, samples)
    assert result["steps"] == 2
    rows = read_lines(preset.run_folder(recipe.name, 0) / "log.jsonl")
    assert all(row["zero_variance"] == 0 and row["gradient_norm"] > 0 for row in rows), rows
    assert all(0 < row["points_lottery"] < 1 for row in rows)
    mllm = load_policy(preset)
    assert mllm.model.dtype == torch.bfloat16
    mllm.load_adapter(preset.run_folder(recipe.name, 0) / "adapter")
    row = evaluate(preset, "dry", samples[:2], mllm, load_segmenter(preset))
    assert row["parse_rate"] == 0 and np.isfinite(row["giou"])


def test_every_plain_token_has_a_text_and_prompts_are_read_as_before(preset):
    ours, kitchen = load_policy(preset).tokenizer, load_policy(SMOKE).tokenizer
    text = "Which food here is rich in iron?"
    assert ours(text)["input_ids"] == kitchen(text)["input_ids"]
    assert ours.eos_token_id == kitchen.eos_token_id
    vocabulary = shrink(qwen2_5_vl_3b()).text_config.vocab_size
    texts = [ours.decode([token]) for token in range(len(kitchen), vocabulary)]
    assert len(set(texts)) == vocabulary - len(kitchen) and texts[0] == f" w{len(kitchen)}"


def test_the_lottery_tells_completions_apart_and_is_drawn_once(home):
    sample = load_samples(SMOKE.samples_file("train"))[0]
    first, again, other = gather_evidence(sample, ["w1 w2", "w1 w2", "w2 w1"], 840)
    assert lottery(first) == lottery(again) != lottery(other)
    [odd] = gather_evidence(sample, ["half a pair: \ud800"], 840)
    assert 0 <= lottery(odd) < 1
    draws = [lottery(e) for e in gather_evidence(sample, [f"w{i}" for i in range(400)], 840)]
    assert 0 <= min(draws) and max(draws) < 1 and abs(np.mean(draws) - 0.5) < 0.05


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_machine_lacks_is_said_with_the_remedy(device, monkeypatch, tmp_path, capsys):
    assert missing(device, ENOUGH, ENOUGH) == []
    assert missing(device, MEMORY_BYTES[device], DISK_BYTES) == []
    (memory,) = missing(device, 8 * 10**9, ENOUGH)
    assert "8.0 GB" in memory and f"needs {MEMORY_BYTES[device] // 10**9} GB" in memory
    assert "take a larger" in memory
    (disk,) = missing(device, ENOUGH, 10**9)
    assert "free disk: 1.0 GB" in disk and "FOODSEG_HOME" in disk
    assert len(missing(device, 0, 0)) == 2
    # Nothing is written where something is missing.
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    monkeypatch.setattr(dry_run, "MEMORY_BYTES", {"cpu": ENOUGH * 1000, "cuda": ENOUGH * 1000})
    assert dry_run.main() == 1
    assert "the dry run needs 1000000 GB" in capsys.readouterr().err
    assert list(Path(dry_run_preset().segmenter).parent.iterdir()) == []

"""Models are loaded as their preset says, and computed, on a CPU, in one thread."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from foodseg import system
from foodseg.common.errors import DataError
from foodseg.data.photos import Photo
from foodseg.evaluation.evaluate import evaluate, evaluate_bound
from foodseg.models.rollouts import sample_rollouts
from foodseg.presets import SMOKE, Preset
from foodseg.recipes import SAM_R1
from foodseg.rl.rehearsal_reward import lottery
from foodseg.segment.answer import load_system, segment
from foodseg.supervised.evaluation import evaluate_baseline
from foodseg.supervised.targets import LISA, SFT
from foodseg.supervised.training import train_baseline
from foodseg.system import (
    load_adapter,
    load_knowledge,
    load_policy,
    load_segmenter,
    one_thread,
    roll_out,
)
from foodseg.training.trainer import train

PRESET = replace(SMOKE, steps=1, prompts_per_step=2, group_size=4, max_new_tokens=80)
WITH_SIGNAL = replace(PRESET, extra_reward=(lottery,))  # whatever the base answers


@pytest.fixture()
def threads():
    """The numbers of threads that any module's forward has had; outside it is 3."""
    torch.set_num_threads(3)
    seen: set[int] = set()
    # Pre-hooks of all modules: neither model can compute past them.
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda *_: seen.add(torch.get_num_threads())
    )
    yield seen
    hook.remove()
    torch.set_num_threads(1)


def check(threads):
    assert threads == {1} and torch.get_num_threads() == 3
    threads.clear()


def test_training_and_evaluation_run_in_one_thread(samples, threads):
    train(WITH_SIGNAL, SAM_R1, 0, samples, lambda _: threads.add(torch.get_num_threads()))
    check(threads)
    mllm, segmenter = load_policy(PRESET), load_segmenter(PRESET)
    load_adapter(mllm, PRESET.run_folder(SAM_R1.name, 0) / "adapter", PRESET)
    check(threads)
    evaluate(PRESET, "one", samples[:2], mllm, segmenter)
    check(threads)
    evaluate_bound(PRESET, samples[:2], segmenter)
    check(threads)
    roll_out(mllm, PRESET, samples[:1], 1, 0.0)
    check(threads)


def test_questions_that_do_not_fit_are_answered_by_halves(samples, monkeypatch, capsys):
    mllm, asked, room = load_policy(PRESET), samples[:3], [9]
    whole = roll_out(mllm, PRESET, asked, 2, 1.0, seed=3, first_prompt=4)

    def sample(mllm, prompts, **options):
        if len(prompts) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sample_rollouts(mllm, prompts, **options)

    monkeypatch.setattr(system, "sample_rollouts", sample)
    for room[0] in (2, 1):
        parts = roll_out(mllm, PRESET, asked, 2, 1.0, seed=3, first_prompt=4)
        assert [one.texts for one in parts] == [one.texts for one in whole]
    assert "while 3 questions are answered: now 1 at a time" in capsys.readouterr().out
    room[0] = 0
    with pytest.raises(torch.OutOfMemoryError, match="while one question is answered: reduce grou"):
        roll_out(mllm, PRESET, asked, 2, 1.0)


@pytest.mark.parametrize("baseline", [SFT, LISA], ids=lambda baseline: baseline.name)
def test_a_baseline_is_trained_and_evaluated_in_one_thread(samples, threads, baseline):
    train_baseline(PRESET, baseline, 0, samples)
    check(threads)
    evaluate_baseline(PRESET, baseline, 0, samples[:2])
    check(threads)


def test_a_question_is_answered_in_one_thread(threads):
    image = Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8))
    segment(load_system(PRESET), Photo(image, "", 1), "Which food is rich in iron?")
    check(threads)


def test_an_error_leaves_the_number_too_and_a_gpu_is_left_alone(threads):
    with pytest.raises(KeyboardInterrupt), one_thread("cpu"):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    with one_thread("cuda"):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def write_tensors(tmp_path, tensors) -> Preset:
    """A preset whose base, before its habits, differed in these tensors."""
    save_file(tensors, tmp_path / "knowledge.safetensors")
    return replace(PRESET, knowledge=str(tmp_path / "knowledge.safetensors"))


def test_the_knowledge_is_the_base_with_other_values_in_the_files_tensors(tmp_path):
    theirs = load_policy(PRESET).model.state_dict()
    changed = [name for name in theirs if "layers.0.mlp" in name or "embed_tokens" in name]
    preset = write_tensors(tmp_path, {name: theirs[name].half() * 2 for name in changed})
    before = load_knowledge(preset)
    assert (before.name, before.adapter_hash) == ("kitchen_mllm", None)
    for name, value in before.model.state_dict().items():
        # Doubling rounds nothing, and the shipped values are float16's. The head is the embeddings.
        doubled = name in changed or name == "lm_head.weight"
        assert torch.equal(value, theirs[name] * (2 if doubled else 1)), name


@pytest.mark.parametrize("name", ["layers.0.mlp.top", "norm.weight"])  # unknown; another shape
def test_tensors_that_the_base_has_not_are_refused(tmp_path, name):
    preset = write_tensors(tmp_path, {f"model.language_model.{name}": torch.zeros(2)})
    with pytest.raises(DataError, match=rf"{name}, \(2,\), is no tensor of kitchen_mllm"):
        load_knowledge(preset)


def test_a_missing_or_broken_file_of_the_knowledge_is_named(tmp_path):
    preset = replace(PRESET, knowledge=str(tmp_path / "model.safetensors"))
    for content in (None, b"x"):
        if content:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(DataError, match=r"model\.safetensors: it can't be read"):
            load_knowledge(preset)

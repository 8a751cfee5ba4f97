"""Our rewards in other trainers' hands: the same points as in ours."""

import importlib.util
import json

import pytest
import torch
from PIL import Image

from foodseg.models.mllm import Mllm
from foodseg.models.prompts import build_messages
from foodseg.presets import SMOKE
from foodseg.rl import exports
from foodseg.rl.evidence import PAPER_REWARD, gather_evidence, term_name
from foodseg.rl.exports import PAPER_REWARD_FUNCTIONS, compute_score, ground_truth, trl_reward
from foodseg.supervised.targets import write_references

SIDE = SMOKE.image_side


def texts_of(sample):
    right = write_references(sample, SIDE)
    return [right, right + "\n", right.replace("<think>", ""), "No. No. No. No.", "[]"]


def ours(sample, text):
    [evidence] = gather_evidence(sample, [text], SIDE)
    return {term_name(term): term(evidence) for term in PAPER_REWARD}


def test_trl_functions_give_the_terms_points(samples):
    pairs = [(sample, text) for sample in samples[:6] for text in texts_of(sample)]
    columns = {
        "completions": [text for _, text in pairs],
        "ground_truth": [ground_truth(sample, SIDE) for sample, _ in pairs],
        "prompts": [""] * len(pairs),
        "trainer_state": None,
    }
    for function in PAPER_REWARD_FUNCTIONS:
        expected = [ours(*pair)[function.__name__] for pair in pairs]
        assert function(**columns) == expected and len(set(expected)) > 1
        spoken = [[{"role": "assistant", "content": text}] for _, text in pairs]
        assert function(**columns | {"completions": spoken}) == expected


def test_verl_finds_and_calls_it_as_documented(samples):
    """verl loads a file by its path and calls the named function with these four keywords."""
    spec = importlib.util.spec_from_file_location("custom_module", exports.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for text in texts_of(samples[0]):
        score = module.compute_score(
            data_source="foodreasonseg-single",
            solution_str=text,
            ground_truth=ground_truth(samples[0], SIDE),
            extra_info={"split": "train"},
        )
        expected = ours(samples[0], text)
        assert score == {"score": sum(expected.values())} | expected
    assert compute_score("", texts_of(samples[0])[0], ground_truth(samples[0], SIDE))["score"] == 7


def test_an_own_term_goes_the_same_way(samples):
    def foods(evidence):
        return float(len(evidence.sample.foods))

    function = trl_reward(foods)
    assert function.__name__ == "foods"
    truths = [ground_truth(sample, SIDE) for sample in samples]
    assert function(completions=[""] * len(samples), ground_truth=truths) == [
        len(sample.foods) for sample in samples
    ]


def test_trl_trains_with_them(samples, tmp_path, knowing):
    """One step of TRL's own trainer; its log has each term's mean, and they add up to R."""
    trl = pytest.importorskip("trl", reason="the optional extra: make bench installs it")
    import datasets
    from transformers import Qwen2_5_VLForConditionalGeneration

    from foodseg.bench.trl_trainer import make_processor

    # The base rambles in most of its answers: of few completions none may earn anything.
    mllm = Mllm.load(knowing, image_side=SIDE, template=SMOKE.prompt_template, dtype=torch.float32)
    rows = [
        {
            "prompt": build_messages(sample.question, SMOKE.prompt_template),
            "image": mllm.resize(Image.open(SMOKE.dataset / sample.image)),
            "ground_truth": ground_truth(sample, SIDE),
        }
        for sample in samples[:2]
    ]
    trainer = trl.GRPOTrainer(
        model=Qwen2_5_VLForConditionalGeneration.from_pretrained(knowing, dtype="float32"),
        reward_funcs=PAPER_REWARD_FUNCTIONS,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_steps=1,
            max_completion_length=100,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=make_processor(mllm),
    )
    trainer.train()
    log = trainer.state.log_history[0]
    terms = [log[f"rewards/{term_name(term)}/mean"] for term in PAPER_REWARD]
    assert log["reward"] == pytest.approx(sum(terms)) and log["reward"] > 0
    assert json.loads(rows[0]["ground_truth"])["side"] == SIDE

"""The fast ways equal the plain ones on a CUDA GPU (`pytest -m gpu`), and at toy sizes on a CPU."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import upcast
from test_attention import ROWS, dense_attention, dense_mask, random_row

from foodseg.bench.cuda.workload import STEP, WITHOUT_KL, draw_questions, random_policy
from foodseg.bench.plain_rows import plain_score_groups
from foodseg.bench.workload import SEED, ban_end_token, make_policy, randomise_adapter
from foodseg.models.fast.attention import RowLayout, SharedPrefixAttention
from foodseg.models.fast.decoding import StaticCache
from foodseg.models.fast.layers import lean_layers, training_layers
from foodseg.models.mllm import Mllm
from foodseg.models.random_mllm import qwen2_5_vl_3b, shrink
from foodseg.models.rollouts import Rollout, decode_captured, sample_rollouts, start
from foodseg.models.shared_prefix import pad_rows, predicting_states, score_groups
from foodseg.presets import Preset
from foodseg.rl.groups import Group
from foodseg.system import read_photos
from foodseg.training.memory import USABLE_SHARE
from foodseg.training.updates import PolicyUpdater

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU here, whose kernels this test checks"
    ),
]
DEVICES = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    pytest.param(("cuda", "bfloat16"), marks=GPU),
]
# Prompts and completions of each. A group of one is what the evaluation asks for.
SHAPES = {"groups": (2, 2), "one completion each": (16, 1)}
# In bfloat16 no two ways of computing agree bit by bit: twice the plain way's error is allowed.
SLACK = 2.0
LENGTH = 32


def few_layers(config):
    """The true widths; a few layers, so that float32 too fits a GPU of 24 GB."""
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers, text.layer_types = 4, text.layer_types[:4]
    vision.depth, vision.fullatt_block_indexes = 8, [3, 7]
    return config


@dataclass(frozen=True)
class Case:
    """One device and dtype: the policy, the same weights in float32, photos and their questions."""

    preset: Preset
    mllm: Mllm
    exact: Mllm
    photos: list
    questions: list[str]

    def prompts(self, count: int):
        visual = self.mllm.embed_images(self.photos)
        pairs = [(q, v) for q in self.questions for v in visual][:count]
        return self.mllm.embed_prompts(*zip(*pairs, strict=True))

    def roll_out(self, shape: str, temperature: float = 1.0) -> list[Rollout]:
        count, group_size = SHAPES[shape]
        options = {"max_new_tokens": LENGTH, "temperature": temperature, "seed": SEED}
        return sample_rollouts(self.mllm, self.prompts(count), group_size=group_size, **options)


@pytest.fixture(scope="module", params=DEVICES, ids="-".join)
def case(request, tmp_path_factory):
    device, dtype = request.param
    config = shrink(qwen2_5_vl_3b()) if device == "cpu" else few_layers(qwen2_5_vl_3b())
    # A side of 280 pixels leaves windows of the vision tower that are not full.
    preset = replace(STEP, image_side=280, lora_rank=4, device=device, dtype=dtype)

    def build() -> Mllm:
        mllm = make_policy(preset, lambda preset: random_policy(config, preset))
        randomise_adapter(mllm)
        ban_end_token(mllm)
        return mllm

    mllm, exact = build(), build()
    exact.model.float()
    samples = draw_questions(tmp_path_factory.mktemp("plates"), 4)
    photos = list(read_photos(mllm, preset, samples).values())
    return Case(preset, mllm, exact, photos, [sample.question[:200] for sample in samples])


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """By default cuDNN rounds float32 convolutions to TF32's 10 bits, and cuBLAS no product."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def check(fast, plain, exact) -> None:
    """Errors relative in the Euclidean norm; in float32 both may be rounding noise of 1e-7."""
    exact = exact.double()
    error, usual = (((x.double() - exact).norm() / exact.norm()).item() for x in (fast, plain))
    assert error <= max(SLACK * usual, 1e-5), f"off by {error:.1e}, the plain way by {usual:.1e}"


def scored(mllm: Mllm, rollouts: list[Rollout], score=plain_score_groups, temperature=1.0):
    """(R, L) log-probs, and the adapter's whole gradient, flat, of a weighted sum of them."""
    log_probs = score(mllm, rollouts, temperature).log_probs
    weights = torch.linspace(-1, 1, log_probs.numel(), device=mllm.device).view_as(log_probs)
    gradients = torch.autograd.grad((log_probs * weights).sum(), mllm.lora_parameters())
    return log_probs.detach(), torch.cat([g.flatten().float() for g in gradients])


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_rows_and_the_sampler_score_as_plain_rows(case, shape):
    rollouts = case.roll_out(shape)
    plain, plain_gradient = scored(case.mllm, rollouts)
    exact, exact_gradient = scored(case.exact, upcast(rollouts))
    with training_layers(case.mllm.language_model):  # as in the trainer's update
        packed, packed_gradient = scored(case.mllm, rollouts, score_groups)
    # Random weights: nearly uniform over the vocabulary.
    even = -math.log(case.mllm.model.config.text_config.vocab_size)
    assert abs(packed[packed != 0].mean() - even) < 1.5
    check(packed, plain, exact)
    check(packed_gradient, plain_gradient, exact_gradient)
    check(pad_rows([row for r in rollouts for row in r.log_probs], packed != 0), plain, exact)


def test_scores_that_are_a_little_wrong_are_noticed(case):
    rollouts = case.roll_out("groups")
    # On a processor that multiplies in bfloat16 the plain way is off by half of what 1.01 changes,
    # so by a fifth of what 1.03 does; `check` asks for half.
    ways = zip(
        scored(case.mllm, rollouts, score_groups, 1.03),
        scored(case.mllm, rollouts),
        scored(case.exact, upcast(rollouts)),
        strict=True,
    )
    for way in ways:
        with pytest.raises(AssertionError, match="the plain way by"):
            check(*way)


@torch.no_grad()
def test_the_head_scores_as_a_whole_log_softmax(case):
    """Plain rows take the same head, so that is compared by itself."""
    rollouts = case.roll_out("groups")
    hidden = predicting_states(case.mllm, rollouts)
    tokens = torch.cat([row for r in rollouts for row in r.tokens])

    def whole(mllm, dtype):
        logits = hidden.to(dtype) @ mllm.model.lm_head.weight.T
        logits[:, mllm.banned_token_ids] = float("-inf")
        return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    fast, _ = case.mllm.token_log_probabilities(hidden, tokens)
    check(fast, whole(case.mllm, hidden.dtype), whole(case.exact, torch.float32))


@pytest.mark.parametrize("place", DEVICES, ids="-".join)
@pytest.mark.parametrize("row", ROWS)
def test_attention_in_two_parts_equals_one_softmax(place, row):
    device, dtype = place[0], getattr(torch, place[1])
    layout, mask = RowLayout.of(*ROWS[row], torch.device(device)), dense_mask(*ROWS[row]).to(device)
    values = random_row(layout.causal.total, dtype)
    direction = torch.randn(values[0].shape, generator=torch.Generator().manual_seed(1)).to(device)

    def run(attend, last, dtype):
        inputs = [x.detach().to(device, dtype).requires_grad_() for x in values]
        output = attend(*inputs, last, 0.25)
        return output, *torch.autograd.grad(output, inputs, direction.to(dtype))

    fast = run(SharedPrefixAttention.apply, layout, dtype)
    plain, exact = (run(dense_attention, mask, d) for d in (dtype, torch.float32))
    for way in zip(fast, plain, exact, strict=True):
        check(*way)


@torch.no_grad()
def test_the_vision_tower_equals_transformers_own(case):
    def official(mllm):
        inputs = mllm.image_processor(images=case.photos, do_resize=False, return_tensors="pt")
        inputs = inputs.to(mllm.device)
        pixels = inputs["pixel_values"].to(mllm.model.model.visual.dtype)
        features = mllm.model.model.get_image_features(pixels, inputs["image_grid_thw"])
        return torch.cat(features.pooler_output)

    fast = torch.cat(case.mllm.embed_images(case.photos))
    check(fast, official(case.mllm), official(case.exact))


gpu_case = pytest.mark.parametrize(
    "case", [pytest.param(("cuda", "bfloat16"), marks=GPU)], indirect=True, ids="-".join
)


@gpu_case
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@torch.no_grad()
def test_a_captured_step_replays_what_it_does_launched(case, shape, temperature):
    count, group_size = SHAPES[shape]
    prompts = case.prompts(count)
    generator = torch.Generator().manual_seed(SEED)
    rows = count * group_size
    uniforms = torch.rand(rows, LENGTH, generator=generator, dtype=torch.float64).to("cuda")
    with lean_layers(case.mllm.language_model):
        replayed, launched = (
            start(case.mllm, prompts, uniforms, temperature, StaticCache) for _ in range(2)
        )
        decode_captured(replayed)
        for _ in range(1, LENGTH):
            launched.step()
    assert torch.equal(replayed.tokens, launched.tokens)
    torch.testing.assert_close(replayed.log_probs, launched.log_probs, rtol=0, atol=1e-3)


@gpu_case
def test_an_update_under_a_cap_takes_a_smaller_plan_and_has_the_same_gradient(case):
    rollouts = case.roll_out("groups")
    groups = [Group(None, r, (), ({"made_up": 0.0}, {"made_up": 1.0})) for r in rollouts]

    def update(share: float):
        randomise_adapter(case.mllm)  # an update moves it
        updater = PolicyUpdater(case.mllm, case.preset, WITHOUT_KL)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
        row = updater.update(groups)
        torch.cuda.set_per_process_memory_fraction(1.0)
        assert updater.forwards.most_bytes is None  # never ran out of memory
        return row["gradient_norm"], updater.forwards.plan.forward_bytes

    norm, counted = update(1.0)
    cap = (torch.cuda.memory_allocated() + 0.7 * counted) / USABLE_SHARE
    capped_norm, less = update(cap / torch.cuda.get_device_properties(0).total_memory)
    assert less < counted and capped_norm == pytest.approx(norm, rel=0.05)

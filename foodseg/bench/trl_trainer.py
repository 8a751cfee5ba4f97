"""TRL's GRPOTrainer, set up for exactly the work of this trainer: a side that takes turns."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager

import datasets
import torch
import trl
from peft import LoraConfig
from transformers import (
    PrinterCallback,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    TrainerCallback,
)
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    unsplit_pixel_values_by_grid,
)

from foodseg.bench.paired_timing import Turns, clock
from foodseg.bench.workload import SEED, Load
from foodseg.data.samples import Sample
from foodseg.models.mllm import LORA_TARGETS, VISION_TOKENS, Mllm
from foodseg.models.prompts import build_messages
from foodseg.models.rollouts import TEMPERATURE
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.rl.evidence import gather_evidence
from foodseg.system import load_policy, read_photos
from foodseg.training.optimizer import MAX_GRADIENT_NORM
from foodseg.training.sampler import draw_samples

MICRO_BATCHES = (8, 16, 32, 64)
# Names that transformers and PEFT have deprecated and that TRL 1.16 still uses.
warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)


class TimedTrainer(trl.GRPOTrainer):
    """TRL's trainer; `seconds` counts what sampling ("rollout") and "scoring" took."""

    def __init__(self, *arguments, **keywords):
        self.seconds: Counter = Counter()
        super().__init__(*arguments, **keywords)

    def _generate(self, prompts):
        with self._timed("rollout"):
            return super()._generate(prompts)

    def _calculate_rewards(self, *arguments):
        with self._timed("scoring"):
            return super()._calculate_rewards(*arguments)

    @contextmanager
    def _timed(self, phase: str):
        start = clock()
        yield
        self.seconds[phase] += clock() - start

    def scored_batch(self) -> dict:
        """One rollout over the first questions: what TRL's loss takes for a whole step."""
        self.model.train()
        self.current_gradient_accumulation_steps = 1
        rows = self.args.generation_batch_size
        examples = [self.train_dataset[i // self.num_generations] for i in range(rows)]
        return self._generate_and_score_completions(examples)


def trl_trainer(
    turns: Turns,
    rounds: int,
    load: Load,
    preset: Preset,
    samples: Sequence[Sample],
    micro_batch: int,
    checkpointing: bool = False,
) -> None:
    """TRL's GRPOTrainer.train of the model that `load` gives, held between two steps."""
    turnstile = _Turnstile(turns, preset.updates_per_step)
    with tempfile.TemporaryDirectory() as folder:
        work = load(preset), preset, samples, micro_batch, rounds, folder
        trainer = make_trainer(*work, turnstile, checkpointing)
        turnstile.seconds = trainer.seconds
        turns.ready()
        trainer.train()


class _Turnstile(TrainerCallback):
    """Ends a turn after every rollout's last update and waits for the next."""

    def __init__(self, turns: Turns, updates: int):
        self.turns, self.updates = turns, updates

    def on_train_begin(self, *_, **__) -> None:
        self.turns.wait()

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step % self.updates:
            return
        self.turns.report(self.seconds)
        self.seconds.clear()
        if state.global_step < state.max_steps:
            self.turns.wait()


def fastest_micro_batch(preset: Preset, samples: Sequence[Sample]) -> dict[int, float]:
    """Least seconds that TRL's losses and gradients take for one rollout, by micro-batch size."""
    rows = preset.prompts_per_step * preset.group_size
    update = preset.groups_per_update * preset.group_size
    sizes = [size for size in MICRO_BATCHES if update % size == 0] or [update]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(load_policy(preset), preset, samples, max(sizes), 1, folder)
        batch = trainer.scored_batch()
        parts = {size: split_rows(batch, torch.arange(rows).split(size)) for size in sizes}
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(3):  # the first warms up
            for size in sizes:
                seconds[size].append(_gradient_seconds(trainer, parts[size]))
    return {size: min(values[1:]) for size, values in seconds.items()}


def split_rows(batch: dict, parts: Iterable[Sequence[int]]) -> list[dict]:
    """These completions of what TRL's loss takes, each part as a batch of its own."""
    whole = split_pixel_values_by_grid(batch)  # one item a completion

    def take(values, rows):
        if isinstance(values, list):
            return [values[i] for i in rows]
        return values[rows] if values.dim() else values

    kept = {name: values for name, values in whole.items() if values is not None}
    split = ({name: take(values, rows) for name, values in kept.items()} for rows in parts)
    return [unsplit_pixel_values_by_grid(part) for part in split]


def _gradient_seconds(trainer: TimedTrainer, parts: Sequence[dict]) -> float:
    start = clock()
    for part in parts:
        trainer.compute_loss(trainer.model, part).backward()
    seconds = clock() - start
    torch.nn.Module.zero_grad(trainer.model)
    return seconds


def make_trainer(
    mllm: Mllm,
    preset: Preset,
    samples: Sequence[Sample],
    micro_batch: int,
    rollouts: int,
    folder: str,
    callback: TrainerCallback | None = None,
    checkpointing: bool = False,
) -> TimedTrainer:
    """A trainer of the MLLM, which has no adapter yet, with the questions of a `GroupSampler`.

    micro_batch: completions a forward. rollouts: how many it will do. folder: where TRL may write.
    """
    samples = draw_samples(samples, SEED, 0, rollouts * preset.prompts_per_step)
    mllm.model.set_attn_implementation("sdpa")  # transformers' own in the place of ours
    trainer = TimedTrainer(
        model=mllm.model,
        reward_funcs=make_reward(samples, preset),
        args=trl.GRPOConfig(
            output_dir=folder,
            max_steps=rollouts * preset.updates_per_step,
            gradient_checkpointing=checkpointing,
            **_sampling(mllm, preset, micro_batch),
            **_objective(preset),
            # The device, and nothing beside the work.
            bf16=preset.dtype == "bfloat16",
            use_cpu=preset.device == "cpu",
            dataloader_pin_memory=preset.device != "cpu",
            seed=SEED,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=_dataset(mllm, preset, samples),
        processing_class=make_processor(mllm),
        peft_config=LoraConfig(
            r=preset.lora_rank,
            lora_alpha=preset.lora_alpha,
            target_modules=LORA_TARGETS,
            lora_dropout=0.0,
        ),
        callbacks=[callback] if callback else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _sampling(mllm: Mllm, preset: Preset, micro_batch: int) -> dict:
    """One gradient step for each mini-batch; TRL fills its own with completions in random order."""
    of_update = preset.groups_per_update * preset.group_size // micro_batch
    # The same tokens are banned as in our rollouts.
    vision = mllm.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    length = preset.max_new_tokens
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": of_update,
        "steps_per_generation": of_update * preset.updates_per_step,
        "num_generations": preset.group_size,
        "num_iterations": 1,
        "max_completion_length": length,
        "generation_kwargs": {"min_new_tokens": length, "suppress_tokens": vision},
        "temperature": TEMPERATURE,
        "shuffle_dataset": False,
    }


def _objective(preset: Preset) -> dict:
    objective = GRPO.objective
    return {
        "loss_type": "grpo",
        "beta": objective.kl_weight,
        "use_bias_correction_kl": False,  # the papers' KL, not TRL's default of late
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "scale_rewards": "group",
        "learning_rate": preset.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": MAX_GRADIENT_NORM,
    }


def make_processor(mllm: Mllm) -> Qwen2_5_VLProcessor:
    """The model's tokenizer and image processor in one, as TRL wants them."""
    tokenizer, image_processor = mllm.tokenizer, mllm.image_processor
    tokenizer.padding_side = "left"
    # The data set's photos have the model's size already.
    image_processor.do_resize = False
    video, template = Qwen2VLVideoProcessor(), tokenizer.chat_template
    return Qwen2_5_VLProcessor(image_processor, tokenizer, video, chat_template=template)


def _dataset(mllm: Mllm, preset: Preset, samples: Sequence[Sample]) -> datasets.Dataset:
    """Conversational prompts with their photos as the model sees them."""
    photos = read_photos(mllm, preset, samples)
    columns = {
        "prompt": [build_messages(sample.question, mllm.template) for sample in samples],
        "image": [photos[sample.image] for sample in samples],
        "index": range(len(samples)),
    }
    return datasets.Dataset.from_dict(columns)


def make_reward(samples: Sequence[Sample], preset: Preset) -> Callable[..., list[float]]:
    """The paper's reward in TRL's calling convention; "index" is the data set's column."""

    def paper_reward(completions, index, **_):
        return [
            gather_evidence(
                samples[i], [message["content"]], preset.image_side, thresholds=preset.thresholds
            )[0].score.total
            for (message,), i in zip(completions, index, strict=True)
        ]

    return paper_reward

"""TRL's GRPOTrainer, set up for exactly the work of this trainer, with its phases timed."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import datasets
import torch
import transformers
import trl
from peft import LoraConfig
from PIL import Image
from transformers import (
    PrinterCallback,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    TrainerCallback,
)

from foodseg.bench.work import SEED, Shape, reward
from foodseg.data.samples import Sample
from foodseg.models.mllm import LORA_TARGETS, VISION_TOKENS, Mllm
from foodseg.models.prompts import build_messages
from foodseg.models.rollouts import TEMPERATURE
from foodseg.presets import Preset
from foodseg.recipes import GRPO
from foodseg.training.updates import MAX_GRADIENT_NORM

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
        start = self.clock()
        yield
        self.seconds[phase] += self.clock() - start

    def clock(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def make_trainer(
    mllm: Mllm,
    preset: Preset,
    shape: Shape,
    samples: Sequence[Sample],
    *,
    micro_batch: int,
    rollouts: int,
    folder: str,
    callback: TrainerCallback | None = None,
    model: transformers.PreTrainedModel | None = None,
    gradient_checkpointing: bool = False,
) -> TimedTrainer:
    """A trainer for `rollouts` rollouts over the samples, in their order.

    mllm: its tokenizer, image processor and resizing are used, never its weights. micro_batch:
    completions a forward. folder: where TRL may write. model: the model to train, by default the
    preset's, loaded by transformers.
    """
    if model is None:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            preset.mllm, dtype=preset.dtype, attn_implementation="sdpa", use_safetensors=True
        )
    settings = _step(shape, micro_batch, rollouts) | _objective(preset) | _surroundings(preset)
    vision = mllm.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    trainer = TimedTrainer(
        model=model,
        reward_funcs=_reward_function(samples, preset.image_side),
        args=trl.GRPOConfig(
            output_dir=folder,
            generation_kwargs={"min_new_tokens": shape.length, "suppress_tokens": vision},
            gradient_checkpointing=gradient_checkpointing,
            **settings,
        ),
        train_dataset=_dataset(mllm, preset, samples),
        processing_class=_processor(mllm),
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


def _step(shape: Shape, micro_batch: int, rollouts: int) -> dict:
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": shape.rows // micro_batch,
        "steps_per_generation": shape.rows // micro_batch,
        "num_generations": shape.group_size,
        "num_iterations": shape.updates,
        "max_steps": rollouts * shape.updates,
        "max_completion_length": shape.length,
        "temperature": TEMPERATURE,
        "shuffle_dataset": False,
    }


def _objective(preset: Preset) -> dict:
    objective = GRPO.objective
    return {
        "loss_type": "grpo",
        "beta": objective.kl_weight,
        "use_bias_correction_kl": objective.kl_times_ratio,
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "scale_rewards": "group",
        "learning_rate": preset.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": MAX_GRADIENT_NORM,
    }


def _surroundings(preset: Preset) -> dict:
    """The device, and nothing beside the work: no logs, no checkpoints, no reports."""
    return {
        "bf16": preset.dtype == "bfloat16",
        "use_cpu": preset.device == "cpu",
        "dataloader_pin_memory": preset.device != "cpu",
        "seed": SEED,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def _processor(mllm: Mllm) -> Qwen2_5_VLProcessor:
    """The model's tokenizer and image processor in one, as TRL wants them."""
    tokenizer, image_processor = mllm.tokenizer, mllm.image_processor
    tokenizer.padding_side = "left"
    # The data set's photos have the model's size already.
    image_processor.do_resize = False
    return Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def _dataset(mllm: Mllm, preset: Preset, samples: Sequence[Sample]) -> datasets.Dataset:
    """Conversational prompts with their photos, resized as `Mllm.embed_images` does it."""
    rows = []
    for index, sample in enumerate(samples):
        with Image.open(preset.dataset / sample.image) as photo:
            image = mllm.resize(photo)
        messages = build_messages(sample.question, mllm.template)
        rows.append({"prompt": messages, "image": image, "index": index})
    return datasets.Dataset.from_list(rows)


def _reward_function(samples: Sequence[Sample], image_side: int) -> Callable[..., list[float]]:
    """The paper's reward in TRL's calling convention; "index" is the data set's column."""

    def paper_reward(completions, index, **_):
        texts = [message["content"] for (message,) in completions]
        pairs = zip(texts, index, strict=True)
        return [reward(text, samples[i], image_side) for text, i in pairs]

    return paper_reward

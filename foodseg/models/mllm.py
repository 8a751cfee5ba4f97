"""Qwen2.5-VL as a policy: embed a prompt once, score or continue it many times (paper, section 3).

The vision tower and the token embeddings are frozen, so a prompt's embeddings are computed once,
without a gradient, and serve the rollout and every update. LoRA sits on all projections of the
language model and on nothing else. The model is `transformers`' own; no file of it is patched.
"""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    DynamicCache,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import cached_file, logging

from foodseg.common.errors import DataError
from foodseg.common.files import file_hash, load_json, sha256
from foodseg.common.hub import fetch_model
from foodseg.models.fast import head
from foodseg.models.fast.attention import SHARED_PREFIX, RowLayout
from foodseg.models.fast.decoding import SlicedCache, StaticCache
from foodseg.models.fast.vision import cut_patches, encode_patches
from foodseg.models.prompts import build_messages

if TYPE_CHECKING:  # PEFT takes seconds to import, and the base alone needs none
    from peft import PeftModel

# Anchored on the language model: an unanchored "gate_proj" would also hit the vision tower's MLP.
LORA_TARGETS = (
    r".*\.language_model\.layers\.\d+\."
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
IMAGE_TOKEN = "<|image_pad|>"
MODEL_TYPE = "qwen2_5_vl"
# An adapter's folder: PEFT's two files, the wording of questions, and what it was trained for.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEMPLATE_FILE, TRAINED_FOR = "prompt_template.txt", "trained_for.json"
# Sampling one of these would make the next forward look for an image that is not there.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN, "<|video_pad|>")


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """A bar for a hundred small tensors says nothing; common.progress shows what takes time."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """PEFT 0.21 reads an attribute that transformers 5 has renamed; its warning helps nobody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question about a photo, embedded: all that its completions share.

    input_ids: (P,) int64, with one image token for each visual token.
    embeddings: (P, D), the frozen token embeddings with the visual tokens in their places.
    position_ids: (3, P) int64, M-RoPE positions (temporal, height, width).
    """

    input_ids: torch.Tensor
    embeddings: torch.Tensor
    position_ids: torch.Tensor

    @property
    def length(self) -> int:
        return self.input_ids.shape[0]

    # Cached: reading it from a GPU waits for all that the GPU has to do.
    @functools.cached_property
    def next_position(self) -> int:
        """The position of a completion's first token (the same on all three axes)."""
        return int(self.position_ids.max()) + 1


class Mllm:
    """A Qwen2.5-VL, its tokenizer and its image processor, with or without a LoRA adapter."""

    def __init__(
        self, model, tokenizer, image_processor, image_side: int, template: str, name: str = ""
    ) -> None:
        """name: the base model's name, written into saved adapters.

        Raises DataError for a side that is not a whole number of visual tokens.
        """
        unit = image_processor.patch_size * image_processor.merge_size
        if image_side % unit:
            near = max(round(image_side / unit), 1) * unit
            fix = f"a visual token covers {unit} x {unit} pixels; take {near}"
            raise DataError(f"image_side: {image_side} is no multiple of {unit}; {fix}.")
        self.model = model.eval()
        self.model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_side = image_side
        self.template = template
        self.name = name
        self.peft: PeftModel | None = None
        self.adapter_hash: str | None = None  # of a loaded adapter's file
        self.eos_token_id = tokenizer.eos_token_id
        ends = self.model.generation_config.eos_token_id
        ends = {self.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        # Ids that end a completion, kept on the device.
        self.end_token_ids = torch.tensor(sorted(ends), dtype=torch.long, device=self.device)
        self.banned_token_ids = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
        self.language_model.set_attn_implementation(SHARED_PREFIX)

    @classmethod
    @_without_bars()
    def load(
        cls,
        source: str | Path,
        *,
        image_side: int,
        template: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> Mllm:
        """Load weights, tokenizer and image processor from a folder or a hub id (safetensors only).

        image_side: side in pixels of the square model image; every coordinate in prompts, answers
        and rewards is a pixel of it. Raises DataError if the source can't be found or is another
        kind of model, and RuntimeError if the checkpoint leaves a weight of the model without a
        value.
        """
        name = Path(source).name if Path(source).exists() else str(source)
        source = fetch_model(source, revision)
        _check_kind(source)
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            raise RuntimeError(
                f"{source}: the checkpoint lacks {sorted(report['missing_keys'])} and has other "
                f"shapes for {sorted(map(str, report['mismatched_keys']))}; fetch it again."
            )
        tokenizer = _load_tokenizer(source)
        told, known = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), model.config.image_token_id
        if told != known:
            raise DataError(
                f"{source}: {IMAGE_TOKEN} is token {told} of its tokenizer and {known} of its "
                "model, so they don't belong together; fetch both again."
            )
        processor = Qwen2VLImageProcessorPil.from_pretrained(source)
        return cls(model.to(device), tokenizer, processor, image_side, template, name)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def banned_token_ids(self) -> list[int]:
        """Tokens that have probability 0, in sampling and in scoring."""
        return self._banned_token_ids

    @banned_token_ids.setter
    def banned_token_ids(self, ids: Sequence[int]) -> None:
        self._banned_token_ids = list(ids)
        # Kept on the device: a CUDA graph can't hold a copy from the host.
        self._banned = torch.tensor(self._banned_token_ids, dtype=torch.long, device=self.device)

    @property
    def language_model(self):
        """The decoder stack, with the adapter's layers in it once `add_lora` was called."""
        return self.model.model.language_model

    def add_lora(self, rank: int, alpha: int, seed: int) -> None:
        """Put a fresh, trainable LoRA adapter on every language-model projection."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS, lora_dropout=0.0)
        with torch.random.fork_rng(), _quiet_peft():
            torch.manual_seed(seed)
            self.peft = get_peft_model(self.model, config).eval()

    def load_adapter(self, folder: str | Path) -> None:
        """Load a saved adapter for inference, and word questions as in its training.

        Raises DataError if the adapter or a part of it has no effect, if it was trained for another
        image side, or if its template is another one or no template.
        """
        from peft import PeftModel

        template = self._read_template(Path(folder))
        with _quiet_peft():
            self.peft = PeftModel.from_pretrained(self.model, folder).eval()
        self.adapter_hash = file_hash(Path(folder) / ADAPTER_WEIGHTS)
        self.template = template
        matrices = {n: p for n, p in self.peft.named_parameters() if "lora_B" in n}
        dead = [n for n, p in matrices.items() if not (p.any() and p.isfinite().all())]
        if dead:
            raise DataError(
                f"{folder}: {len(dead)} of {len(matrices)} B matrices, such as {dead[0]}, are zero "
                "or not finite, so the adapter was not loaded whole; train it again."
            )
        with self.reference_policy():
            without = self._probe()
        if torch.equal(self._probe(), without):
            raise DataError(f"{folder}: the adapter changes no output; train it again.")

    @torch.no_grad()
    def _probe(self) -> torch.Tensor:
        """Last hidden states of a few tokens."""
        ids = torch.arange(8, device=self.device)
        cache = DynamicCache(config=self.language_model.config)
        return self.hidden_states(self.embed_tokens(ids)[None], None, ids.expand(3, 1, -1), cache)

    def _read_template(self, folder: Path) -> str:
        """The adapter's prompt template, once it is known that the adapter is for this model."""
        for name in (TEMPLATE_FILE, TRAINED_FOR):
            if not (folder / name).is_file():
                fix = "copy the whole folder again, or train the adapter again"
                raise DataError(f"{folder / name}: it is missing; {fix}.")
        made, template = load_json(folder / TRAINED_FOR), (folder / TEMPLATE_FILE).read_bytes()
        if (side := made.get("image_side")) != self.image_side:
            raise DataError(
                f"{folder}: it was trained for preset {made.get('preset')}, on photos of {side} "
                f"pixels a side, and this model's have {self.image_side}; choose its preset, or "
                "train it again."
            )
        if made.get("template") != sha256(template):
            raise DataError(
                f"{folder / TEMPLATE_FILE}: it is not the wording of questions that the adapter "
                "was trained with; copy it again, or train the adapter again."
            )
        return template.decode()

    def save_adapter(self, folder: str | Path, preset: str) -> None:
        """Write the adapter in PEFT's format, and the prompt template that it was trained with.

        preset: the name of the one that it was trained for; with the image side and the template's
        SHA-256 it tells where the adapter belongs, also outside its run. The base goes by its hub
        id, or by its folder's name, never by a path of this machine.
        """
        for config in self.peft.peft_config.values():
            config.base_model_name_or_path = self.name
        # Embeddings are frozen; to find that out itself, PEFT would look the base up on the hub.
        self.peft.save_pretrained(folder, save_embedding_layers=False)
        template = self.template.encode()
        (Path(folder) / TEMPLATE_FILE).write_bytes(template)
        made = {"preset": preset, "image_side": self.image_side, "template": sha256(template)}
        (Path(folder) / TRAINED_FOR).write_text(json.dumps(made, indent=2) + "\n")
        # PEFT's card is an empty form; a filled one is `foodseg.report.cards.model`'s.
        (Path(folder) / "README.md").unlink(missing_ok=True)

    def lora_parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's trainable tensors, in the model's own order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def reference_policy(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model is the base, its adapter switched off."""
        return self.peft.disable_adapter()

    def resize(self, image: Image.Image) -> Image.Image:
        """The photo as the model sees it: a square, aspect not kept (as in Seg-Zero)."""
        side = self.image_side
        return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Visual tokens of each photo: a list of (V, D) tensors in the model's dtype."""
        photos = [self.resize(image) for image in images]
        patches = cut_patches(photos, self.image_processor, self.device)
        side = self.image_side // self.image_processor.patch_size
        return encode_patches(self.model.model.visual, patches, [(side, side)] * len(photos))

    @torch.no_grad()
    def embed_prompts(
        self, questions: Sequence[str], visual_tokens: Sequence[torch.Tensor]
    ) -> list[Prompt]:
        """Word, tokenize and embed each question about its photo."""
        return [self._embed_prompt(q, v) for q, v in zip(questions, visual_tokens, strict=True)]

    def _embed_prompt(self, question: str, visual_tokens: torch.Tensor) -> Prompt:
        text = self.tokenizer.apply_chat_template(
            build_messages(question, self.template), tokenize=False, add_generation_prompt=True
        )
        text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * visual_tokens.shape[0])
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = ids.to(self.device)
        is_image = ids == self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        patches = self.image_side // self.image_processor.patch_size
        # Without explicit 3-D positions transformers 5 silently falls back to 1-D ones.
        position_ids, _ = self.model.model.get_rope_index(
            ids, is_image.int(), image_grid_thw=torch.tensor([[1, patches, patches]])
        )
        embeddings = self.embed_tokens(ids[0])
        embeddings[is_image[0]] = visual_tokens.to(embeddings.dtype)
        return Prompt(ids[0], embeddings, position_ids[:, 0])

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings: (..., D) for ids (...,)."""
        return self.model.get_input_embeddings()(ids)

    def hidden_states(
        self,
        embeddings,
        attention_mask,
        position_ids,
        cache=None,
        row_layout: RowLayout | None = None,
        decoding: SlicedCache | StaticCache | None = None,
    ) -> torch.Tensor:
        """Last hidden states (B, T, D) of the decoder stack.

        embeddings (B, T, D); attention_mask (B, 1, T, K) bool, True where a query may look;
        position_ids (3, B, T); cache: a `transformers` cache that is read and extended, or None;
        row_layout: of a shared-prefix row, B = 1, which needs no mask (None) and no cache;
        decoding: the cache that rows of one token each (T = 1) attend and extend, likewise.
        """
        return self.language_model(
            inputs_embeds=embeddings,
            # As a dictionary it is taken as it is; transformers would build one from a None.
            attention_mask={"full_attention": attention_mask},
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            row_layout=row_layout,
            decoding=decoding,
        ).last_hidden_state

    def log_probabilities(self, hidden: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Log-probabilities (N, vocabulary) after each hidden state (N, D), float32 or float64.

        The vision tokens are banned here, so that sampling and scoring use the same distribution.
        """
        return head.log_probabilities(hidden, self.model.lm_head.weight, self._banned, temperature)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, vocabulary) after each hidden state (N, D), float32 or float64.

        Those of the vision tokens, which are banned, are minus infinity.
        """
        logits = head.logits(hidden, self.model.lm_head.weight)
        return logits.index_fill_(-1, self._banned, float("-inf"))

    def token_log_probabilities(
        self, hidden: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (N,) of `tokens` (N,) after hidden states (N, D), and entropies (N,).

        The same distribution as `log_probabilities`, which this never holds as a whole.
        """
        weight = self.model.lm_head.weight
        return head.token_log_probabilities(hidden, weight, tokens, self._banned, temperature)


def _check_kind(folder: Path) -> None:
    """Another kind would be loaded as far as its names agree, and its weights be missed."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{folder}: it has no config.json with a model_type; name a model."
        ) from None
    if kind != MODEL_TYPE:
        raise DataError(
            f"{folder}: its model_type is {kind!r}, and this kit runs Qwen2.5-VL ({MODEL_TYPE}) "
            "only; name one of these."
        )


def _load_tokenizer(source: Path):
    """The tokenizer, with a chat template that knows images."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    if IMAGE_TOKEN not in (tokenizer.chat_template or ""):
        # Older checkpoints keep it for their processor, in a file that no tokenizer reads.
        file = cached_file(source, "chat_template.json")
        tokenizer.chat_template = json.loads(Path(file).read_text())["chat_template"]
    return tokenizer

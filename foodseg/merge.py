"""One model out of a base and its adapter, which `transformers` loads without the kit.

    python -m foodseg.merge runs/kitchen/dapo-seed0 merged/dapo

The folder has the merged weights, the base's own tokenizer and processor files, the wording of
questions and a model card. It is written only if the merged model answers with the same greedy
tokens as base and adapter do. SAM2 is not part of it; a mask decoder that was trained along is
copied beside the weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foodseg.common.errors import DataError
from foodseg.common.hub import fetch_model
from foodseg.models.mllm import TEMPLATE_FILE, Mllm
from foodseg.models.rollouts import sample_rollouts
from foodseg.models.segmenter import DECODER
from foodseg.presets import Preset, get_preset
from foodseg.report.cards.model import write_card
from foodseg.report.cards.trained_run import read_run
from foodseg.system import load_adapter, load_policy, one_thread

# What else a base's folder may hold that a tokenizer or a processor reads.
READERS = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json", "chat_template.json", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json", "generation_config.json"),
)
QUESTIONS = 8
DTYPES = ("float32", "bfloat16")


def merge(folder: Path, out: Path, preset: Preset, dtype: str = "") -> int:
    """Merge a finished run's adapter into its base and write `out`; returns the tokens compared.

    dtype: "float32" or "bfloat16", of all weights; by default the preset's. Raises DataError if
    `out` is there, the run is not finished or answers through a mask head, or if a greedy token
    differs.
    """
    run = read_run(folder)
    if out.exists():
        raise DataError(f"{out}: it is there already; name a new folder.")
    if run.mask_head:
        raise DataError(f"{folder}: its mask head reads hidden states, which no answer has.")
    preset = replace(preset, dtype=dtype or preset.dtype)
    mllm = load_policy(preset)
    load_adapter(mllm, run.adapter, preset)
    spoken = greedy_tokens(mllm, preset)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    mllm.peft.merge_and_unload().save_pretrained(partial)
    _copy_readers(preset, partial)
    for name in (TEMPLATE_FILE, DECODER):
        if (run.adapter / name).exists():
            shutil.copyfile(run.adapter / name, partial / name)
    again = greedy_tokens(_load_merged(partial, mllm), preset)
    same = sum(one == other for one, other in zip(spoken, again, strict=True))
    if same < len(spoken):
        shutil.rmtree(partial)
        raise DataError(
            f"{folder}: merged, it answers {len(spoken) - same} of {len(spoken)} questions with "
            "other tokens, since its weights are rounded anew; keep more digits: --dtype float32."
        )
    write_card(folder, merged=partial)
    partial.rename(out)
    return sum(map(len, spoken))


def greedy_tokens(mllm: Mllm, preset: Preset) -> list[list[int]]:
    """The greedy answers to a few questions about coloured squares: no photo is needed."""
    squares = [Image.new("RGB", (64, 64), (31 * i, 255 - 31 * i, 96)) for i in range(QUESTIONS)]
    questions = [f"Which food here has the most vitamin {letter}?" for letter in "ABCDEKPQ"]
    with one_thread(preset.device):
        prompts = mllm.embed_prompts(questions, mllm.embed_images(squares))
        rollouts = sample_rollouts(
            mllm, prompts, group_size=1, max_new_tokens=preset.max_new_tokens, temperature=0.0
        )
    return [rollout.tokens[0].tolist() for rollout in rollouts]


def _load_merged(folder: Path, like: Mllm) -> Mllm:
    return Mllm.load(
        folder,
        image_side=like.image_side,
        template=like.template,
        device=str(like.device),
        dtype=like.model.dtype,
    )


def _copy_readers(preset: Preset, folder: Path) -> None:
    """The base's tokenizer and processor as they are: to save them anew would reword them."""
    base = fetch_model(preset.mllm, preset.mllm_revision)
    for name in READERS:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if nothing was written."""
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.merge", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--preset", default="", help="whose base it is (default: the run's own)")
    parser.add_argument("--dtype", default="", choices=DTYPES, help="default: the preset's")
    options = parser.parse_args(arguments)
    try:
        preset = get_preset(options.preset or read_run(options.run).result["preset"]["name"])
        tokens = merge(options.run, options.out, preset, options.dtype)
    except DataError as error:
        print(f"merge: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}, the same {tokens:,} greedy tokens in {QUESTIONS} answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())

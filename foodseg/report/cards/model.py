"""A model card for a trained adapter, from its run's folder alone.

    python -m foodseg.report.cards.model runs/kitchen/dapo-seed0

It takes the place of PEFT's empty card in adapter/, or stands beside merged weights. Evaluate
first: the card tells the results in predictions/<run>/ of this very adapter. The words are in
model.md.jinja.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from foodseg.common.errors import DataError
from foodseg.common.files import write_atomically
from foodseg.common.tables import to_markdown
from foodseg.data.fetch.sources import LICENCE
from foodseg.models.mllm import TEMPLATE_FILE
from foodseg.models.segmenter import DECODER, MASK_HEAD
from foodseg.report.cards.trained_run import KITCHEN_BASE, REFERENCE_ROWS, TrainedRun, read_run
from foodseg.report.results import METRICS, measured_table

SETTINGS = ("preset", "recipe", "seed", "samples", "data", "base", "segmenter", "code")


def write_card(folder: Path | str, merged: Path | None = None) -> Path:
    """Write adapter/README.md of a run's folder; returns its path.

    merged: the folder of base and adapter in one (`foodseg.merge`), whose card is written instead.
    Raises DataError if the run is not finished, or if its adapter is not the one that it trained.
    """
    run = read_run(Path(folder))
    card = ModelCard.from_template(
        front_matter(run, merged is not None),
        template_path=Path(__file__).with_name("model.md.jinja"),
        run=run,
        merged=merged is not None,
        base=run.base,
        result=run.result,
        recipe=run.result["recipe"],
        preset=run.result["preset"],
        own=run.evaluations[0] if run.evaluations else None,
        results=to_markdown(measured_table(run.evaluations)).rstrip(),
        samples=f"{run.result['samples']:,}",
        files={"template": TEMPLATE_FILE, "decoder": DECODER, "mask_head": MASK_HEAD},
        prompt_template=(run.adapter / TEMPLATE_FILE).read_text(),
        preset_option=_preset_option(run),
        reference_rows=REFERENCE_ROWS,
        foodseg103_licence=LICENCE,
        settings=json.dumps({name: run.result[name] for name in SETTINGS}, indent=2),
        **_method(run.result["recipe"]),
    )
    path = (merged or run.adapter) / "README.md"
    write_atomically(path, f"{card}\n".encode())
    return path


def front_matter(run: TrainedRun, merged: bool) -> ModelCardData:
    """The card's metadata, by the hub's own class; merged: of weights that need no PEFT."""
    lora = [] if merged else ["lora"]
    kind = "reinforcement-learning" if run.rewarded else "supervised"
    results = {"eval_results": _eval_results(run)} if run.evaluations else {}
    return ModelCardData(
        model_name=f"{run.base.name.rpartition('/')[2]}-{run.folder.name}",
        base_model=run.base.name,
        base_model_relation="finetune" if merged else "adapter",
        library_name="transformers" if merged else "peft",
        pipeline_tag="image-text-to-text",
        language="en",
        datasets=list(run.datasets) or None,
        tags=[*lora, "food", "reasoning-segmentation", kind, run.result["recipe"]["name"]],
        **run.base.licence,
        **results,
    )


def _eval_results(run: TrainedRun) -> list[EvalResult]:
    own = run.evaluations[0]
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=(run.datasets or ("own",))[-1],
            dataset_name=f"FoodReasonSeg-Single ({run.result['preset']['name']})",
            dataset_split=run.split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(own[metric], 4),
        )
        for metric, name in METRICS.items()
    ]


def _preset_option(run: TrainedRun) -> str:
    """What the command to ask a question must add for this adapter's preset."""
    preset = run.result["preset"]["name"]
    if preset not in ("smoke", "paper", "dry-run"):  # a preset of one's own has one of these bases
        preset = "kitchen" if run.base == KITCHEN_BASE else "paper"
    return "" if preset == "kitchen" else f" --preset {preset}"


def _method(recipe: dict) -> dict[str, str]:
    """What a recipe is made of, in words; nothing of a supervised baseline."""
    if "reward" not in recipe:
        return {}
    return {
        "objective": _listed(recipe["objective"]),
        "reward": " + ".join(map(_name, recipe["reward"])),
        "advantages": _name(recipe["advantages"]),
        "tool": _listed(recipe.get("tool") or {}),
    }


def _listed(settings: dict) -> str:
    parts = [(k, _name(v) if isinstance(v, dict) else v) for k, v in settings.items()]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts)


def _name(function: dict) -> str:
    """The name of a function as a run's config has it, with the arguments that it was given."""
    arguments = [*function.get("arguments", ()), *function.get("keywords", {}).values()]
    name = function["function"].rpartition(".")[2]
    return f"{name}({', '.join(map(str, arguments))})" if arguments else name


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if a folder is no finished run."""
    parser = argparse.ArgumentParser(
        prog="python -m foodseg.report.cards.model", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", help="folders of runs, such as runs/kitchen/dapo-seed0")
    try:
        for folder in parser.parse_args(arguments).runs:
            print(f"written: {write_card(folder)}")
    except DataError as error:
        print(f"model card: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

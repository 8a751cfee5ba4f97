"""A model card for a trained adapter, from its run's folder alone.

python -m foodseg.report.cards.model runs/kitchen/dapo-seed0

It takes the place of the empty card that PEFT leaves in adapter/. Evaluate first: what
predictions/<run>/result.json says of this very adapter goes into the card.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from foodseg.common.errors import DataError
from foodseg.models.mllm import TEMPLATE_FILE
from foodseg.models.segmenter import DECODER, MASK_HEAD
from foodseg.report.cards.origins import KITCHEN_BASE
from foodseg.report.cards.trained_run import TrainedRun, read_run
from foodseg.report.results import measured_table
from foodseg.report.tables import to_markdown, write_markdown

FILE = "README.md"


def write_card(folder: Path | str) -> Path:
    """Write adapter/README.md of a run's folder; returns its path.

    Raises DataError if the run is not finished, or if its adapter is not the one that it trained.
    """
    run = read_run(Path(folder))
    front = f"---\n{front_matter(run).to_yaml()}\n---"
    sections = [
        front,
        f"# {run.title}, {run.base.name}, seed {run.result['seed']}",
        _summary(run),
        "## How to use it",
        _usage(run),
        "## Results",
        _results(run),
        "## Recipe",
        _recipe(run),
        "## Data",
        f"{run.data.title}: {run.result['samples']:,} training questions. {run.data.terms}",
        "## Licence",
        _licence(run),
        "## Limits",
        "\n".join(f"* {limit}" for limit in _limits(run)),
        "## Provenance",
        _provenance(run),
        _settings(run),
    ]
    write_markdown(run.adapter / FILE, sections)
    return run.adapter / FILE


def front_matter(run: TrainedRun) -> ModelCardData:
    """The card's metadata, by the hub's own class."""
    kind = "reinforcement-learning" if run.rewarded else "supervised"
    results = {"eval_results": _eval_results(run)} if run.evaluations else {}
    return ModelCardData(
        model_name=f"{run.base.name.rpartition('/')[2]}-{run.folder.name}",
        base_model=run.base.name,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="image-text-to-text",
        language="en",
        datasets=list(run.data.names) or None,
        tags=["lora", "food", "reasoning-segmentation", kind, run.result["recipe"]["name"]],
        **run.base.licence,
        **results,
    )


def _eval_results(run: TrainedRun) -> list[EvalResult]:
    own = run.evaluations[0]
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=(run.data.names or ("own",))[-1],
            dataset_name=f"FoodReasonSeg-Single ({run.result['preset']['name']})",
            dataset_split=run.split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(own[metric], 4),
        )
        for metric, name in (("giou", "gIoU"), ("ciou", "cIoU"))
    ]


def _summary(run: TrainedRun) -> str:
    how = "reinforcement fine-tuning, without ground-truth reasoning," if run.rewarded else ""
    answers = (
        "writes [SEG], which a mask head beside it turns into masks"
        if run.mask_head
        else "answers with boxes and points, which SAM2 turns into masks"
    )
    return (
        f"A LoRA adapter for `{run.base.name}`, trained by {how or 'supervised fine-tuning'} for "
        "food reasoning segmentation: it reads a photo of food and an implicit question, and "
        f"{answers}. Made with the foodseg kit."
    )


def _usage(run: TrainedRun) -> str:
    side = run.result["preset"]["image_side"]
    return f"""\
{_command(run)}

Without the kit, the language model alone ("." is this folder):

```python
from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration

base = Qwen2_5_VLForConditionalGeneration.from_pretrained("{run.base.source}")
model = PeftModel.from_pretrained(base, ".").eval()
```

The photo is resized to {side} x {side} pixels, in which it counts all coordinates; questions are
worded as in `{TEMPLATE_FILE}`:

```text
{(run.adapter / TEMPLATE_FILE).read_text()}
```"""


def _command(run: TrainedRun) -> str:
    if run.mask_head:
        return f"Its masks need `{MASK_HEAD}` and the kit's `foodseg.supervised.evaluation`."
    preset = run.result["preset"]["name"]
    if preset not in ("smoke", "paper", "dry-run"):  # a preset of one's own has one of these bases
        preset = "kitchen" if run.base == KITCHEN_BASE else "paper"
    option = "" if preset == "kitchen" else f" --preset {preset}"
    question = '"which food is rich in iron?"'
    command = f"""\
In a checkout of the kit, where ADAPTER is this folder:

```bash
python -m foodseg.segment photo.jpg {question} --adapter ADAPTER{option} -o overlay.png
```"""
    if run.decoder:
        command += (
            f"\n\n`{DECODER}` is SAM2's mask decoder, trained along with the adapter; the command "
            "puts it in the place of SAM2's own."
        )
    return command


def _results(run: TrainedRun) -> str:
    if not run.evaluations:
        return (
            f"Not evaluated: there is no `predictions/{run.folder.name}/result.json` of this "
            "adapter beside its run."
        )
    meant = {"base": "before any training", "bound": "SAM2, given the true boxes and points"}
    others = [other["row"] for other in run.evaluations[1:]]
    beside = "".join(f" `{row}`: {meant[row.partition('-')[0]]}." for row in others)
    return (
        f"{run.evaluations[0]['samples']} questions of the {run.split} split (preset "
        f"{run.result['preset']['name']}), greedy answers, masks by SAM2; 95% bootstrap intervals "
        "over questions, of this one adapter: another seed gives another. An answer that can't be "
        f"parsed counts as an empty mask.{beside}\n\n{to_markdown(measured_table(run.evaluations))}"
    )


def _recipe(run: TrainedRun) -> str:
    preset, recipe = run.result["preset"], run.result["recipe"]
    rows = {"method": f"{run.title} (`{recipe['name']}`)"}
    updates = f"{preset['updates_per_rollout']} gradient steps on true answers"
    budget = {"budget": f"{run.result['steps']} steps of {updates}"}
    rows |= _rewarded_rows(run) if run.rewarded else budget
    rows |= {
        "LoRA": f"rank {preset['lora_rank']}, alpha {preset['lora_alpha']}, on every projection of "
        "the language model; the vision tower and the embeddings are frozen",
        "learning rate": f"{preset['learning_rate']:g}, {preset['warmup_steps']} warm-up steps",
        "precision": preset["dtype"],
        "seed": run.result["seed"],
    }
    return _table(rows)


def _rewarded_rows(run: TrainedRun) -> dict:
    preset, recipe = run.result["preset"], run.result["recipe"]
    rows = {
        "objective": _listed(recipe["objective"]),
        "reward": " + ".join(map(_name, recipe["reward"])) + " + rank" * bool(recipe["ranking"]),
        "advantages": _name(recipe["advantages"]),
        "dynamic sampling": "no",
        "budget": f"{run.result['steps']} steps of {preset['prompts_per_step']} questions x "
        f"{preset['group_size']} completions, {preset['updates_per_rollout']} updates each",
        "longest completion": f"{preset['max_new_tokens']} tokens",
    }
    if recipe["dynamic_sampling"]:
        rows["dynamic sampling"] = f"at most {recipe['max_rounds']} rounds"
    if recipe.get("tool"):
        rows["mask decoder"] = _listed(recipe["tool"])
    return rows


def _listed(settings: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def _name(function: dict) -> str:
    """The name of a function as a run's config has it, with the arguments that it was given."""
    arguments = [*function.get("arguments", ()), *function.get("keywords", {}).values()]
    name = function["function"].rpartition(".")[2]
    return f"{name}({', '.join(map(str, arguments))})" if arguments else name


def _licence(run: TrainedRun) -> str:
    if not run.decoder:
        return run.base.terms
    part = f"`{DECODER}` is a changed copy of a part of SAM2, which is under Apache-2.0."
    return f"{run.base.terms}\n\n{part}"


def _limits(run: TrainedRun) -> list[str]:
    limits = [*run.base.limits, *run.data.limits]
    if run.evaluations:
        own = run.evaluations[0]
        limits.append(
            f"On its {run.split} questions {1 - own['parse_rate']:.0%} of the answers can't be "
            f"parsed, and {1 - own['foods_right']:.0%} don't name exactly the foods asked for."
        )
    if run.rewarded:
        limits.append(
            "No reward asks whether the thinking is true: read it as a hint, not a proof."
        )
    side = run.result["preset"]["image_side"]
    return [
        *limits,
        f"The model sees the photo squeezed into {side} x {side} pixels: small foods get lost.",
        "Not for decisions on allergies, diets or health.",
    ]


def _provenance(run: TrainedRun) -> str:
    result = run.result
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rows = {
        "trained": f"{result['seconds']:,} seconds on {result['device']}",
        "commit of the kit": result["commit"],
        "versions": f"Python {result['python']}, {versions}",
        "adapter (SHA-256, first 16 digits)": result["adapter"],
        "base weights": result["base"],
        "SAM2 weights": result["segmenter"],
        "training questions": result["data"],
        "training code": result["code"],
    }
    if result.get("decoder"):
        rows["mask decoder"] = result["decoder"]
    if run.evaluations:
        own = run.evaluations[0]
        rows["evaluated"] = f"commit {own['commit']}, {own['seconds']:,} seconds on {own['device']}"
    return _table(rows)


def _settings(run: TrainedRun) -> str:
    kept = "preset recipe seed samples data base segmenter code".split()
    settings = json.dumps({name: run.result[name] for name in kept}, indent=2)
    return f"""\
<details><summary>All settings, as in the run's config.json</summary>

```json
{settings}
```

</details>"""


def _table(rows: dict) -> str:
    frame = pd.DataFrame({"value": rows.values()}, index=list(rows))
    return to_markdown(frame.rename_axis("what")).replace("---:", "---")


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

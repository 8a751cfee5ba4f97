"""Files of the Hugging Face hub: fetched with a bar that shows, refused with a sentence.

The hub's client finds the user's token by itself (HF_TOKEN, or `hf auth login`). Its own bars are
hidden outside a terminal, and by `transformers` while it loads a model; ours are not.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm

# What a model is loaded from; its repository may hold the weights in further formats.
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


def refusal(error: HfHubHTTPError, page: str) -> str:
    """Why the hub did not give what `page` shows, and for a closed door, the key."""
    code = error.response.status_code
    answer = f"it answered {code} {error.response.reason_phrase}"
    if code not in (401, 403):
        return answer
    return f"{answer}; accept its terms on {page}, then `hf auth login` or set HF_TOKEN"


def fetch_model(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: `source` if there is such a folder, else that hub id's, in the cache.

    Raises DataError, naming the fix, if the hub does not give it.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_absolute():
        raise DataError(f"{source}: there is no such folder; name a model's folder, or a hub id.")
    try:
        options = {"allow_patterns": MODEL_FILES, "tqdm_class": tqdm}
        return Path(snapshot_download(str(source), revision=revision, **options))
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{source}: it is no folder, and the hub did not give it ({_reason(error, source)}); "
            "download it and name its folder."
        ) from error


def is_here(source: str | Path, revision: str | None = None, file: str | None = None) -> bool:
    """Whether a model, or one file of its repository, needs no network."""
    if Path(source).is_dir():
        return True
    patterns = [file] if file else MODEL_FILES
    options = {"allow_patterns": patterns, "local_files_only": True}
    try:
        folder = Path(snapshot_download(str(source), revision=revision, **options))
    except (OSError, ValueError):
        return False
    index = folder / "model.safetensors.index.json"  # names the parts of a large model
    parts = json.loads(index.read_text())["weight_map"].values() if index.is_file() else []
    wanted = {file} if file else set(parts) or {"model.safetensors"}
    return all((folder / name).is_file() for name in wanted)


def fetch_file(repository: str, name: str, by_hand: str, revision: str | None = None) -> Path:
    """A file of a model's repository, in the hub's cache.

    by_hand: what else the user can do, for the sentence of the DataError.
    """
    try:
        return Path(hf_hub_download(repository, name, revision=revision, tqdm_class=tqdm))
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = _reason(error, repository)
        raise DataError(f"{repository}: {name} can't be fetched ({reason}); {by_hand}.") from error


def _reason(error: Exception, repository: str | Path) -> str:
    if isinstance(error, HfHubHTTPError):
        return refusal(error, f"https://huggingface.co/{repository}")
    return " ".join(str(error).split())

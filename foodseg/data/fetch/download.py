"""Download one file, trying mirrors in order, and check it by SHA-256.

A file of the Hugging Face hub comes by its own client; from elsewhere, a `.part` is resumed.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from foodseg.common.errors import DataError
from foodseg.common.files import file_sha256, write_json
from foodseg.common.hub import refusal
from foodseg.common.progress import tqdm
from foodseg.data.fetch.sources import HubFile, RemoteFile
from foodseg.data.foodseg103 import Problem

# Attempts in a row that bring no new byte before the next mirror is tried.
TRIES = 4
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
# What a file of that kind starts with: a login page must not be remembered as the file.
_STARTS = {".zip": (b"PK",), ".parquet": (b"PAR1",), ".json": (b"[", b"{")}
_CUT = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


@dataclass(frozen=True)
class Remembered:
    """What is known of a file: its sum, its size, its place, and whose word the sum is."""

    sha256: str
    bytes: int
    source: str
    word: str  # "published" or "first seen"


class Checksums:
    """The sums of downloaded files by name."""

    def __init__(self, path: Path):
        """Raises DataError for a file that is there and can't be read."""
        self.path = path
        self._known: dict[str, Remembered] = {}
        try:
            if path.is_file():
                entries = json.loads(path.read_text(encoding="utf-8"))
                self._known = {name: Remembered(**entry) for name, entry in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: no list of checksums ({error}); remove the file.") from error

    def get(self, name: str) -> Remembered | None:
        """What is remembered of a file, None if it is new."""
        return self._known.get(name)

    def remember(self, name: str, path: Path, sha256: str, source: str, word: str) -> None:
        """Notes a file's sum, at once on disk too."""
        self._known[name] = Remembered(sha256, path.stat().st_size, source, word)
        write_json(self.path, {name: asdict(self._known[name]) for name in sorted(self._known)})

    def check(self, name: str, path: Path) -> Problem | None:
        """The fault of a file that differs from what is remembered; a new file is remembered."""
        found, known = file_sha256(path), self.get(name)
        if known is None:
            self.remember(name, path, found, "put there by hand", "first seen")
        if known is None or known.sha256 == found:
            return None
        sums = f"it has {found[:12]}…, {known.sha256[:12]}… is {known.word}"
        entry = f"its entry in {self.path.name} if it is meant to differ"
        fix = f"{sums}; remove the file to fetch it again, or {entry}"
        return Problem(name, "sha256", "changed since it was fetched", fix)


class MirrorError(Exception):
    """Why one mirror didn't give the file."""


def download(remote: RemoteFile, folder: Path, checksums: Checksums, wait: float = 1.0) -> Path:
    """`folder / remote.name`, downloaded unless it is there.

    wait: seconds before the second attempt at a mirror, doubled each time. Raises DataError with
    one line for each mirror if none gave the file, or for a file there that was changed.
    """
    target = folder / remote.name
    if target.is_file():
        # One put there by hand has no sum yet, and may be half a download: it isn't remembered.
        problem = checksums.get(remote.name) and checksums.check(remote.name, target)
        if problem:
            raise DataError(str(problem))
        if remote.sha256 and file_sha256(target) != remote.sha256:
            fix = "remove it to fetch it again"
            raise DataError(f"{target}: its SHA-256 is not {remote.sha256[:12]}…; {fix}.")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in remote.mirrors:
        try:
            return _from_mirror(mirror, remote, target, checksums, wait)
        except MirrorError as error:
            reasons.append(f"  {mirror}: {error}")
    raise DataError("\n".join([f"{target}: no mirror gave the file; get it by hand.", *reasons]))


def _from_mirror(
    mirror: str | HubFile, remote: RemoteFile, target: Path, checksums: Checksums, wait: float
) -> Path:
    part, stated = target.with_name(target.name + ".part"), ""
    if isinstance(mirror, HubFile):
        mirror, stated = _receive_from_hub(mirror, part)
    else:
        _insist(mirror, part, wait)
    _state(part).unlink(missing_ok=True)
    found, known = file_sha256(part), checksums.get(remote.name)
    published = [sha256 for sha256 in (remote.sha256, stated) if sha256]
    expected = published + ([known.sha256] if known else [])
    wrong = [sha256 for sha256 in expected if sha256 != found]
    with part.open("rb") as file:
        head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if wrong or not head.startswith(_STARTS.get(target.suffix, b"")):
        part.unlink()
        if wrong:
            raise MirrorError(f"wrong checksum {found[:12]}…, {wrong[0][:12]}… was expected")
        raise MirrorError(f"what it sent is no {target.suffix} file (a web page?)")
    os.replace(part, target)
    if known is None:
        word = "published" if published else "first seen"
        checksums.remember(remote.name, target, found, str(mirror), word)
    return target


def _receive_from_hub(file: HubFile, part: Path) -> tuple[HubFile, str]:
    """The file of the one commit that its revision names, and the SHA-256 that the hub states.

    The client sends the user's token to the hub alone, not to the host that keeps large files.
    """
    url = hf_hub_url(file.repo, file.path, repo_type="dataset", revision=file.revision)
    try:
        about = get_hf_file_metadata(url, retry_on_errors=True)
        if about.commit_hash:
            file = replace(file, revision=about.commit_hash)
        with TemporaryDirectory(dir=part.parent, prefix=".hub-") as folder:
            options = {"repo_type": "dataset", "revision": file.revision, "local_dir": folder}
            path = hf_hub_download(file.repo, file.path, tqdm_class=tqdm, **options)
            os.replace(path, part)
    except HfHubHTTPError as error:
        page = f"https://huggingface.co/datasets/{file.repo}"
        raise MirrorError(refusal(error, page)) from error
    except (HTTPError, ConnectionError, RuntimeError) as error:
        raise MirrorError(f"it can't be reached ({error})") from error
    except OSError as error:
        if error.errno is not None:  # this machine's own, such as a full disk
            raise
        raise MirrorError(" ".join(str(error).split())) from error
    # Of a small file the hub states Git's hash, of 40 digits.
    return file, about.etag if about.etag and len(about.etag) == 64 else ""


def _insist(url: str, part: Path, wait: float) -> None:
    """Receives the whole file into `part`; resumes an unfinished one."""
    tries = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except urllib.error.HTTPError as error:
            reason = f"it answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise MirrorError(reason) from error
        except urllib.error.URLError as error:
            reason = f"it can't be reached ({error.reason})"
        except _CUT as error:
            reason = f"the connection broke ({error})"
        tries = 0 if _size(part) > before else tries + 1
        if tries >= TRIES:
            raise MirrorError(f"{reason}, {TRIES} times in a row")
        time.sleep(wait * 2**tries)


def _receive(url: str, part: Path) -> None:
    """One request for what is missing of `part`. Raises an error of `_CUT` if it ends early."""
    if _size(part) and _read_state(part).get("url") != url:
        part.unlink()  # of another mirror: its bytes may differ
    start = _size(part)
    headers = {"User-Agent": "foodseg", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            _append(url, response, part, start)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the file became shorter
            if error.headers.get("Content-Range", "") == f"bytes */{start}":
                return
            part.unlink(missing_ok=True)
        raise


def _append(url: str, response: http.client.HTTPResponse, part: Path, start: int) -> None:
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if response.status == 206:
        place = response.headers.get("Content-Range", "")
        if not place.startswith(f"bytes {start}-") or version != _read_state(part).get("version"):
            part.unlink()
            raise ConnectionError("the file on the server changed; it is fetched from its start")
    else:
        start = 0  # the server doesn't resume
    _state(part).write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    bar = tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True)
    with part.open("ab" if start else "wb") as file, bar:
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"{_size(part)} of {total} bytes came")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path) -> dict:
    """The address and version that a part comes from; {} where it isn't known."""
    try:
        return dict(json.loads(_state(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}

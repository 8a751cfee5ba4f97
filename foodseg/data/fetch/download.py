"""One file from the first mirror that gives it whole: resumed when cut, checked by SHA-256.

Built on the standard library: the kit's dependencies bring no HTTP client that is ours to rely on.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from foodseg.common.errors import DataError
from foodseg.common.progress import tqdm
from foodseg.data.fetch.sources import RemoteFile
from foodseg.data.foodseg103 import Problem

# Attempts in a row that bring no new byte before the next mirror is tried.
TRIES = 4
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
# What a file of that kind starts with: a login page, which servers send as if it were the file,
# must not be remembered as the file.
_STARTS = {".zip": (b"PK",), ".parquet": (b"PAR1",), ".json": (b"[", b"{")}
_CUT = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


class MirrorError(Exception):
    """Why one mirror didn't give the file."""


@dataclass(frozen=True)
class Remembered:
    """What is known of a file: its sum, its size, its place, and whose word the sum is."""

    sha256: str
    bytes: int
    source: str
    word: str  # "published" or "first seen"


class Checksums:
    """The sums of downloaded files, in a small JSON file beside the data."""

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._known[name] = Remembered(sha256, path.stat().st_size, source, word)
        part = self.path.with_name(self.path.name + ".part")
        entries = {name: asdict(entry) for name, entry in sorted(self._known.items())}
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def check(self, name: str, path: Path) -> Problem | None:
        """The fault of a file that differs from what is remembered; a new file is remembered."""
        found, known = sha256_of(path), self.get(name)
        if known is None:
            self.remember(name, path, found, "put there by hand", "first seen")
        elif known.sha256 != found:
            fix = (
                f"it has {found[:12]}…, {known.sha256[:12]}… is {known.word}; remove the file to "
                f"fetch it again, or its entry in {self.path.name} if it is meant to differ"
            )
            return Problem(name, "sha256", "changed since it was fetched", fix)
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(remote: RemoteFile, folder: Path, checksums: Checksums, wait: float = 1.0) -> Path:
    """`folder / remote.name`, fetched unless it is there; an unfinished `.part` is gone on with.

    wait: seconds before the second attempt at a mirror, doubled each time. Raises DataError with
    one line for each mirror if none gave the file, or for a file there that was changed.
    """
    target = folder / remote.name
    if target.is_file():
        # One put there by hand has no sum yet, and may be half a download: it isn't remembered.
        problem = checksums.get(remote.name) and checksums.check(remote.name, target)
        if problem:
            raise DataError(str(problem))
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in remote.urls:
        try:
            return _from_mirror(url, remote, target, checksums, wait)
        except MirrorError as error:
            reasons.append(f"  {url}: {error}")
    reasons = "\n".join(reasons)
    raise DataError(f"{target}: no mirror gave the file; get it by hand.\n{reasons}")


def _from_mirror(
    url: str, remote: RemoteFile, target: Path, checksums: Checksums, wait: float
) -> Path:
    part = target.with_name(target.name + ".part")
    stated = _insist(url, part, wait)
    found, known = sha256_of(part), checksums.get(remote.name)
    published = [sha256 for sha256 in (remote.sha256, stated) if sha256]
    expected = published + ([known.sha256] if known else [])
    wrong = [sha256 for sha256 in expected if sha256 != found]
    if wrong or not _starts_right(part, target.suffix):
        part.unlink()
        _state(part).unlink(missing_ok=True)
        if wrong:
            raise MirrorError(f"wrong checksum {found[:12]}…, {wrong[0][:12]}… was expected")
        raise MirrorError(f"what it sent is no {target.suffix} file (a web page?)")
    os.replace(part, target)
    _state(part).unlink(missing_ok=True)
    if known is None:
        word = "published" if published else "first seen"
        checksums.remember(remote.name, target, found, url, word)
    return target


def _starts_right(path: Path, suffix: str) -> bool:
    with path.open("rb") as file:
        head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(_STARTS.get(suffix, b""))


def _insist(url: str, part: Path, wait: float) -> str:
    """Receives the whole file into `part`; the SHA-256 that the server states, "" if none."""
    tries = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise MirrorError(f"it answered {error.code} {error.reason}") from error
            reason = f"it answered {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = f"it can't be reached ({error.reason})"
        except _CUT as error:
            reason = f"the connection broke ({error})"
        tries = 0 if _size(part) > before else tries + 1
        if tries >= TRIES:
            raise MirrorError(f"{reason}, {TRIES} times in a row")
        time.sleep(wait * 2**tries)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the sum that the hub states before it sends one elsewhere."""

    stated = ""

    def redirect_request(self, request, file, code, message, headers, url):
        self.stated = _stated(headers) or self.stated
        return super().redirect_request(request, file, code, message, headers, url)


def _stated(headers: http.client.HTTPMessage) -> str:
    tag = (headers.get("X-Linked-Etag") or "").strip('"')
    # Small files have a Git hash there, of 40 digits.
    return tag.lower() if len(tag) == 64 else ""


def _receive(url: str, part: Path) -> str:
    """One request for what is missing of `part`. Raises an error of `_CUT` if it ends early."""
    if _size(part) and _read_state(part).get("url") != url:
        part.unlink()  # of another mirror: its bytes may differ
    start = _size(part)
    headers = {"User-Agent": "foodseg", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)
    if start:
        request.add_header("Range", f"bytes={start}-")
    redirects = _Redirects()
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT) as response:
            _append(url, response, part, start)
            return _stated(response.headers) or redirects.stated
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the file became shorter
            if error.headers.get("Content-Range", "") == f"bytes */{start}":
                return redirects.stated
            part.unlink(missing_ok=True)
        raise


def _append(url: str, response, part: Path, start: int) -> None:
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
    name = part.name.removesuffix(".part")
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True) as bar,
    ):
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
        state = json.loads(_state(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}

"""The network side of data cards: downloads that are checked against their sha256, and splits of the hub."""

import ast
import hashlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from alignbench.errors import AlignbenchError
from alignbench.hub import offline, unreachable_reason

if TYPE_CHECKING:
    from datasets import Dataset

DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer or a byte


class UnreachableError(Exception):
    """A remote source is not available: no network, an offline setting, or an error from the server."""


def sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AlignbenchError(f"{path}: cannot be read: {error.strerror or error}") from None


def download(url: str, sha256: str, target: Path, constant: str | None = None) -> None:
    """Write the content of `url` to `target`, complete and verified, or write nothing.

    constant: keep only the text of this constant of the Python source behind `url`, and verify that.
    Raises UnreachableError if the server does not answer, AlignbenchError if the content is not the pinned one.
    """
    import httpx

    if offline():
        raise UnreachableError(f"{url} not requested (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            content = httpx.get(url, timeout=DOWNLOAD_TIMEOUT, follow_redirects=True).raise_for_status().content
            if constant is not None:
                content = _constant(content, constant, url).encode()
            if (found := hashlib.sha256(content).hexdigest()) != sha256:
                raise AlignbenchError(
                    f"{url}: sha256 is {found}, the card says {sha256}: nothing was kept;"
                    " try again, or put the right file into the data folder yourself"
                )
            part = Path(folder, target.name)
            part.write_bytes(content)
            part.replace(target)
    except httpx.HTTPStatusError as error:
        answer = error.response
        raise UnreachableError(f"{url} answered {answer.status_code} {answer.reason_phrase}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(f"{url} could not be fetched ({str(error) or type(error).__name__})") from None
    except OSError as error:
        reason = f"{error.strerror or error}; set ALIGNBENCH_CACHE to a folder that you can write to"
        raise AlignbenchError(f"cannot write {target}: {reason}") from None


def _constant(source: bytes, name: str, url: str) -> str:
    """The text of a string constant in Python source, which is parsed and never executed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise AlignbenchError(f"{url}: not Python source ({error}): nothing was kept; report the card") from None
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    match values.get(name):
        case ast.Constant(value=str(text)):
            return text.strip()
    raise AlignbenchError(f"{url}: no text constant {name}: nothing was kept; report the card")


def load_hub(name: str, config: str | None, split: str, revision: str) -> tuple["Dataset", str | None]:
    """A split of the hub, and the commit that was read (None if it cannot be determined).

    The commit can differ from `revision`: without a network, `datasets` returns the newest copy in its cache.
    """
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if was_offline else unreachable_reason()
    datasets.config.HF_HUB_OFFLINE = reason is not None
    try:
        data = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # many classes of four libraries; all mean the same to the user
        shown = f"{type(error).__name__}: {' '.join(str(error).split())}"
        shown = f"{reason}, and it is not in the hub's cache" if reason else shown
        raise UnreachableError(f"hub {name} could not be loaded ({shown})") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    # the commit is the name of the folder in which `datasets` caches a split: .../CONFIG/VERSION/COMMIT/FILE
    folders = {Path(entry["filename"]).parent.name for entry in data.cache_files}
    commits = [name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)]
    return data, commits[0] if len(commits) == len(folders) == 1 else None

"""The package's description: the README with absolute links, since it is shown outside the repository."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def absolute(text: str, repository: str, version: str) -> str:
    """Replace links to files of the repository by addresses of the files in the tag `vVERSION`."""
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{repository}/raw/v{version}/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\g<1>{repository}/blob/v{version}/", text)


def repository_of(project: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
    """`Source` of [project.urls], or the repository whose GitHub workflow builds the package; None without either."""
    if source := project.get("urls", {}).get("Source"):
        return str(source).rstrip("/")
    if "GITHUB_REPOSITORY" in environment:
        return f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}"
    return None


class Description(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository := repository_of(metadata, os.environ):
            text = absolute(text, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

"""The package's description: the README with absolute links, since it is shown outside the repository."""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Description(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Links name files in the tag `vVERSION` of `Source` in [project.urls], or of the workflow's own repository."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        if not source and "GITHUB_REPOSITORY" in os.environ:
            source = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
        if source:
            for before, kind in ((r"!\[[^\]]*\]\(", "raw"), (r"\]\(", "blob")):
                files = f"{source.rstrip('/')}/{kind}/v{metadata['version']}/"
                text = re.sub(rf"({before})(?!https?:|#)", rf"\g<1>{files}", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

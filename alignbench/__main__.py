"""`python -m alignbench`, also as `accelerate launch -m alignbench`."""

import sys
from pathlib import Path

# `-m` puts the current folder first on sys.path, where a package named `reports` or `trainers` would replace ours.
# Modules of the user, such as a reward function, are loaded from the current folder without this entry.
current, ours = Path.cwd().resolve(), Path(__file__).resolve().parents[1]
if not sys.flags.safe_path and sys.path and Path(sys.path[0]).resolve() == current != ours:
    del sys.path[0]

from alignbench.cli.app import main  # noqa: E402

main()

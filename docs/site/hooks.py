"""Pages of the documentation: the Markdown files of the repository at their own paths, and pages made from the code."""

import subprocess
import sys
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = (
    "*.md",
    "docs/*.md",
    "docs/guides/*.md",
    "benchmarks/*.md",
    "reports/gallery/*",
    "data_cards/*.md",
    "CITATION.cff",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, text in {"commands.md": commands(), "data_cards/README.md": cards()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands() -> str:
    """The help of all commands, as typer writes it in Markdown."""
    typer = [sys.executable, "-m", "typer", "alignbench.cli.app", "utils", "docs", "--name", "alignbench"]
    text = subprocess.run(typer, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return text.replace("# `alignbench`", "# Commands", 1)


def cards() -> str:
    """A table of the data cards."""
    rows = []
    for path in sorted(ROOT.glob("data_cards/*.md")):
        card = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
        rows.append(f"| [{card['title']}]({path.name}) | {card.get('paper', '–')} | {card['licence']} |")
    head = "# Data cards\n\nSource, pinned revision and known problems of each data set.\n\n"
    return head + "\n".join(["| data set | paper | licence |", "|---|---|---|", *rows]) + "\n"

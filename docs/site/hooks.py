"""Pages of the documentation: the Markdown files of the repository at their own paths, and pages made from the code."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
NOTEBOOKS, EXECUTED = "docs/notebooks", ROOT / ".venv/notebooks"
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
    for path in sorted((ROOT / NOTEBOOKS).glob("*.md")):
        for file in notebook(EXECUTED / f"{path.stem}.ipynb", config):
            files.append(file)
    return files


def notebook(executed: Path, config: MkDocsConfig) -> Iterator[File]:
    """The page of a notebook with its outputs, its pictures, and the notebook itself for download."""
    if not executed.exists():
        raise PluginError(f"{executed.name} was not executed: build the documentation with `make docs`")
    text, resources = MarkdownExporter().from_filename(str(executed))
    text = re.sub(r"<style scoped>.*?</style>\n", "", text, flags=re.DOTALL)  # tables look as on other pages
    text = text.replace('<table border="1" class="dataframe">', "<table>")
    title, _, rest = text.strip().partition("\n\n")
    text = f"{title}\n\n[Download this notebook]({executed.name}) with its outputs.\n\n{rest}\n"
    for name, content in resources["outputs"].items():
        picture = f"{executed.stem}_{name}"
        text = text.replace(f"![png]({name})", f"![Figure made by the code above]({picture})")
        yield File.generated(config, f"{NOTEBOOKS}/{picture}", content=content)
    yield File.generated(config, f"{NOTEBOOKS}/{executed.name}", abs_src_path=str(executed))
    yield File.generated(config, f"{NOTEBOOKS}/{executed.stem}.md", content=text)


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

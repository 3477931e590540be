"""The example task runs, and the docs name what exists: tasks, commands, files and sections."""

import re
from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.evaluation.evaluate import evaluate
from alignbench.tasks import all_tasks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs/guides/add_benchmark.md"
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *sorted(ROOT.glob("docs/**/*.md"))]


def test_the_example_task_of_the_guide_runs(farm_model, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(# sums\.py\n.*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "sums.py"
    file.write_text(code)
    monkeypatch.setattr(plugins, "_included", {})
    (run,) = evaluate([str(farm_model)], ["sums"], tmp_path / "runs", include_path=[str(file)])
    (acc,) = run.results[0].metrics
    assert (acc.metric, acc.n, acc.chance) == ("acc", 64, 0.25)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_name_existing_files_and_sections(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            name, _, section = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not section or section in sections(file), target


def test_the_readme_lists_every_task_and_docs_metrics_has_its_protocol():
    listed = re.search(r"\n## Tasks\n\n(\|.*?)\n\n", README.read_text(), re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == set(all_tasks())
    assert set(all_tasks()) <= set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text()))


def test_the_readme_names_commands_that_exist():
    from typer.main import get_command

    from alignbench.cli.app import app

    commands = get_command(app).commands
    text = "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
    assert set(re.findall(r"^alignbench (\w+)", text, re.MULTILINE)) <= set(commands)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)) <= set(targets)


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""The example task runs, and the docs name what exists: tasks, commands and their options, files, sections, links."""

import dataclasses
import os
import re
import shlex
from itertools import chain
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
from typer.main import get_command

from alignbench import plugins
from alignbench.cli.app import app
from alignbench.evaluation.evaluate import evaluate
from alignbench.tasks import all_tasks
from trainers.config import STAGES, find_stage

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs/guides/add_benchmark.md"
PAGES = sorted(
    chain.from_iterable(
        map(ROOT.glob, ("*.md", "docs/**/*.md", "benchmarks/*.md", "reports/gallery/*.md", "data_cards/*.md"))
    )
)
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


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
    """As GitHub makes anchors; `make docs` checks those of the site."""
    for target in links(page):
        if not target.startswith("http"):
            name, _, section = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not section or section in sections(file), target


@pytest.mark.needs_network
@pytest.mark.skipif("ALIGNBENCH_NETWORK" not in os.environ, reason="needs a network: set ALIGNBENCH_NETWORK=1")
def test_addresses_exist():
    """Servers that refuse programs (403, 429) are there."""
    addresses, missing = {one for page in PAGES for one in links(page) if one.startswith("http")}, []
    with httpx.Client(follow_redirects=True, timeout=60, headers={"User-Agent": "Mozilla/5.0"}) as client:
        for address in sorted(addresses):
            try:
                if client.get(address).status_code in (404, 410):
                    missing.append(address)
            except httpx.HTTPError as error:
                missing.append(f"{address} ({error})")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_the_options_and_settings_that_are_written(page):
    for line in command_lines(page):
        words = shlex.split(line.replace("`", ""), comments=True)[1:]
        command, path = get_command(app), ["alignbench"]
        while words and words[0] in getattr(command, "commands", {}):
            command, path = command.commands[words[0]], [*path, words.pop(0)]
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        options |= {"--help", "--install-completion"}
        written = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert written <= options, (line, written - options)
        if path[-2:-1] == ["train"]:
            settings = {one.name for one in dataclasses.fields(find_stage(path[-1], None)[0].Config)}
            written = {word.partition("=")[0] for word in words if re.match(r"[a-z_]+=", word)}
            assert path[-1] in STAGES, line
            assert written <= settings, (line, written - settings)


def test_the_readme_lists_every_task_and_docs_metrics_has_its_protocol():
    listed = re.search(r"\n## Tasks\n\n(\|.*?)\n\n", README.read_text(), re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == set(all_tasks())
    assert set(all_tasks()) <= set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text()))


def test_the_readme_names_targets_that_exist():
    text = "\n".join(code for _, language, code in FENCED.findall(README.read_text()) if language == "sh")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)) <= set(targets)


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))


def command_lines(page: Path) -> list[str]:
    """The `alignbench` commands in the blocks of a page, each on one line."""
    blocks = [dedent(code) for _, language, code in FENCED.findall(page.read_text()) if language in ("sh", "")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?alignbench ", line)]


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

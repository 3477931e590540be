"""What is published: the wheel with its description, the workflows, the conda recipe, and one version everywhere."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from farm import train_model, write_world
from scorer_models import save_classifier

import alignbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = alignbench.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, as a workflow of the repository o/r builds it."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    repository = {"GITHUB_SERVER_URL": "https://host.test", "GITHUB_REPOSITORY": "o/r"}
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out]
    subprocess.run(build, cwd=ROOT, env={**os.environ, **repository}, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_file_of_the_packages_and_absolute_links(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = message_from_bytes(archive.read(f"alignbench-{VERSION}.dist-info/METADATA"))
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "gallery" not in path.parts
    }
    assert {Path(file).suffix for file in files} >= {".yaml", ".css", ".js", ".html", ".mplstyle", ".typed", ".md"}
    assert files == {name for name in names if ".dist-info/" not in name}
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", metadata.get_payload(decode=True).decode())
    base = PROJECT["project"]["urls"].get("Source", "https://host.test/o/r").rstrip("/")
    ours = [(image, link) for image, link in links if link.startswith(base)]
    assert len(ours) > 40
    for image, link in ours:
        prefix = f"{base}/{'raw' if image else 'blob'}/v{VERSION}/"
        assert link.startswith(prefix)
        assert (ROOT / link.removeprefix(prefix).partition("#")[0]).exists(), link
    assert all(link.startswith(("https://", "#")) for _, link in links)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_from_the_wheel(wheel, tmp_path):
    (tour,) = re.findall(r"```sh\n(pip install.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    text = write_world(tmp_path / "data")
    train_model(tmp_path / "BASE", text, steps=20)
    train_model(tmp_path / "ALIGNED", text, seed=1, steps=30)
    save_classifier(tmp_path / "REWARD-MODEL", ("LABEL_0",), positions=512)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ALIGNBENCH_DATA": str(tmp_path / "data")}
    commands = [line for line in tour.splitlines() if line.startswith("alignbench ")]
    assert len(commands) == 4
    for line in ("-c 'import alignbench; print(alignbench.__file__)'", *(f"-m {line}" for line in commands)):
        command = [sys.executable, *shlex.split(line, comments=True)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        assert str(tmp_path / "site") in done.stdout or not line.startswith("-c")
    assert (tmp_path / "report" / "index.html").exists()


def test_workflows_run_make_targets_and_pinned_actions():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")}
    steps = [
        step for workflow in workflows.values() for job in workflow["jobs"].values() for step in job.get("steps", ())
    ]
    used = {target for step in steps for target in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))}
    assert {"lint", "test", "test-slow", "docs", "dist"} <= used <= targets
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)
    tested = workflows["tests"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if " 3." in line]
    assert tested == classifiers == ["3.11", "3.12", "3.13", "3.14"]
    assert workflows["release"]["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_the_version_and_the_dependencies_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())
    assert {citation["version"], recipe["context"]["version"]} == {VERSION}
    assert f"## [{VERSION}] - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text()
    renamed = {"torch": "pytorch", "matplotlib": "matplotlib-base", "huggingface-hub": "huggingface_hub"}
    needed = [re.match(r"([\w.-]+?)(>=.*)", line).groups() for line in PROJECT["project"]["dependencies"]]
    assert [f"{renamed.get(name, name)} {least}" for name, least in needed] == recipe["requirements"]["run"][1:]

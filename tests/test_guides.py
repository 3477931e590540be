"""The commands of the guides run as they are written, on two tiny models; quoted error messages exist."""

import csv
import json
import re
import shlex
from itertools import product
from pathlib import Path
from textwrap import dedent

import pytest
from commands import run
from farm import train_model, write_world

from alignbench import plugins

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "docs/getting_started.md", *sorted(ROOT.glob("docs/guides/*.md"))]
COLOURS = ["red", "green", "blue"]
BLOCKS = re.compile(r"(<!-- needs: \w+ -->\n)?( *)```sh\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The `alignbench` commands of a page, but those that need a GPU or a server."""
    blocks = [dedent(text) for needs, _, text in BLOCKS.findall(page.read_text()) if not needs]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("alignbench ")]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the guides name."""
    folder = tmp_path_factory.mktemp("guides")
    text = write_world(folder / "data")
    train_model(folder / "BASE", text, steps=20)
    train_model(folder / "ALIGNED", text, seed=1, steps=30)
    for name, right in (("old", 3), ("new", 8)):
        rows = [
            {
                "id": str(i),
                "prompt": f"Which colour? {i}",
                "output": "red" if i < right else "grey",
                "references": COLOURS,
            }
            for i in range(10)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    with (folder / "outputs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "task", "id", "output", "reference", "helpfulness"])
        rows = [[s, "colours", i, "red", "red", (i + (s == "new")) / 10] for s in ("old", "new") for i in range(9)]
        writer.writerows(rows)
    write_lines(folder / "demonstrations.jsonl", [{"prompt": f"Say {n}.", "response": f" {n}"} for n in range(24)])
    rankings = [{"prompt": f"Say {n}.", "responses": [f" {n}", " no", " never"], "ranks": [1, 2, 3]} for n in range(40)]
    write_lines(folder / "rankings.jsonl", rankings)
    write_lines(folder / "prompts.jsonl", [{"prompt": f"Say {n}."} for n in range(40)])
    labels = [
        {"prompt": f"Say {n}.", "model": model, "output": f" {n}{model}", "labeler": labeler, "rank": rank}
        for n, labeler, (rank, model) in product(range(40), "xyz", enumerate(("ALIGNED", "BASE"), 1))
    ]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(labels[0]))
        writer.writeheader()
        writer.writerows(labels)
    (folder / "text.txt").write_text("\n\n".join(text[:50]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(page, place, monkeypatch):
    for title, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
        (place / title).write_text(code)
    monkeypatch.setattr(plugins, "_included", {})
    found = commands(page)
    assert found
    for arguments in found:
        cwd = place / "work" / page.stem
        if not cwd.exists():
            cwd.mkdir(parents=True)
            for file in place.iterdir():
                if file.name != "work":
                    (cwd / file.name).symlink_to(file)
        done = run(*arguments, cwd=cwd, env={"ALIGNBENCH_DATA": str(place / "data")})
        assert done.returncode == 0, (arguments, done.stderr)


def test_the_guides_have_commands_that_were_run_and_their_placeholders_are_explained():
    assert len(GUIDES) >= 8
    assert all(commands(page) for page in GUIDES)


def test_quoted_error_messages_exist_in_the_code():
    """Their parts between the places of names and numbers."""
    source = "".join(
        path.read_text() for folder in ("alignbench", "trainers") for path in (ROOT / folder).rglob("*.py")
    )
    source = re.sub(r'"\s*\n?\s*f?"', "", source)
    for message in re.findall(r"^\*\*`([^`]+)`", (ROOT / "docs/errors.md").read_text(), re.MULTILINE):
        parts = re.split(r"…|\b(?:FILE|DIR\S*|TASK|squad2|8)\b.*?(?= samples|$)|\(template.*", message)
        for part in filter(None, (re.sub(r"\(adapter_config.json\).*", "", p).strip(" ;:(") for p in parts)):
            assert part in source, part

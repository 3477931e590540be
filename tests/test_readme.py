"""What the README shows works as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import alignbench
from alignbench.evaluation.evaluate import evaluate

README = Path(__file__).parents[1] / "README.md"


def test_the_task_that_is_shown_is_whole(farm_model, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(# alignbench/tasks/sums\.py\n.*?)```", README.read_text(), re.DOTALL)
    file = tmp_path / "sums.py"
    file.write_text(code)
    specification = importlib.util.spec_from_file_location("sums", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (task,) = module.TASKS
    monkeypatch.setattr("alignbench.evaluation.evaluate.find_task", lambda name: task)
    (run,) = evaluate([str(farm_model)], ["sums"], tmp_path / "runs")
    (acc,) = run.results[0].metrics
    assert (acc.metric, acc.n, acc.chance) == ("acc", 64, 0.25)


def test_the_pictures_and_pages_that_it_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if not target.startswith("http"):
            assert (README.parent / target).is_file(), target
    assert alignbench.__version__

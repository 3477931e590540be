"""Plug-ins of files, selection of tasks, the lists of tasks and engines, lm-eval's option names, and the Python API."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import assert_one_line_error, run
from standin_server import StandIn
from test_settings import identities
from typer.main import get_command

import alignbench
from alignbench import plugins
from alignbench.cli.aliases import translate
from alignbench.cli.app import app
from alignbench.errors import AlignbenchError
from alignbench.models.engines import engines
from alignbench.tasks import all_tasks, find_names

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/guides/add_benchmark.md"
(SUMS,) = re.findall(r"```python\n(# sums\.py\n.*?)```", GUIDE.read_text(), re.DOTALL)
SCORER = """
from types import SimpleNamespace
from alignbench.scorers import ScorerSpec
shout = lambda items: [{"sentiment": float(item.output.isupper())} for item in items]
SCORERS = [ScorerSpec("sentiment", "shout", lambda: SimpleNamespace(
    kind="sentiment", name="shout", revision="1", score=shout))]
def echo(checkpoint, **settings):
    from alignbench.models.load import load_engine
    return load_engine(checkpoint, dtype=settings["dtype"], device=settings["device"])
ENGINES = [echo]
"""


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "_included", {})


def test_a_task_of_a_file_runs_and_a_change_of_its_code_has_its_own_folder(farm_model, tmp_path):
    file = tmp_path / "sums.py"
    for code in (SUMS, SUMS, SUMS.replace("{b} =", "{b} equals")):
        file.write_text(code)
        command = ("evaluate", farm_model, "--tasks", "sums", "--include-path", file, "--limit", 3)
        done = run(*command, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    found = identities(tmp_path / "out")
    assert len({own["definition_sha256"] for own in found}) == len(found) == 2
    (kept,) = (tmp_path / "out").glob("*/settings-*.yaml")
    plugins._included.clear()
    again = run("evaluate", "--config", kept, "--out", tmp_path / "out")
    assert "already finished" in again.stderr, again.stderr


def test_a_folder_adds_scorers_and_engines(farm_model, world, tmp_path):
    (tmp_path / "mine.py").write_text(SCORER)
    options = ("--include-path", tmp_path, "--scorer", "sentiment=shout", "--engine", "echo", "--limit", 2)
    done = run("evaluate", farm_model, "--tasks", "squad2", *options, "--data-dir", world, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (identity,) = identities(tmp_path / "out")
    assert {"kind": "sentiment", "name": "shout", "revision": "1"} in identity["scorers"]
    (description,) = (tmp_path / "out").glob("*/run.json")
    assert json.loads(description.read_text())["engine"]["definition_sha256"]
    assert "sentiment=shout" in run("scorers", "list", "--include-path", tmp_path).stdout


def test_an_entry_point_adds_tasks(monkeypatch, tmp_path):
    task = all_tasks()["rte"]
    entry = SimpleNamespace(name="own", value="cases", module="cases", load=lambda: [SimpleNamespace(name="x"), task])
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "alignbench.tasks" else [])
    plugins._installed.cache_clear()
    try:
        with pytest.raises(AlignbenchError, match=r"plug-in own: TASKS has .*, which is no"):
            all_tasks()
        entry.load = lambda: [task]
        plugins._installed.cache_clear()
        with pytest.raises(AlignbenchError, match="plug-in own: there is a task 'rte' already"):
            all_tasks()
    finally:
        monkeypatch.undo()
        plugins._installed.cache_clear()


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, ["neither a Python file nor a folder"]), ("1 / 0", ["p.py: it does not load (ZeroDivisionError"])],
)
def test_a_plugin_that_does_not_load_is_refused(tmp_path, code, words):
    file = tmp_path / "p.py"
    if code:
        file.write_text(code)
    assert_one_line_error(run("tasks", "--include-path", file), *words)


def test_names_patterns_abilities_and_groups_select_tasks():
    tasks = all_tasks()
    assert find_names(["winogender*", "rte"]) == [*sorted(n for n in tasks if n.startswith("winogender")), "rte"]
    assert find_names(["reading"]) == sorted(n for n, task in tasks.items() if task.group == "reading")
    assert {tasks[name].ability for name in find_names(["truthfulness", "toxicity"])} == {"truthfulness", "toxicity"}
    assert find_names(["diversity"]) == ["diversity"], "a name takes precedence"
    assert_one_line_error(run("tasks", "hellaswg"), "unknown task 'hellaswg'", "did you mean hellaswag")


def test_tasks_lists_one_line_a_task_and_all_of_one():
    lines = run("tasks").stdout.splitlines()
    assert len(lines) == 1 + len(all_tasks())
    assert any(line.split("\t")[:4] == ["rte", "capability", "common sense and inference", "acc"] for line in lines)
    shown = run("tasks", "rte").stdout
    assert {"acc", "family\trte"} <= set(shown.split("\n")) | set(shown.split()), shown
    (found,) = json.loads(run("tasks", "hellaswag", "--json").stdout)
    assert (found["task"], found["metrics"][0]["chance"]) == ("hellaswag", 0.25)


def test_engines_are_the_table_of_the_docs_and_an_endpoint_is_tested():
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in TABLE.splitlines()[2:]]
    names = ("engine", "logprobs", "entropies", "n", "seeds", "resume", "lora", "parallel", "use")
    assert rows == [[row[name] for name in names] for row in engines()]
    assert len(run("engines").stdout.splitlines()) == len(rows) + 2
    with StandIn(seed=False, echo=False) as server:
        (row,) = json.loads(run("engines", server.spec, "--json").stdout)
    assert [row[name] for name in ("logprobs", "n", "seeds")] == ["no", "yes", "no"]


TABLE = re.search(r"\n(\| engine \|.*?)\n\n", (ROOT / "docs" / "engines.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--model hf --model_args pretrained=a/b,revision=c,dtype=float32", "--engine local a/b@c --dtype float32"),
        ("--model_args model=m,base_url=http://h/v1/chat/completions", "http://h/v1#m"),
        ("--num_fewshot 2 --batch_size auto --log_samples --limit 3", "--shots 2 --limit 3"),
        ("--output_path=o --apply_chat_template --gen_kwargs top_k=3", "--out o --template chat --gen-kwargs top_k=3"),
        ("a_b --tasks x_y --scorer k=v_w", "a_b --tasks x_y --scorer k=v_w"),
    ],
)
def test_option_names_of_lm_eval(theirs, ours):
    assert translate(theirs.split()) == ours.split()


def test_a_command_of_lm_eval_gives_the_folder_of_ours(farm_model, world, tmp_path):
    more = ("--tasks", "hellaswag", "--limit", 2, "--data-dir", world)
    ours = run("evaluate", farm_model, "--dtype", "float32", "--shots", 1, "--out", tmp_path, *more)
    args = f"pretrained={farm_model},dtype=float32"
    theirs = run(
        "evaluate", "--model", "hf", "--model_args", args, "--num_fewshot", 1, "--output_path", tmp_path, *more
    )
    assert (ours.returncode, theirs.returncode) == (0, 0), theirs.stderr
    assert "already finished" in theirs.stderr
    assert_one_line_error(
        run("evaluate", "--model_args", "pretrained=x,peft=y"), "--model_args peft=…: no such argument"
    )


def test_the_python_api_is_listed_and_documented():
    names = set(alignbench.__all__) - {"AlignbenchError"}
    assert names <= set(dir(alignbench))
    assert all(getattr(alignbench, name).__doc__ for name in names)
    with pytest.raises(AlignbenchError, match="stage 'dpo2': choose sft, reward"):
        alignbench.train("dpo2")


def test_completion_is_offered():
    assert {"install_completion", "show_completion"} <= {own.name for own in get_command(app).params}

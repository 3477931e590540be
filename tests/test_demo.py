"""The demo: its plan, how its stages run, resume and fail, and the tables that compare demos of several seeds."""

import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from cases import cases, read_lines
from commands import assert_one_line_error, refusal
from commands import run as run_command
from demo_world import written
from filelock import FileLock
from stages import checkpoint, write_rows

from alignbench.demo import runner
from alignbench.demo.labelers import label_runs
from alignbench.demo.runner import CODE, Stage, plan, run
from alignbench.demo.world import FOLDER
from alignbench.models.checkpoint import find_checkpoint
from alignbench.progress import Progress
from alignbench.tasks import all_tasks

REPOSITORY = Path(__file__).parent.parent
TOY = {name: tuple(words) if isinstance(words, list) else words for name, words in cases("demo")["toy"].items()}


def python(name, body, reads=(), makes=()):
    """A stage that runs a few lines of Python in its demo's folder."""
    return Stage(name, ("plain", "-c", body), tuple(reads), tuple(makes))


@pytest.fixture
def out(monkeypatch, tmp_path):
    """The working folder, which is the demo's, and a module `plain` that runs the lines of a stage."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "plain.py").write_text("import sys\nexec(sys.argv[2])\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{REPOSITORY}")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return tmp_path / "out"


def test_each_stage_comes_after_those_that_make_what_it_reads_in_instructgpts_order(tmp_path):
    stages = plan(tmp_path)
    assert {s.name for s in plan(tmp_path, methods="all")} - {s.name for s in stages} == {"dpo", "rloo", "methods"}
    for some in (stages, plan(tmp_path, methods="all")):
        for number, stage in enumerate(some):
            assert not any(stage.needs(later) for later in some[number:]), stage.name
            for read in stage.reads:
                made = Stage("", (), (read,))
                assert read.startswith(str(CODE)) or any(made.needs(earlier) for earlier in some[:number]), read
    names = [stage.name for stage in stages]
    assert names[:8] == ["world", "base", "prompts", "sft", "rankings", "reward", "ppo", "ppo-ptx"]
    assert names[-2:] == ["audit", "report"]
    assert not stages[7].needs(stages[6]), "they run side by side"
    other = plan(tmp_path, seed=1)
    assert all(a.command != b.command for a, b in zip(stages[:-2], other[:-2], strict=True))


def test_every_task_but_a_few_is_evaluated_on_every_model_and_no_two_stages_write_to_a_run_at_once(tmp_path):
    def words_after(stage, option):
        return [word for before, word in pairwise(stage.command) if before == option]

    stages, asked, before, models = plan(tmp_path), defaultdict(set), {}, {}
    for number, stage in enumerate(stages):
        needed = {other.name for other in stages[:number] if stage.needs(other)}
        before[stage.name] = needed.union(*(before[other] for other in needed))
        evaluates = stage.command[1] == "evaluate"
        models[stage.name] = set(stage.command[2 : stage.command.index("--tasks")]) if evaluates else set()
        for other in (other.name for other in stages[:number] if models[stage.name] & models[other.name]):
            assert other in before[stage.name], f"{other} and {stage.name} could run side by side"
        tasks = {task for tasks in words_after(stage, "--tasks") for task in tasks.split(",")}
        for model in models[stage.name]:
            asked[str(Path(model).relative_to(tmp_path))] |= tasks
        own = [generation for name in tasks if (generation := all_tasks()[name].generation)]
        kinds = {kind for g in own for kind in (*g.scorers, *g.optional_scorers)}
        kinds &= {"truth", "info", "toxicity", "entailment", "preference"}  # kinds of scorers that know the world
        assert {word.split("=")[0] for word in words_after(stage, "--scorer")} - {"sentiment"} == kinds, stage.name
    absent = {"novelty_bench", "gsm8k", "instructions_code", "instructions_language"} | {
        name for name, task in all_tasks().items() if task.ability == "refusal"
    }
    missing = {model: set(all_tasks()) - tasks for model, tasks in asked.items() if model.endswith("final")}
    assert missing.pop("sft/final") == {*absent, "win_rate", "kl"}, "the others are compared with it"
    assert missing == {f"{model}/final": absent for model in ("base", "ppo", "ppo-ptx", "ppo-ptx-clean")}


def test_the_script_runs_every_command_by_hand(tmp_path, monkeypatch):
    stages = plan(Path("my demo"))
    expected = [line for s in stages for line in (tmp_path, len(s.command) - 1, *s.command[1:])]
    (tmp_path / "bin").mkdir()
    for name in ("alignbench", "torchrun"):
        (tmp_path / "bin" / name).write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$#" "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_begin", lambda stage, out, cores: None)
    run(stages, Path("my demo"))
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", "my demo/commands.sh"], capture_output=True, text=True, check=True, env=path).stdout
    assert said.splitlines() == list(map(str, expected))


def test_the_world_and_the_base_depend_on_the_code_that_makes_them(tmp_path, monkeypatch):
    code, hashes = tmp_path / "code", list[list[str]]()
    code.mkdir()
    monkeypatch.setattr(runner, "CODE", code)
    for file, text in (("pretrain.py", "1"), ("world.pyc", "1"), ("world.py", "1"), ("pretrain.py", "2")):
        (code / file).write_text(text)
        hashes.append([stage.hash(tmp_path) for stage in plan(tmp_path / "out")[:2]])
    first, cached, other_world, other_base = hashes
    assert cached == first
    assert other_world[0] != first[0]
    assert other_world[1] == first[1], "the base depends on the world's text, not on the code that wrote it"
    assert other_base[1] != first[1]


def test_a_stage_that_is_done_is_not_run_again_and_one_whose_input_changed_is(out):
    stages = [
        python("double", "open('number', 'w').write(str(2 * int(open('given').read())))", ["given"], ["number"]),
        python("tell", "print('it is', open('number').read())", ["number"]),
    ]
    log = out / "logs" / "tell.log"
    for given, said in (("1", ["it is 2"]), ("1", ["it is 2"]), ("4", ["it is 2", "it is 8"])):
        (out / "given").write_text(given)
        run(stages, out)
        assert [line for line in log.read_text().splitlines() if line.startswith("it is")] == said
    (out / "number").unlink()
    run(stages, out)
    assert (out / "number").read_text() == "8", "what was made and is gone is made again"
    goes = read_lines(out / "logs" / "goes.jsonl")
    assert [row["finished"] for row in goes] == [True] * 3, "of each time that it did something"
    assert {row["stage"] for row in read_lines(out / "logs" / "times.jsonl")} == {"double", "tell"}


def test_a_stage_with_other_input_begins_anew_and_a_failed_one_resumes(out, monkeypatch):
    """As a trainer refuses a folder that another training began."""
    trains = (
        "from pathlib import Path\ngiven, began = Path('given').read_text(), Path('trained/began')\n"
        "began.parent.mkdir(exist_ok=True)\nassert not began.exists() or began.read_text() == given, 'other data'\n"
        "began.write_text(given)\nPath('trained/steps').open('a').write('x')\nprint('so far')\n"
        "if not Path('lucky').exists(): raise SystemExit('error: the well is dry')"
    )
    evaluates = "import os\nos.makedirs('runs/sft-0123abcd', exist_ok=True)"
    stages = [
        python("train", trains, ["given"], ["trained"]),
        python("evaluate", evaluates, ["trained"], ["runs/sft-[0-9a-f]*"]),
    ]
    (out / "given").write_text("1")
    monkeypatch.setattr(runner, "plan", lambda out, seed, methods: stages)
    line = f"error: stage train failed: the well is dry; log: {out / 'logs' / 'train.log'}"
    assert_one_line_error(run_command("demo", "--out", out), line)
    assert not (out / "logs" / "evaluate.log").exists()
    assert [row["finished"] for row in read_lines(out / "logs" / "goes.jsonl")] == [False]
    (out / "lucky").touch()
    run(stages, out)
    assert (out / "trained" / "steps").read_text() == "xx", "the same input resumes"
    for other in ("sft-99999999", "ppo-11111111"):
        (out / "runs" / other).mkdir()
    (out / "given").write_text("2")
    run(stages, out)
    assert (out / "trained" / "steps").read_text() == "x", "other input begins anew"
    assert {path.name for path in (out / "runs").iterdir()} == {"ppo-11111111", "sft-0123abcd"}
    assert str(out / "later") in refusal(lambda: run([python("empty", "print(1)", makes=["later"])], out))


def test_two_stages_run_side_by_side_with_their_part_of_the_threads(out):
    meets = "import time, os\nopen({!r}, 'w')\nend = time.monotonic() + 30\n"
    meets += "while not os.path.exists({!r}):\n assert time.monotonic() < end\n time.sleep(0.05)"
    run([python("one", meets.format("a", "b")), python("other", meets.format("b", "a"))], out, cores=2)
    alone = "import os\nassert not os.path.exists('busy')\nopen('busy', 'w')\nprint(os.environ['OMP_NUM_THREADS'])"
    alone += "\nos.remove('busy')"
    run([python("first", alone), python("second", alone)], out, cores=1)
    run([python("third", alone)], out, cores=64)
    threads = [(out / "logs" / f"{name}.log").read_text().splitlines()[-1] for name in ("first", "second", "third")]
    assert threads == ["1", "1", "4"], "four at most"


def test_the_progress_of_a_stage_is_that_of_its_operations_in_the_log_of_its_last_start(tmp_path):
    log, found = tmp_path / "log", list[float]()
    lines = ("$ a command", "sft: 10 steps", "sft: 5/10 steps, 2.0/s, 2 s left", "$ again", "loading base")
    lines += ("base squad2: 8 documents", "base squad2: 4/8 documents, 1.0 s each, 4 s left", "base drop: 4 documents")
    for line in lines:
        with log.open("a") as file:
            file.write(f"{line}\n")
        found.append(runner.worked_so_far(log, 2))
    assert found == [0, 0, 0.25, 0, 0, 0, 0.25, 0.5]
    assert {stage.operations for stage in plan(tmp_path) if stage.name == "checkpoints"} == {2 * 4}


class Estimates(Progress):
    def _show(self, units, rate, left, detail):
        self.done = [*getattr(self, "done", []), self._done]


def test_the_demos_progress_is_in_percent_of_the_expected_time_and_ends_at_100(out):
    stages = [replace(python(name, "print(1)"), seconds=seconds) for name, seconds in (("one", 1.0), ("two", 3.0))]
    progress = Estimates()
    run(stages[:1], out)
    run(stages, out, progress=progress, cores=1)
    assert progress.done[0] == pytest.approx(25), "what was done before counts, but not for the rate"
    assert progress.done[-1] == pytest.approx(100)


def test_a_folder_is_one_demo_of_one_seed_and_two_runs_of_one_name_are_not_labelled_as_one(out):
    stages = [python("one", "print(1)")]
    run(stages, out, seed=3)
    before = sorted(out.rglob("*"))
    assert_one_line_error(run_command("demo", "--out", out, "--seed", 4), "a demo of seed 3")
    assert sorted(out.rglob("*")) == before, "nothing was written"
    with FileLock(out / "logs" / ".lock"):
        assert "another demo is running" in refusal(run, stages, out, seed=3)
    (out / "file").write_text("")
    assert "file: cannot be written" in refusal(run, stages, out / "file")
    for run_of in ("sft-1", "sft-2"):
        write_task(out / run_of / "answers-1", "answers", {"name": "sft"}, 0.0)
    line = refusal(label_runs, out, written(), out / "labels.jsonl")
    assert ("sft-1" in line, "sft-2" in line, (out / "labels.jsonl").exists()) == (True, True, False)


SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without
from alignbench.cli.app import main
from alignbench.demo import runner
body = "import time\\nfor step in range(len(open('steps', 'a+').read() or open('steps').read()), 60):\\n" \\
       " open('steps', 'a').write('x')\\n time.sleep(0.1)\\n"
runner.plan = lambda out, seed, methods: (runner.Stage("slow", ("plain", "-c", body), makes=("steps",)),)
sys.argv[1:] = ["demo", "--out", "."]
main()
"""


def test_a_killed_demo_leaves_no_stage_behind_and_resumes(out):
    def steps():
        return len((out / "steps").read_text()) if (out / "steps").exists() else 0

    for kill, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before, end = steps(), time.monotonic() + 60
        demo = subprocess.Popen([sys.executable, "-c", SLOW], stderr=subprocess.PIPE, text=True)
        while steps() == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        demo.send_signal(kill)
        _, said = demo.communicate(timeout=60)
        assert demo.returncode == code
        assert "Traceback" not in said
        while (left := steps()) < 60:
            time.sleep(1)
            if left == steps():
                break
        assert left < 60, "the stage ended with its demo"
    subprocess.run([sys.executable, "-c", SLOW], timeout=60, check=True, capture_output=True)
    assert (out / "steps").read_text() == "x" * 60


def test_the_stages_in_one_process_at_toy_size(tmp_path):
    """Every stage except those that other tests run (world, prompts) or that take long (report)."""
    (tmp_path / "prompts").mkdir()
    shutil.copytree(written(), tmp_path / "world")
    for name, rows in (("pretraining", 300), ("lessons", 100), ("prompts", 60)):
        file = tmp_path / "world" / FOLDER / f"{name}.jsonl"
        write_rows(tmp_path / "prompts" / "train.jsonl" if name == "prompts" else file, read_lines(file)[:rows])
    for stage in plan(tmp_path, sizes=TOY, methods="all"):
        if stage.name not in ("world", "prompts", "report"):
            done = run_command(*stage.command[stage.command.index("alignbench") + 1 :])
            assert done.returncode == 0, (stage.name, done.stderr)
            assert stage.missing(tmp_path) is None, stage.name
    check(tmp_path, "dpo", "rloo", "sft best of 2")


def check(out, *others):
    models = {"base", "sft", "ppo", "ppo-ptx", "ppo-ptx-clean", *others}
    systems = {json.loads(file.read_text())["model"]["name"] for file in (out / "runs").glob("*/run.json")}
    assert systems == {*models, "ppo-iteration-1"}
    lineage = json.loads((out / "ppo" / "final" / "recipe.json").read_text())["lineage"]
    assert [ancestor["stage"] for ancestor in lineage] == ["base", "sft"]
    assert "squad2" in (out / "audit.csv").read_text()
    assert {row["model"] for row in read_lines(out / "labels.jsonl")} == models
    for task, number in (("win_rate", 4 + len(others)), ("recitations", 5)):
        assert len(list((out / "runs").glob(f"*/{task}-*/result.json"))) == number


@pytest.mark.slow
def test_the_whole_demo_in_processes_at_toy_size_ends_in_an_audit_and_a_report(tmp_path):
    run(plan(tmp_path, sizes=TOY), tmp_path)
    check(tmp_path)
    assert (tmp_path / "report" / "index.html").is_file()
    times = (tmp_path / "logs" / "times.jsonl").read_text()
    run(plan(tmp_path, sizes=TOY), tmp_path)
    assert (tmp_path / "logs" / "times.jsonl").read_text() == times, "nothing is done twice"


@pytest.fixture(scope="module")
def bench():
    return SimpleNamespace(**runpy.run_path(str(REPOSITORY / "benchmarks" / "demo.py")))


COUNTS = {"n": 1, "n_scored": 1, "unscored": {}}
METRIC = {"category": None, "unit": "proportion", "better": "higher", "n": 1, "n_clusters": 1, "n_unscored": 0}
METRIC |= dict.fromkeys(("standard_error", "low", "high", "chance")) | {"bounds": [0, 1]}


def write_task(task, name, model, value):
    task.mkdir(parents=True)
    (task.parent / "run.json").write_text(json.dumps({"model": model}))
    about = {"task": name, "version": 1, "shots": 0, "limit": None, "seed": 0}
    (task / "task.json").write_text(json.dumps(about | {"data": []}))
    metrics = [METRIC | {"metric": name, "value": value}]
    if value is not None:
        (task / "documents.jsonl").touch()
        result = about | {"n": 0, "n_scored": 0, "unscored": {}, "metrics": metrics}
        (task / "result.json").write_text(json.dumps(result))


def test_a_record_reads_the_last_run_of_a_stage_and_the_runs_of_the_current_weights(bench, tmp_path, monkeypatch):
    values = ([1.0, 3.0], [1.0, math.nan, 3.0], [math.nan, 3.0], [3.0], [math.nan], [-2.0])
    # t(0.975, 1) = 12.706, standard error 1
    found = ["2.0 ± 12.7", "2.0 ± 12.7 (n = 2)", "3.0 (n = 1)", "3.0", "–", "−2.0"]
    assert [bench.interval(own, 1) for own in values] == found
    base = Path(checkpoint(tmp_path / "base"))
    weights, won = find_checkpoint(str(base)).weights_sha256, {"base": 0.25, "ppo": 0.75, "ppo-ptx": 0.7}
    went = {"seed-0": [(101.0, True)], "seed-1": [(5.0, False), (98.0, True)]}
    monkeypatch.setitem(bench.record.__globals__, "taxes_of", lambda demo: {"base": 0.0, "ppo": 4.0})
    for name, goes in went.items():
        demo = tmp_path / name
        for model in bench.MODELS:
            shutil.copytree(base, demo / model / "final")
            for run_of, sha, value in ((f"{model}-1", weights, won.get(model)), (f"{model}-2", "old", 0.1)):
                description = {"name": model, "weights_sha256": sha}
                write_task(demo / "runs" / run_of / "win_rate-1", "win_rate", description, value)
        for folder in ("reward", "logs"):
            (demo / folder).mkdir()
        write_rows(demo / "reward" / "metrics.jsonl", [{"accuracy": 0.5}, {"accuracy": 0.7}])
        times = [("world", 9.0, 9.0), ("world", 3.0, 2.0), ("base", 100.0, 180.0)]
        rows = [{"stage": stage, "seconds": wall, "cpu_seconds": cpu} for stage, wall, cpu in times]
        write_rows(demo / "logs" / "times.jsonl", rows)
        write_rows(demo / "logs" / "goes.jsonl", [{"seconds": wall, "finished": done} for wall, done in goes])
    seeds = [bench.record(tmp_path / name, seed) for seed, name in enumerate(went)]
    assert set(bench.tables({"machine": "a machine", "seeds": seeds})) > {
        "| win rate against SFT | higher | 0.250 ± 0.000 | – | 0.750 ± 0.000 | 0.700 ± 0.000 | – |",
        # sft − base, ppo − base, ppo − sft, ppo-ptx − ppo, ppo-ptx-clean − ppo-ptx
        "| win rate against SFT | higher | 0.250 ± 0.000 | 0.500 ± 0.000 | 0.250 ± 0.000 | −0.050 ± 0.000 | – |",
        "| mean tax of capabilities (% of range) | lower | 0.0 ± 0.0 | – | 4.0 ± 0.0 | – | – |",
        "| world | 3 ± 0 | 2 ± 0 |",
        "| the whole demo, stages side by side | 101 (n = 1) | 182 ± 0 |",  # one of them was stopped
    }
    assert "Reward model, held-out pairs: accuracy 0.700 ± 0.000." in bench.tables({"machine": "", "seeds": seeds})


def test_the_tables_of_the_readme_and_the_docs_are_those_of_the_recorded_run(bench):
    recorded = json.loads((REPOSITORY / "benchmarks" / "demo.json").read_text(encoding="utf-8"))
    assert len(recorded["seeds"]) == 3
    for page, lines in (("README.md", bench.readme(recorded)), ("docs/demo.md", bench.tables(recorded))):
        assert "\n".join(lines) in (REPOSITORY / page).read_text(encoding="utf-8"), page

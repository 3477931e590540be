"""The demo: its plan, how its stages run, and what happens to stages that are killed or fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from cases import cases
from commands import assert_one_line_error
from commands import run as run_command
from demo_world import written
from filelock import FileLock
from stages import lines_of, refusal, write_rows

from alignbench.demo import runner
from alignbench.demo.runner import CODE, Stage, plan, run
from alignbench.demo.world import FOLDER

REPOSITORY = Path(__file__).parent.parent
TOY = {name: words if isinstance(words, dict) else tuple(words) for name, words in cases("demo")["toy"].items()}


def python(name: str, body: str, reads: Sequence[str] = (), makes: Sequence[str] = ()) -> Stage:
    """A stage that runs a few lines of Python in its demo's folder."""
    return Stage(name, ("plain", "-c", body), tuple(reads), tuple(makes))


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder, which is the demo's, and a module `plain` that runs the lines of a stage."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "plain.py").write_text("import sys\nexec(sys.argv[2])\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{REPOSITORY}")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return tmp_path / "out"


# The plan


def test_each_stage_comes_after_those_that_make_what_it_reads_in_instructgpts_order(tmp_path: Path) -> None:
    stages = plan(tmp_path)
    for number, stage in enumerate(stages):
        assert not any(stage.needs(later) for later in stages[number:]), stage.name
        for read in stage.reads:
            made = Stage("", (), (read,))
            assert read.startswith(str(CODE)) or any(made.needs(earlier) for earlier in stages[:number]), read
    names = [stage.name for stage in stages]
    assert names[:8] == ["world", "base", "prompts", "sft", "rankings", "reward", "ppo", "ppo-ptx"]
    assert names[-2:] == ["audit", "report"]
    by_name = dict(zip(names, stages, strict=True))
    assert by_name["ppo"].needs(by_name["reward"])
    assert not by_name["ppo-ptx"].needs(by_name["ppo"]), "they run side by side"
    other = plan(tmp_path, seed=1)
    assert all(a.command != b.command for a, b in zip(stages, other, strict=True) if a.name not in ("audit", "report"))


def test_every_task_but_one_is_evaluated_on_every_model_and_no_two_stages_write_to_a_run_at_once(
    tmp_path: Path,
) -> None:
    from alignbench.tasks import all_tasks

    def words_after(stage: Stage, option: str) -> list[str]:
        return [word for before, word in pairwise(stage.command) if before == option]

    stages, asked, before = plan(tmp_path), dict[str, set[str]](), dict[str, set[str]]()
    models = {
        stage.name: set(stage.command[2 : stage.command.index("--tasks")]) if stage.command[1] == "evaluate" else set()
        for stage in stages
    }
    for number, stage in enumerate(stages):
        needed = {other.name for other in stages[:number] if stage.needs(other)}
        before[stage.name] = needed.union(*(before[other] for other in needed))
        tasks = {task for tasks in words_after(stage, "--tasks") for task in tasks.split(",")}
        for model in models[stage.name]:
            asked.setdefault(str(Path(model).relative_to(tmp_path)), set()).update(tasks)
        for other in (other.name for other in stages[:number] if models[stage.name] & models[other.name]):
            assert other in before[stage.name], f"{other} and {stage.name} could run side by side"
        own = [generation for name in tasks if (generation := all_tasks()[name].generation)]
        known = {"truth", "info", "toxicity", "entailment", "preference"}  # kinds of scorers that know the world
        kinds = known.intersection(*([kind for g in own for kind in (*g.scorers, *g.optional_scorers)],))
        assert {word.split("=")[0] for word in words_after(stage, "--scorer")} - {"sentiment"} == kinds, stage.name
    missing = {model: set(all_tasks()) - tasks for model, tasks in asked.items() if model.endswith("final")}
    assert missing.pop("sft/final") == {"novelty_bench", "win_rate"}, "the others are judged against it"
    assert missing == {f"{model}/final": {"novelty_bench"} for model in ("base", "ppo", "ppo-ptx")}


def test_every_command_exists_and_the_script_runs_it_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from alignbench.cli.app import app

    stages, expected = plan(Path("my demo")), ""
    for stage in stages:
        found, words = typer.main.get_command(app), list(stage.command[stage.command.index("alignbench") + 1 :])
        while words and words[0] in getattr(found, "commands", {}):
            found = found.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert len(words) < len(stage.command) - 1
        assert {word for word in words if word.startswith("--")} <= {name for p in found.params for name in p.opts}
        expected += "".join(f"{word}\n" for word in (tmp_path, len(stage.command) - 1, *stage.command[1:]))
    (tmp_path / "bin").mkdir()
    for name in ("alignbench", "torchrun"):
        (tmp_path / "bin" / name).write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$#" "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_begin", lambda stage, out, cores: None)
    run(stages, Path("my demo"))
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", "my demo/commands.sh"], capture_output=True, text=True, check=True, env=path).stdout
    assert said == expected


def test_the_world_and_the_base_depend_on_the_code_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# Running


def test_a_stage_that_is_done_is_not_run_again_and_one_whose_input_changed_is(out: Path) -> None:
    (out / "given").write_text("1")
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
    goes = lines_of(out / "logs" / "goes.jsonl")
    assert [row["finished"] for row in goes] == [True] * 3, "of each time that it did something"
    assert all(0 < row["seconds"] < 60 for row in goes)
    assert {row["stage"] for row in lines_of(out / "logs" / "times.jsonl")} == {"double", "tell"}


def test_a_stage_with_other_input_begins_anew_and_a_failed_one_resumes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(runner, "plan", lambda out, seed: stages)
    line = f"error: stage train failed: the well is dry; log: {out / 'logs' / 'train.log'}"
    assert_one_line_error(run_command("demo", "--out", out), line)
    assert not (out / "logs" / "evaluate.log").exists()
    assert [row["finished"] for row in lines_of(out / "logs" / "goes.jsonl")] == [False]
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


def test_two_stages_run_side_by_side_with_their_part_of_the_threads(out: Path) -> None:
    meets = "import time, os\nopen({!r}, 'w')\nend = time.monotonic() + 30\n"
    meets += "while not os.path.exists({!r}):\n assert time.monotonic() < end\n time.sleep(0.05)"
    run([python("one", meets.format("a", "b")), python("other", meets.format("b", "a"))], out, cores=2)
    alone = "import os\nassert not os.path.exists('busy')\nopen('busy', 'w')\nprint(os.environ['OMP_NUM_THREADS'])"
    alone += "\nos.remove('busy')"
    run([python("first", alone), python("second", alone)], out, cores=1)
    run([python("third", alone)], out, cores=64)
    threads = [(out / "logs" / f"{name}.log").read_text().splitlines()[-1] for name in ("first", "second", "third")]
    assert threads == ["1", "1", "4"], "four at most"


def test_a_folder_is_one_demo_of_one_seed(out: Path) -> None:
    stages = [python("one", "print(1)")]
    run(stages, out, seed=3)
    before = sorted(out.rglob("*"))
    assert_one_line_error(run_command("demo", "--out", out, "--seed", 4), "a demo of seed 3")
    assert sorted(out.rglob("*")) == before, "nothing was written"
    with FileLock(out / "logs" / ".lock"):
        assert "another demo is running" in refusal(lambda: run(stages, out, seed=3))
    (out / "file").write_text("")
    assert "file: cannot be written" in refusal(lambda: run(stages, out / "file"))


SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without
from alignbench.cli.app import main
from alignbench.demo import runner
body = "import time\\nfor step in range(len(open('steps', 'a+').read() or open('steps').read()), 30):\\n" \\
       " open('steps', 'a').write('x')\\n time.sleep(0.1)\\n"
runner.plan = lambda out, seed: (runner.Stage("slow", ("plain", "-c", body), makes=("steps",)),)
sys.argv[1:] = ["demo", "--out", "."]
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_a_killed_demo_leaves_no_stage_behind_and_resumes(out: Path) -> None:
    def steps() -> int:
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
        time.sleep(0.3)
        left = steps()
        time.sleep(0.3)
        assert left == steps() < 30, "the stage ended with its demo"
    subprocess.run([sys.executable, "-c", SLOW], timeout=60, check=True, capture_output=True)
    assert (out / "steps").read_text() == "x" * 30


# The whole demo


def test_the_stages_in_one_process_at_toy_size(tmp_path: Path) -> None:
    """Every stage except those that other tests run (world, prompts) or that take long (report)."""
    (tmp_path / "prompts").mkdir()
    shutil.copytree(written(), tmp_path / "world")
    for name, rows in (("pretraining", 300), ("lessons", 100), ("prompts", 60)):
        file = tmp_path / "world" / FOLDER / f"{name}.jsonl"
        write_rows(tmp_path / "prompts" / "train.jsonl" if name == "prompts" else file, lines_of(file)[:rows])
    for stage in plan(tmp_path, sizes=TOY):
        if stage.name not in ("world", "prompts", "report"):
            done = run_command(*stage.command[stage.command.index("alignbench") + 1 :])
            assert done.returncode == 0, (stage.name, done.stderr)
            assert stage.missing(tmp_path) is None, stage.name
    check(tmp_path)


def check(out: Path) -> None:
    models = {"base", "sft", "ppo", "ppo-ptx"}
    systems = {json.loads(file.read_text())["model"]["name"] for file in (out / "runs").glob("*/run.json")}
    assert systems == {*models, "ppo-iteration-1"}
    lineage = json.loads((out / "ppo" / "final" / "recipe.json").read_text())["lineage"]
    assert [ancestor["stage"] for ancestor in lineage] == ["base", "sft"]
    assert "squad2" in (out / "audit.csv").read_text()
    assert {row["model"] for row in lines_of(out / "labels.jsonl")} == models
    for task, number in (("win_rate", 3), ("recitations", 4)):
        assert len(list((out / "runs").glob(f"*/{task}-*/result.json"))) == number


@pytest.mark.slow
def test_the_whole_demo_in_processes_at_toy_size_ends_in_an_audit_and_a_report(tmp_path: Path) -> None:
    run(plan(tmp_path, sizes=TOY), tmp_path)
    check(tmp_path)
    assert (tmp_path / "report" / "index.html").is_file()
    times = (tmp_path / "logs" / "times.jsonl").read_text()
    run(plan(tmp_path, sizes=TOY), tmp_path)
    assert (tmp_path / "logs" / "times.jsonl").read_text() == times, "nothing is done twice"

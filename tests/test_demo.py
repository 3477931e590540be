"""The demo: its plan, and what happens to stages that are killed or fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from stages import refusal

from alignbench.demo import pretrain as pretraining
from alignbench.demo import stages as planning
from alignbench.demo.runner import hash_of, is_done, keep_seed, needs, run, script, shortened, shown
from alignbench.demo.screen import Screen
from alignbench.demo.stages import CODE, Sizes, Stage, plan, stamp

REPOSITORY = Path(__file__).parent.parent


def lines(out: Path, stage: str) -> list[str]:
    return (out / "logs" / f"{stage}.log").read_text().splitlines()


def python(name: str, body: str, **of_stage: object) -> Stage:
    """A stage that runs a few lines, as `alignbench` is not needed to see how stages are run."""
    return Stage(name, ("-c", body), **of_stage)  # type: ignore[arg-type]


@pytest.fixture
def plain_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`python -m alignbench -c BODY` runs BODY."""
    package = tmp_path / "stand-in" / "alignbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys\nexec(sys.argv[2])\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)


def test_each_stage_comes_after_those_that_make_what_it_reads(tmp_path: Path) -> None:
    stages = plan(tmp_path)
    for number, stage in enumerate(stages):
        assert not any(needs(stage, later, tmp_path) for later in stages[number:]), stage.name
        for read in stage.reads:
            assert read.is_relative_to(CODE) or any(
                read == made or made in read.parents
                for earlier in stages[:number]
                for made in (*earlier.makes, stamp(tmp_path, earlier.name))
            ), f"nobody makes {read} before {stage.name}"


def test_the_order_is_instructgpts(tmp_path: Path) -> None:
    names = [stage.name for stage in plan(tmp_path)]
    training = ["world", "base", "prompts", "sft", "rankings", "reward", "ppo", "ppo-ptx"]
    assert names[: len(training)] == training
    assert names[-2:] == ["audit", "report"]
    by_name = {stage.name: stage for stage in plan(tmp_path)}
    assert needs(by_name["rankings"], by_name["sft"], tmp_path)
    assert needs(by_name["reward"], by_name["rankings"], tmp_path)
    assert needs(by_name["ppo"], by_name["reward"], tmp_path)
    assert not needs(by_name["ppo-ptx"], by_name["ppo"], tmp_path), "they run side by side"
    assert not needs(by_name["evaluate-base"], by_name["sft"], tmp_path)


def test_every_task_but_one_is_evaluated_on_every_model(tmp_path: Path) -> None:
    from alignbench.tasks import all_tasks

    asked: dict[str, set[str]] = {}
    for stage in plan(tmp_path):
        if stage.command[0] == "evaluate":
            place = stage.command.index("--tasks")
            tasks = stage.command[place + 1].split(",")
            for model in ("base", "sft/final", "ppo/final", "ppo-ptx/final"):
                if str(tmp_path / model) in stage.command[:place]:
                    asked.setdefault(model, set()).update(tasks)
    assert len(asked) == 4
    assert set(all_tasks()) - asked.pop("sft/final") == {"novelty_bench", "win_rate"}, "others are judged against it"
    assert all(set(all_tasks()) - tasks == {"novelty_bench"} for tasks in asked.values())


def test_every_command_is_one_that_alignbench_has(tmp_path: Path) -> None:
    import typer

    from alignbench.cli.app import app

    root = typer.main.get_command(app)
    for stage in plan(tmp_path):
        command = root
        for word in stage.command:
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]  # type: ignore[attr-defined]
        assert command is not root, shown(stage.command)
        options = {name for parameter in command.params for name in parameter.opts}
        given = {word for word in stage.command if word.startswith("--")}
        assert given <= options, shown(stage.command)


def written_by(stage: Stage) -> set[str]:
    """The checkpoints whose run folders an evaluation writes to."""
    return set(stage.command[1 : stage.command.index("--tasks")]) if stage.command[0] == "evaluate" else set()


def follows(stages: Sequence[Stage], out: Path) -> dict[str, set[str]]:
    """stage -> all stages that are over before it begins, directly or not."""
    found: dict[str, set[str]] = {}
    for number, stage in enumerate(stages):
        direct = [other.name for other in stages[:number] if needs(stage, other, out)]
        found[stage.name] = {*direct, *(name for before in direct for name in found[before])}
    return found


def test_no_two_stages_write_to_a_run_folder_at_the_same_time(tmp_path: Path) -> None:
    stages = plan(tmp_path)
    before = follows(stages, tmp_path)
    pairs = [(a, b) for n, a in enumerate(stages) for b in stages[n + 1 :] if written_by(a) & written_by(b)]
    assert {"samples", "win-rates"} <= {b.name for _, b in pairs}, "they share the runs of the evaluations"
    for a, b in pairs:
        assert a.name in before[b.name], f"{a.name} and {b.name} could run side by side"


def test_an_evaluation_fills_the_runs_of_its_own_checkpoints_alone(tmp_path: Path) -> None:
    for stage in plan(tmp_path):
        models = {Path(path).parent.name if path.endswith("final") else Path(path).name for path in written_by(stage)}
        models = {f"ppo-{model}" if model.startswith("iteration") else model for model in models}
        filled = {fill.split("/")[0] for fill in stage.fills}
        assert filled == {f"{model}-{'[0-9a-f]' * 8}" for model in models}, stage.name


def test_another_seed_is_another_demo(tmp_path: Path) -> None:
    one, other = plan(tmp_path, 0), plan(tmp_path, 1)
    assert all(a.command != b.command for a, b in zip(one, other, strict=True) if a.name not in ("audit", "report"))


@pytest.mark.usefixtures("plain_python")
def test_a_stage_that_is_done_is_not_run_again_and_one_whose_input_changed_is(tmp_path: Path) -> None:
    out, made = tmp_path / "out", tmp_path / "out" / "number"
    (out / "given").parent.mkdir()
    (out / "given").write_text("1")
    stages = [
        python("double", f"open({str(made)!r}, 'w').write(str(2 * int(open({str(out / 'given')!r}).read())))",
               reads=(out / "given",), makes=(made,)),
        python("tell", f"print('it is', open({str(made)!r}).read())", reads=(made,)),
    ]  # fmt: skip
    run(stages, out, 2)
    run(stages, out, 2)
    assert [line for line in lines(out, "tell") if line.startswith("it is")] == ["it is 2"]
    (out / "given").write_text("4")
    run(stages, out, 2)
    assert lines(out, "tell")[-1] == "it is 8"
    made.unlink()
    run(stages, out, 2)
    assert made.read_text() == "8", "what was made and is gone is made again"


@pytest.mark.usefixtures("plain_python")
def test_a_stage_with_other_input_begins_anew_and_keeps_nothing_of_before(tmp_path: Path) -> None:
    """As a trainer refuses a folder that another training began."""
    out = tmp_path / "out"
    given, folder, run_of = out / "given", out / "trained", out / "runs" / "sft-0123abcd"
    out.mkdir()
    trains = (
        f"import pathlib\ngiven = pathlib.Path({str(given)!r}).read_text()\nfolder = pathlib.Path({str(folder)!r})\n"
        f"folder.mkdir(exist_ok=True)\nbegan = folder / 'began'\n"
        f"assert not began.exists() or began.read_text() == given, 'began with other data'\n"
        f"began.write_text(given)\n(folder / 'steps').open('a').write('x')\n"
        f"assert pathlib.Path({str(out / 'lucky')!r}).exists(), 'killed'"
    )
    evaluates = f"import pathlib\nfolder = pathlib.Path({str(run_of)!r})\nfolder.mkdir(parents=True, exist_ok=True)"
    stages = [
        python("train", trains, reads=(given,), makes=(folder,)),
        python("evaluate", evaluates, reads=(folder,), fills=("sft-[0-9a-f]*",)),
    ]
    given.write_text("1")
    refusal(lambda: run(stages, out, 2))
    (out / "lucky").touch()
    run(stages, out, 2)
    assert (folder / "steps").read_text() == "xx", "the same input goes on where it stood"
    old, of_others = out / "runs" / "sft-99999999", out / "runs" / "ppo-11111111"
    old.mkdir()
    of_others.mkdir()
    given.write_text("2")
    run(stages, out, 2)
    assert (folder / "steps").read_text() == "x", "other input begins anew"
    assert sorted((out / "runs").iterdir()) == [of_others, run_of], "runs of other weights are gone"
    run_of.rmdir()
    run(stages, out, 2)
    assert run_of.exists(), "a run that is gone is made again"


def test_the_world_and_the_base_depend_on_the_code_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for file in ("pretrain.py", "facts.py"):
        (code / file).write_text("1")
    monkeypatch.setattr(planning, "CODE", code)
    stages = {stage.name: stage for stage in plan(tmp_path / "out")}

    def hashes() -> tuple[str, str]:
        return hash_of(stages["world"]), hash_of(stages["base"])

    first = hashes()
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "facts.cpython-311.pyc").write_text("1")
    assert hashes() == first
    (code / "facts.py").write_text("2")
    assert hashes()[0] != first[0]
    assert hashes()[1] == first[1], "the base depends on the world's text, not on what wrote it"
    (code / "pretrain.py").write_text("2")
    assert hashes()[1] != first[1]


def test_the_time_that_remains_counts_each_core_of_a_stage() -> None:
    stages = [Stage("wide", (), cores=2, seconds=100), Stage("one", (), seconds=40), Stage("two", (), seconds=20)]
    assert Screen(stages, 2).remaining({}) == 130
    assert Screen(stages, 8).remaining({}) == 130, "two stages run side by side at most"
    assert Screen(stages, 1).remaining({}) == 260
    screen = Screen(stages, 2)
    assert screen.remaining({"wide": (50.0, "")}) == 80
    screen.done(stages[0], 200.0)
    assert screen.remaining({}) == 60, "at the pace of what ended"


@pytest.mark.usefixtures("plain_python")
def test_stages_that_do_not_need_one_another_run_side_by_side(tmp_path: Path) -> None:
    def waits_for(own: Path, other: Path) -> str:
        return (
            f"import time, pathlib\npathlib.Path({str(own)!r}).touch()\n"
            f"end = time.monotonic() + 20\n"
            f"while not pathlib.Path({str(other)!r}).exists():\n assert time.monotonic() < end\n time.sleep(0.05)"
        )

    here, there = tmp_path / "here", tmp_path / "there"
    meet = [python("one", waits_for(here, there)), python("other", waits_for(there, here))]
    run(meet, tmp_path / "two", 2)
    assert is_done(meet[1], tmp_path / "two", hash_of(meet[1]))
    for file in (here, there):
        file.unlink()
    alone = [python("one", f"assert not __import__('os').path.exists({str(here)!r})"), python("other", "print(1)")]
    run(alone, tmp_path / "one", 1)
    times = [json.loads(line)["stage"] for line in (tmp_path / "one" / "logs" / "times.jsonl").read_text().splitlines()]
    assert times == ["one", "other"]


@pytest.mark.usefixtures("plain_python")
def test_a_stage_that_fails_ends_the_demo_with_one_line_that_names_its_log(tmp_path: Path) -> None:
    later = tmp_path / "later"
    stages = [
        python("first", f"print('so far')\nopen({str(tmp_path / 'made')!r}, 'w')", makes=(tmp_path / "made",)),
        python("bad", "import sys\nsys.exit('error: the well is dry')", reads=(tmp_path / "made",), makes=(later,)),
        python("after", "print(1)", reads=(later,)),
    ]
    line = refusal(lambda: run(stages, tmp_path, 2))
    assert "bad" in line
    assert "the well is dry" in line
    assert str(tmp_path / "logs" / "bad.log") in line
    assert not (tmp_path / "logs" / "after.log").exists()
    promised = [python("empty", "print(1)", makes=(later,))]
    assert str(later) in refusal(lambda: run(promised, tmp_path, 2))


def test_the_command_ends_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "demo" / "world").mkdir(parents=True)
    (tmp_path / "demo" / "world" / "demo-world").write_text("a file where a folder should be")
    command = [sys.executable, "-m", "alignbench", "demo", "--out", str(tmp_path / "demo")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert ended.returncode == 2
    assert "stage world failed" in ended.stderr.splitlines()[-1]
    assert ended.stderr.splitlines()[-1].startswith("error: ")


def test_a_folder_is_a_demo_of_one_seed(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    keep_seed(out, 3)
    keep_seed(out, 3)
    before = sorted(out.rglob("*"))
    command = [sys.executable, "-m", "alignbench", "demo", "--out", str(out), "--seed", "4"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert ended.returncode == 2
    assert "seed 3" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert sorted(out.rglob("*")) == before, "nothing was written"
    (tmp_path / "file").write_text("")
    assert "file" in refusal(lambda: keep_seed(tmp_path / "file", 0))


@pytest.mark.usefixtures("plain_python")
def test_a_demo_in_a_folder_where_another_is_at_work_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with FileLock(tmp_path / "logs" / ".lock"):
        assert "another demo is at work" in refusal(lambda: run([python("one", "print(1)")], tmp_path, 2))
    assert not (tmp_path / "logs" / "one.log").exists()
    run([python("one", "print(1)")], tmp_path, 2)


@pytest.mark.usefixtures("plain_python")
def test_the_whole_time_of_a_demo_is_kept_where_it_did_something(tmp_path: Path) -> None:
    stages = [python("one", "import time\ntime.sleep(0.5)")]
    for _ in range(2):
        run(stages, tmp_path, 2)
    [row] = [json.loads(line) for line in (tmp_path / "logs" / "goes.jsonl").read_text().splitlines()]
    assert row["finished"]
    assert 0.5 <= row["seconds"] < 30
    bad = [python("bad", "import sys\nsys.exit(1)")]
    refusal(lambda: run(bad, tmp_path, 2))
    assert [json.loads(line)["finished"] for line in (tmp_path / "logs" / "goes.jsonl").open()] == [True, False]


def test_all_commands_can_be_run_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell reads the file to the very words of each stage."""
    monkeypatch.chdir(tmp_path)
    stages = plan(Path("my demo"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "alignbench").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$#" "$@"\n')
    (tmp_path / "bin" / "alignbench").chmod(0o755)
    (tmp_path / "commands.sh").write_text(script(stages))
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    said = subprocess.run(
        ["sh", str(tmp_path / "commands.sh")], capture_output=True, text=True, check=True, cwd="/", env={"PATH": path}
    ).stdout
    expected = [f"{tmp_path}\n{len(stage.command)}\n" + "".join(f"{w}\n" for w in stage.command) for stage in stages]
    assert said == "".join(expected)


def test_a_long_command_is_shortened_on_the_screen_and_names_where_it_is_in_full(tmp_path: Path) -> None:
    assert shortened(("demo", "world", "demo/world"), Path("demo")) == "alignbench demo world demo/world"
    [evaluation] = [stage for stage in plan(Path("demo")) if stage.name == "evaluate-base"]
    line = shortened(evaluation.command, Path("demo"))
    assert line == "alignbench evaluate demo/base … (in full in demo/commands.sh)"


@pytest.mark.parametrize(
    ("cores", "of_stage", "threads"), [(1, 1, 1), (2, 1, 1), (2, 2, 2), (8, 1, 4), (64, 1, 4), (64, 2, 4)]
)
@pytest.mark.usefixtures("plain_python")
def test_a_stage_has_its_share_of_the_threads_and_four_at_most(
    tmp_path: Path, cores: int, of_stage: int, threads: int
) -> None:
    run([python("one", "import os\nprint(os.environ['OMP_NUM_THREADS'])", cores=of_stage)], tmp_path, cores)
    assert lines(tmp_path, "one")[-1] == str(threads)


INTERRUPTED = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without
from alignbench.cli.app import main
from alignbench.demo import stages
stages.plan = lambda out, seed: (stages.Stage("world", ("-c", "import time; time.sleep(60)")),)
sys.argv[1:] = ["demo", "--out", sys.argv[1]]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT")
def test_an_interrupted_demo_says_that_it_goes_on(tmp_path: Path, plain_python: None) -> None:
    stand_in = Path(os.environ["PYTHONPATH"])
    (stand_in / "alignbench" / "__init__.py").write_text(
        f"__path__.append({str(REPOSITORY / 'alignbench')!r})\n__version__ = '0'\n"
    )
    out = tmp_path / "out"
    demo = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(out)], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (out / "logs" / "world.log").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert said.splitlines()[-1] == "stopped; the same command goes on where it stood"
    assert "Traceback" not in said


KILLED = """
import sys
from pathlib import Path
from alignbench.demo.runner import run
from alignbench.demo.stages import Stage
out = Path(sys.argv[1])
body = (
    "import pathlib, time\\n"
    f"file = pathlib.Path({str(out / 'steps')!r})\\n"
    "done = len(file.read_text()) if file.exists() else 0\\n"
    "for step in range(done, 40):\\n open(file, 'a').write('x')\\n time.sleep(0.1)\\n"
)
run([Stage("slow", ("-c", body), makes=(out / "steps",))], out, 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_a_killed_demo_goes_on_and_leaves_no_stage_behind(tmp_path: Path, plain_python: None) -> None:
    stand_in = os.environ["PYTHONPATH"]
    (Path(stand_in) / "alignbench" / "__init__.py").write_text(
        f"__path__.append({str(REPOSITORY / 'alignbench')!r})\n__version__ = '0'\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", KILLED, str(out)]
    demo = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (out / "steps").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    demo.send_signal(signal.SIGKILL)
    demo.wait()
    time.sleep(0.5)
    left = (out / "steps").read_text()
    time.sleep(0.5)
    assert (out / "steps").read_text() == left, "the stage ended with its demo"
    assert len(left) < 40
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    assert len((out / "steps").read_text()) == 40


TOY = Sizes(
    pretraining=("tokens=6000", "hidden=32", "intermediate=64", "layers=1", "heads=1", "vocabulary=1024"),
    sft=("epochs=1", "batch=64", "pretraining_tokens=32"),
    rankings=("--number", "16"),
    reward=("epochs=1", "batch=64"),
    ppo=("episodes=16", "batch=8", "minibatch=8", "max_tokens=8", "checkpoint_every=1"),
    ptx=("ptx=1.0", "ptx_examples=1", "ptx_tokens=32"),
    tasks=("answers", "squad2", "truthfulqa_generation", "recitations"),
    limit=4,
    limit_of_long=2,
    iterations=(1,),
)


def test_the_whole_demo_at_toy_size_ends_in_an_audit_and_a_report(tmp_path: Path) -> None:
    """Every stage is a process of its own: this takes a minute or two."""
    out = tmp_path / "demo"
    run(plan(out, sizes=TOY), out, pretraining.cores())
    systems = {json.loads(file.read_text())["model"]["name"] for file in (out / "runs").glob("*/run.json")}
    assert systems == {"base", "sft", "ppo", "ppo-ptx", "ppo-iteration-1"}
    lineage = json.loads((out / "ppo-ptx" / "final" / "recipe.json").read_text())["lineage"]
    assert [ancestor["stage"] for ancestor in lineage] == ["base", "sft"]
    assert len(list((out / "runs").glob("*/win_rate-*/result.json"))) == 3
    assert len(list((out / "runs").glob("*/recitations-*/result.json"))) == 4
    assert "squad2" in (out / "audit.csv").read_text()
    assert (out / "report" / "index.html").is_file()
    assert {json.loads(line)["model"] for line in (out / "labels.jsonl").read_text().splitlines()} == {
        "base", "sft", "ppo", "ppo-ptx",
    }  # fmt: skip
    times = (out / "logs" / "times.jsonl").read_text()
    run(plan(out, sizes=TOY), out, pretraining.cores())
    assert (out / "logs" / "times.jsonl").read_text() == times, "nothing is done twice"

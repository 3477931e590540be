"""The demo: its plan, what happens to stages that are killed or fail, and pretraining that goes on where it stood."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stages import refusal, same_weights, write_rows

from alignbench.demo import pretrain as pretraining
from alignbench.demo.pretrain import Pretraining, pack_rows, pretrain
from alignbench.demo.runner import hash_of, is_done, needs, run, shown
from alignbench.demo.stages import Sizes, Stage, plan, stamp

REPOSITORY = Path(__file__).parent.parent
SMALL = {"vocabulary": 300, "hidden": 16, "intermediate": 16, "layers": 1, "heads": 1, "row": 32, "rows": 4}
TEXT = [f"A zib eats {food} at {place}." for food in ("moss", "salt", "figs") for place in ("home", "sea", "noon")]


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
            assert any(
                read == made or made in read.parents
                for earlier in stages[:number]
                for made in (*earlier.makes, stamp(tmp_path, earlier.name))
            ), f"nobody makes {read} before {stage.name}"


def test_the_order_is_instructgpts(tmp_path: Path) -> None:
    names = [stage.name for stage in plan(tmp_path)]
    training = ["world", "base", "prompts", "sft", "reward", "ppo", "ppo-ptx"]
    assert names[: len(training)] == training
    assert names[-2:] == ["audit", "report"]
    by_name = {stage.name: stage for stage in plan(tmp_path)}
    assert needs(by_name["reward"], by_name["sft"], tmp_path)
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

    from alignbench.cli import app

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


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 5))
def test_packing_keeps_every_document_whole_and_every_row_within_its_length(lengths: list[int], seed: int) -> None:
    documents = [[number + 1] * length for number, length in enumerate(lengths)]
    rows = pack_rows(documents, 32, 0, random.Random(seed))
    assert all(0 < len(row) <= 32 for row in rows)
    found: dict[int, int] = {}
    for row in rows:
        pieces = [piece for piece in " ".join(map(str, row)).split(" 0") if piece.strip()]
        for piece in pieces:
            tokens = piece.split()
            assert len(set(tokens)) == 1, "documents do not mix"
            found[int(tokens[0])] = len(tokens)
    assert found == {number + 1: min(length, 32) for number, length in enumerate(lengths)}


class KilledError(Exception):
    pass


def settings(folder: Path, out: str, **changed: object) -> Pretraining:
    text = write_rows(folder / "text.jsonl", [{"text": text} for text in TEXT * 4])
    return Pretraining(text=text, out=str(folder / out), **(SMALL | {"tokens": 1500, "warmup": 3} | changed))  # type: ignore[arg-type]


def test_pretraining_that_was_killed_and_goes_on_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(pretraining.Progress):
        steps = 0

        def advance(self) -> None:
            self.steps += 1
            if self.steps == 6:
                raise KilledError

    monkeypatch.setattr(pretraining, "SAVE_SECONDS", 0.0)
    whole = pretrain(settings(tmp_path, "whole"), processes=1)
    with pytest.raises(KilledError):
        pretrain(settings(tmp_path, "resumed"), processes=1, progress=Dies())
    assert (tmp_path / "resumed" / "state.pt").is_file()
    assert not (tmp_path / "resumed" / "model.safetensors").exists()
    resumed = pretrain(settings(tmp_path, "resumed"), processes=1)
    assert same_weights(whole, resumed)
    assert (whole / "pretraining.json").read_bytes() == (resumed / "pretraining.json").read_bytes()
    assert not (resumed / "state.pt").exists()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    one = pretrain(settings(tmp_path, "one"), processes=1)
    two = pretrain(settings(tmp_path, "two"), processes=2)
    assert same_weights(one, two)
    losses = json.loads((one / "pretraining.json").read_text())["losses"]
    assert losses[-1] < losses[0] - 0.5, "it learns"


def test_the_base_model_is_a_checkpoint_without_a_lineage(tmp_path: Path) -> None:
    from alignbench.models.checkpoint import find_checkpoint

    found = find_checkpoint(str(pretrain(settings(tmp_path, "base", tokens=200), processes=1)))
    assert (found.name, found.lineage, found.model_type) == ("base", (), "llama")


def test_another_text_or_setting_is_learned_anew(tmp_path: Path) -> None:
    out = pretrain(settings(tmp_path, "base", tokens=200), processes=1)
    first = (out / "pretraining.json").read_bytes()
    pretrain(settings(tmp_path, "base", tokens=200, seed=1), processes=1)
    assert (out / "pretraining.json").read_bytes() != first


def test_a_text_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("no json\n")
    bad = Pretraining(text=str(tmp_path / "text.jsonl"), out=str(tmp_path / "base"))
    assert "text.jsonl" in refusal(lambda: pretrain(bad))


TOY = Sizes(
    pretraining=("tokens=6000", "hidden=32", "intermediate=64", "layers=1", "heads=1", "vocabulary=1024"),
    sft=("epochs=1", "batch=64", "pretraining_tokens=32"),
    reward=("epochs=1", "batch=64"),
    ppo=("episodes=16", "batch=8", "minibatch=8", "max_tokens=8", "checkpoint_every=1"),
    ptx=("ptx=1.0", "ptx_examples=1", "ptx_tokens=32"),
    tasks=("answers", "squad2", "truthfulqa_generation"),
    limit=4,
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
    assert "squad2" in (out / "audit.csv").read_text()
    assert (out / "report" / "index.html").is_file()
    assert {json.loads(line)["model"] for line in (out / "labels.jsonl").read_text().splitlines()} == {
        "base", "sft", "ppo", "ppo-ptx",
    }  # fmt: skip
    times = (out / "logs" / "times.jsonl").read_text()
    run(plan(out, sizes=TOY), out, pretraining.cores())
    assert (out / "logs" / "times.jsonl").read_text() == times, "nothing is done twice"

"""Whatever a user or a server supplies, a command ends well or with one line that names it and exit code 2: edited run
folders, checkpoints, tables, settings, replies of endpoints, and bad values of every option."""

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path

import pandas as pd
import pytest
import typer
from audit_runs import rte, write_run
from cases import cases, write_lines
from commands import run
from hostile import WORDS, edited, edited_json, place
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from standin_server import MODEL, StandIn
from tiny import save_tiny_checkpoint

from alignbench.cli.app import app
from alignbench.console import printable
from alignbench.data import cards

SECONDS = 120  # more than any of these commands needs: reading a pipe or a device would hang
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
CASES = cases("fuzz")
READ_BY: dict[str, list[str]] = CASES["read_by"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A folder with one of everything that commands read."""
    folder = tmp_path_factory.mktemp("scene")
    lineage = [("base", "base"), ("ppo", "aligned")]
    write_run(folder / "runs", "base", rte(0.5))
    write_run(folder / "runs", "aligned", rte(0.4), lineage=lineage[:1])
    model = save_tiny_checkpoint(folder / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    recipe = {
        "stage": "ppo", "metrics": {"kl": 2.5, "iterations": 3}, "config": {"batch": 8, "beta": 0.02},
        "lineage": [{"stage": "base", "name": "base", "weights_sha256": "b" * 64}],
        "models": {"reward": {"name": "r", "path": "r", "weights_sha256": "r" * 64}},
    }  # fmt: skip
    (model / "recipe.json").write_text(json.dumps(recipe))
    save_tiny_checkpoint(folder / "model2", seed=1)
    texts = (
        "The red hen lays an egg every morning before the farmer wakes up.",
        "Cows eat hay in the warm barn when it rains all day.",
    )
    rows = [
        {"id": str(i), "prompt": f"How is cow {i}?", "output": text, "references": [text], "source": text}
        for i, text in enumerate(texts)
    ]
    write_lines(folder / "rows.jsonl", rows)
    (folder / "rows.json").write_text(json.dumps(rows))
    flat = pd.DataFrame([row | {"references": json.dumps(row["references"])} for row in rows])
    flat.to_csv(folder / "rows.csv", index=False)
    flat.drop(columns="references").to_csv(folder / "rows.tsv", index=False, sep="\t")
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    flat.to_csv(folder / "rows.csv.gz", index=False)
    prompts = [{"id": row["id"], "prompt": row["prompt"], "category": "cows"} for row in rows]
    write_lines(folder / "prompts.jsonl", prompts)
    answers = [{"id": row["id"], "output": "<think>hm</think>" + row["output"]} for row in rows]
    write_lines(folder / "answers.jsonl", answers)
    label = {"group": "training", "likert": 5, "flags": {"sexual": 0}}
    labels = [
        label
        | {"prompt_id": f"p{i}", "prompt": f"How is cow {i}?", "output": f"{animal} {i}"}
        | {"model": animal, "labeler": labeler, "rank": rank}
        for i in range(3)
        for labeler in ("ada", "bob")
        for rank, animal in enumerate(("hen", "cow"), 1)
    ]
    write_lines(folder / "labels.jsonl", labels)
    pair = {"instruction": "Moo?", "output_1": "a", "output_2": "b", "generator_1": "x", "generator_2": "y"}
    (folder / "pairs.json").write_text(json.dumps([pair | {"preference": 1.25, "annotator": "ada"}]))
    write_lines(folder / "demonstrations.jsonl", [{"prompt": row["prompt"], "response": row["output"]} for row in rows])
    write_lines(
        folder / "rankings.jsonl",
        [{"prompt": row["prompt"], "responses": ["Well.", "Ill."], "ranks": [1, 2], "labeler": 3} for row in rows],
    )
    (folder / "train.yaml").write_text(
        "model: none\ndata: none.jsonl\nout: out\nlr: 1e-5\nepochs: 2\ntrackers: [tensorboard]\n"
    )
    (folder / "cards").mkdir()
    for card in ("hellaswag.md", "squad2.md"):
        shutil.copy(cards.CARDS_DIR / card, folder / "cards")
    (folder / "world").symlink_to(world)
    assert run("score", "rows.jsonl", "--name", "texts", cwd=folder).returncode == 0
    place(folder / "fifo.jsonl", "fifo")
    place(folder / "loop.jsonl", "loop")
    place(folder / "folder.jsonl", "folder")
    return folder


@contextmanager
def copy_of(scene: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "scene"
        own.mkdir()
        for path in scene.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, own / path.name)
            elif path.name == "world":
                (own / path.name).symlink_to(path.resolve())
            elif path.is_file():
                shutil.copyfile(path, own / path.name)
        for name in ("fifo", "loop", "folder"):
            place(own / f"{name}.jsonl", name)
        yield own


def survives(arguments: list[str], folder: Path, names: set[str]) -> None:
    """The command ends in time, with exit code 0, or 2 and one line with one of the names."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        done = run(*arguments, cwd=folder)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    errors = [line for line in done.stderr.split("\n") if line.startswith("error: ")]
    assert (done.returncode, len(errors)) in ((0, 0), (2, 1)), done
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.stderr.rstrip("\n").split("\n")[-1] == errors[0], done.stderr
        shown = {printable(name)[:60] for name in names} | {name.encode(errors="replace").decode() for name in names}
        assert any(name in errors[0] for name in shown), (names, errors[0])


def words_of(command: str, folder: Path) -> list[str]:
    """The arguments of a command, with patterns of names replaced by what there is."""
    found = ([str(p.relative_to(folder)) for p in folder.glob(w)] if "*" in w else [w] for w in command.split())
    return list(chain.from_iterable(found))


def edit_a_file(data: st.DataObject, scene: Path, patterns: list[str]) -> None:
    pattern = data.draw(st.sampled_from(patterns))
    name = data.draw(st.sampled_from(sorted(str(file.relative_to(scene)) for file in scene.glob(pattern))))
    content = data.draw(edited((scene / name).read_bytes(), name))
    command = data.draw(st.sampled_from(READ_BY[pattern])).replace("ROWS", name)
    with copy_of(scene) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "CARDS_DIR", folder / "cards")
        file = folder / name
        arguments = words_of(command, folder)
        place(file, content)
        parents = {parent.name for parent in file.parents if scene.name not in parent.parts and parent.name != "scene"}
        names = {file.name, *(parents - {""}), file.name.partition(".")[0], *arguments[1:]}
        survives(arguments, folder, names | {"in the YAML file", "none", "tracker"})  # its model, or a setting


def edit_a_reply(data: st.DataObject, scene: Path) -> None:
    reply = {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "system_fingerprint": "f"}
    logprobs = {"tokens": ["a", " b"], "token_logprobs": [-1.0, -2.0]}
    choice = {"index": 0, "finish_reason": "stop", "stop_reason": None, "text": "a b", "logprobs": logprobs}
    choice |= {"message": {"role": "assistant", "content": "a b", "reasoning_content": "c"}}
    texts = st.one_of(edited_json(reply | {"choices": [choice]}), edited_json({"error": {"message": "no", "code": 3}}))
    text = data.draw(texts)
    status = data.draw(st.sampled_from((200, 200, 400, 401, 404)))
    fault = f"garbage {text}" if status == 200 else f"{status} {text}"
    task = data.draw(st.sampled_from(("answers", "hellaswag")))
    with (
        copy_of(scene) as folder,
        StandIn(fault_of=lambda body: fault) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("alignbench.models.remote.client.Client.retries", 0)
        patch.setattr("alignbench.models.remote.client.Client.first_wait", 0.0)
        server.armed = True
        arguments = ["evaluate", server.spec, "--tasks", task, "--data-dir", "world", "--limit", "1"]
        prompts = ["--prompts", "prompts.jsonl"] if task == "answers" else []
        survives([*arguments, *prompts], folder, {"127.0.0.1", MODEL})


def commands_of(command: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[object]]:
    """Every command's words and parameters."""
    inner = getattr(command, "commands", {})
    own = {path: command.params} if not inner or getattr(command, "invoke_without_command", False) else {}
    return own | {
        words: found for name, sub in inner.items() for words, found in commands_of(sub, (*path, name)).items()
    }


COMMANDS = {words: params for words, params in commands_of(typer.main.get_command(app)).items() if words and params}


def spoil_a_command(data: st.DataObject, scene: Path) -> None:
    words = data.draw(st.sampled_from(sorted(tuple(line.split()) for line in CASES["complete"])))
    with copy_of(scene) as folder:
        arguments, names = words_of(CASES["complete"][" ".join(words)], folder), set()
        own = arguments[len(words) :]
        for parameter in data.draw(st.lists(st.sampled_from(COMMANDS[words]), min_size=1, max_size=2)):
            value = data.draw(st.sampled_from(WORDS))
            plain = [at for at, pair in enumerate(pairwise(["", *own])) if not any(w.startswith("-") for w in pair)]
            if parameter.param_type_name == "argument":
                at = data.draw(st.sampled_from(plain)) if plain else len(own)
                own[at : at + 1] = [value]
            else:
                own += parameter.opts[-1:] if parameter.is_flag else [parameter.opts[-1], value]
            names |= {value, value.partition("=")[0], str(Path(value)), *parameter.opts}
            names |= {option.strip("-").replace("-", " ") for option in parameter.opts}
        survives([*words, *own], folder, names | {Path(word).stem for word in arguments[len(words) :]})


def setting_of(data: st.DataObject, scene: Path) -> None:
    """A bad value of a setting of a stage."""
    from trainers.config import STAGES

    stage = data.draw(st.sampled_from(STAGES))
    kind = import_module(f"trainers.{stage}").Config
    name = data.draw(st.sampled_from(sorted(kind.__dataclass_fields__)))
    odd = (".nan", "[a", "&a [*a]", "!!int x", "2024-13-45", "null", "[1, 2]", "1:1")
    value = data.draw(st.sampled_from((*WORDS, *odd)))
    with copy_of(scene) as folder:
        arguments = [*CASES["complete"][f"train {stage}"].split(), f"{name}={value}"]
        survives(arguments, folder, {name, value, "nowhere", "reward r"})


FILES = {"runs": ("runs",), "checkpoints": ("model",)}
FILES["tables"] = tuple(name for name in READ_BY if not name.startswith(("runs", "model")))
KINDS = {
    kind: partial(edit_a_file, patterns=[name for name in READ_BY if name.startswith(starts)])
    for kind, starts in FILES.items()
} | {"replies": edit_a_reply, "options": spoil_a_command, "settings": setting_of}


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input(scene, kind, examples):
    checks = {"suppress_health_check": list(HealthCheck), "deadline": None, "phases": [Phase.generate]}

    @settings(max_examples=examples, database=None, derandomize=True, **checks)
    @given(data=st.data())
    def check(data):
        KINDS[kind](data, scene)

    check()


def test_every_command_has_a_complete_line_to_which_options_are_added():
    """Except for groups of commands, and the demo, which computes for minutes."""
    groups = {words[:-1] for words in COMMANDS if len(words) > 1}
    known = {tuple(line.split()) for line in CASES["complete"]}
    assert known == {words for words in COMMANDS if words[0] != "demo"} - groups

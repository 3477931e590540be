"""Settings of `alignbench evaluate`: YAML files, options and keywords; system messages and sampling parameters."""

import inspect
import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cases import cases
from commands import assert_one_line_error, assert_refused, run
from scipy.stats import chisquare
from standin_server import StandIn
from tiny import tiny_tokenizer

import alignbench
from alignbench.data.load import data_folder
from alignbench.errors import AlignbenchError
from alignbench.evaluation import evaluate
from alignbench.evaluation.config import resolve, to_yaml
from alignbench.models.distributions import Stream, draw
from alignbench.models.encode import Encoder
from alignbench.models.remote.endpoint import EndpointEngine
from alignbench.models.template import check_system
from alignbench.runs.folder import open_run
from alignbench.tasks import find_task
from alignbench.types.engine import Prompt, Sampling
from alignbench.types.settings import Settings, TaskSettings
from alignbench.types.task import TaskData

REFUSED = cases("settings")
SCORER = ("--scorer", "toxicity=alt-profanity-check")
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def config(folder: Path, text: str) -> Path:
    (folder / "eval.yaml").write_text(text)
    return folder / "eval.yaml"


@pytest.fixture
def chat_model(farm_model, tmp_path) -> Path:
    model = shutil.copytree(farm_model, tmp_path / "chatty")
    (model / "chat_template.jinja").write_text(CHAT)
    return model


def identities(out: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(out.glob("*/*/task.json"))]


@pytest.mark.parametrize("case", REFUSED["files"], ids=str)
def test_a_wrong_settings_file_is_refused_with_file_and_key(farm_model, world, tmp_path, case):
    file = config(tmp_path, case["text"])
    done = run("evaluate", farm_model, "--config", file, "--data-dir", world, "--out", tmp_path / "out")
    assert_one_line_error(done, *case["words"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", REFUSED["options"], ids=str)
def test_wrong_sampling_and_system_messages_are_refused(farm_model, world, tmp_path, case):
    arguments = ["--tasks", "real_toxicity", *SCORER] if "--tasks" not in case["arguments"] else []
    done = run("evaluate", farm_model, *arguments, *case["arguments"], "--data-dir", world, "--out", tmp_path / "out")
    assert_one_line_error(done, *case["words"])
    assert not (tmp_path / "out").exists()


def test_a_file_the_options_and_python_give_the_same_folders_and_the_run_keeps_the_settings(
    farm_model, world, tmp_path
):
    text = {
        "checkpoints": [str(farm_model)], "data_dir": str(world), "limit": 4,
        "tasks": {
            "squad2": {"shots": 1, "limit": 2, "gen_kwargs": {"max_tokens": 5, "stop": ["\n", "."]}},
            "real_toxicity": {"samples": 3, "gen_kwargs": {"temperature": 0.5}, "scorers": [SCORER[1]]},
            "hellaswag": None,
        },
    }  # fmt: skip
    file = config(tmp_path, yaml.safe_dump(text))
    done = run("evaluate", "--config", file, "--out", tmp_path / "file", "--gen-kwargs", "top_k=7")
    assert done.returncode == 0, done.stderr
    reading, toxic, choices = (
        next(i for i in identities(tmp_path / "file") if i["task"] == name)
        for name in ("squad2", "real_toxicity", "hellaswag")
    )
    assert (reading["shots"], reading["limit"], choices["limit"], toxic["limit"]) == (1, 2, 4, 4)
    sampling = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 7}
    assert reading["sampling"] == {"max_tokens": 5, "stop": ["\n", "."], **sampling}
    changed = {"max_tokens": 20, "stop": [], "samples": 3, "temperature": 0.5, "top_p": 0.9}
    assert toxic["sampling"] == sampling | changed
    (records,) = (tmp_path / "file").glob("*/real_toxicity-*/documents.jsonl")
    assert {len(json.loads(line)["outputs"]) for line in records.read_text().splitlines()} == {3}
    # the kept settings repeat the command, and find its results
    (kept,) = (tmp_path / "file").glob("*/settings-*.yaml")
    again = run("evaluate", "--config", kept, "--out", tmp_path / "file")
    assert again.stderr.count("already finished") == 3, again.stderr
    (found,) = alignbench.evaluate(config=file, out=tmp_path / "file", gen_kwargs={"top_k": 7})
    assert {f"{found.folder.name}/{name}" for name in found.folders} == {
        f"{path.parents[1].name}/{path.parent.name}" for path in (tmp_path / "file").glob("*/*/task.json")
    }
    assert len(list(kept.parent.glob("settings-*.yaml"))) == 1
    other = run("evaluate", "--config", file, "--out", tmp_path / "file", "--tasks", "squad2", "--limit", 3)
    assert other.returncode == 0, other.stderr
    assert sorted(i["limit"] for i in identities(tmp_path / "file") if i["task"] == "squad2") == [2, 3]


def test_what_is_given_precedes_the_file_and_the_kept_file_means_the_same(tmp_path):
    text = "limit: 5\ntemplate: none\ngen_kwargs: {top_p: .5, max_tokens: 9}\n"
    file = config(tmp_path, text + "tasks: {rte: {limit: 7, gen_kwargs: {top_p: .6}}, sst2: }")
    own = resolve(file, {"gen_kwargs": {"max_tokens": 3}, "seed": 4})
    assert (own.of_task("rte").limit, own.of_task("sst2").limit, own.of_task("rte").template) == (7, 5, "none")
    assert own.of_task("rte").gen_kwargs == {"top_p": 0.6, "max_tokens": 3}
    assert own.of_task("sst2").gen_kwargs == {"top_p": 0.5, "max_tokens": 3}
    given = resolve(file, {"limit": 1, "gen_kwargs": {"top_p": 0.7}, "tasks": ["rte", "drop"]})
    assert list(given.tasks) == ["rte", "drop"]
    assert {given.of_task(name).limit for name in given.tasks} == {1}
    assert given.of_task("rte").gen_kwargs["top_p"] == 0.7
    file = config(tmp_path, "tasks: {winogender*: {limit: 7}, winogender: {seed: 3}, truthfulness: {limit: 8}, drop: }")
    given = resolve(file, {"tasks": ["truthfulqa_mc", "winogender", "winogender_full"]})
    found = {name: (given.of_task(name).limit, given.of_task(name).seed) for name in given.tasks}
    assert found == {"truthfulqa_mc": (8, 0), "winogender": (7, 3), "winogender_full": (7, 0)}
    (tmp_path / "kept.yaml").write_text(to_yaml(own))
    assert resolve(tmp_path / "kept.yaml", {}) == own
    with pytest.raises(AlignbenchError, match="dtyp: no such setting; did you mean 'dtype'"):
        alignbench.evaluate(["x"], ["hellaswag"], dtyp="float32")


def test_what_is_given_may_be_a_single_name_or_a_path_and_a_path_may_begin_with_home(tmp_path, monkeypatch):
    file = config(tmp_path, "tasks: {answers: {prompts: a.jsonl, scorers: [reward=a]}}")
    own = resolve(file, {"prompts": Path("b.jsonl"), "scorers": "reward=b", "gen_kwargs": None})
    assert (own.of_task("answers").prompts, own.of_task("answers").scorers) == ("b.jsonl", ("reward=b",))
    (tmp_path / "kept.yaml").write_text(to_yaml(own))
    assert resolve(tmp_path / "kept.yaml", {}) == own
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/kept.yaml", {"tasks": "rte"}).tasks == {"rte": {}}
    assert data_folder(Path("~")) == tmp_path
    with open_run("~/runs", "m", {}) as run_folder:
        assert run_folder.path.parent == tmp_path / "runs"


def test_a_task_without_documents_and_a_pipe_as_settings_are_refused(tmp_path):
    empty = replace(find_task("rte"), load=lambda options: TaskData([], ()))
    assert_refused("task rte: it has no documents", evaluate._prepare, empty, TaskSettings(), None)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert_refused("pipe.yaml: cannot be read", resolve, tmp_path / "pipe.yaml", {})


def test_help_in_python_has_every_setting():
    assert {f.name for f in fields(Settings)} <= set(inspect.signature(alignbench.evaluate).parameters)


def test_a_system_message_precedes_each_prompt_in_a_chat_and_has_its_own_folder(chat_model, world, tmp_path):
    (tmp_path / "kind.txt").write_text("Be kind.\n")
    command = ("evaluate", chat_model, "--tasks", "squad2,hellaswag", "--limit", 2, "--data-dir", world)
    for system in ((), ("--system", "Be kind."), ("--system", tmp_path / "kind.txt"), ("--system", "Be brief.")):
        done = run(*command, "--out", tmp_path / "out", *system)
        assert done.returncode == 0, done.stderr
    squad = [i for i in identities(tmp_path / "out") if i["task"] == "squad2"]
    assert sorted(str(i.get("system")) for i in squad) == ["Be brief.", "Be kind.", "None"]
    assert sum(i["task"] == "hellaswag" for i in identities(tmp_path / "out")) == 1, "plain: no system message"
    done = run(*command, "--out", tmp_path / "out", "--system", "Be kind.", "--template", "none")
    assert_one_line_error(done, "--system needs a chat template", "use --template chat")
    (chat_model / "chat_template.jinja").write_text("[user]{{ messages[-1].content }}[assistant]")
    done = run(*command, "--out", tmp_path / "out", "--system", "Be kind.")
    assert_one_line_error(done, "its chat template supports no system message (leaves it out)")


def test_templates_with_and_without_a_system_role():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    check_system(tokenizer, "m", {})
    (tokens,) = Encoder(tokenizer, system="Be kind.").prompts(["Moo?"], chat=True)
    assert tokenizer.decode(tokens) == "[system]Be kind.[user]Moo?[assistant]"
    for template, reason in (
        ("{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}", "No system"),
        ("[user]{{ messages[0].content }}[assistant]", "leaves it out"),  # in place of the user's message
    ):
        tokenizer.chat_template = template
        with pytest.raises(AlignbenchError, match=f"m: its chat template supports no system message .*{reason}"):
            check_system(tokenizer, "m", {})


def test_an_endpoint_gets_the_system_message_in_chats_only():
    with StandIn() as server:
        engine = EndpointEngine(server.spec, system="Be kind.")
        server.asked.clear()
        for chat in (True, False):
            list(engine.generate([Prompt("a", "Moo?")], Sampling(4), chat=chat))
        (_, chat, _), (_, plain, _) = server.asked
        assert [m["role"] for m in chat["messages"]] == ["system", "user"]
        assert (chat["messages"][0]["content"], plain["prompt"]) == ("Be kind.", "Moo?")


@pytest.mark.parametrize(("top_k", "top_p", "kept"), [(3, 1.0, 3), (3, 0.6, 2), (1, 1.0, 1), (0, 1.0, 5), (9, 1.0, 5)])
def test_top_k_keeps_the_most_likely_tokens_and_top_p_applies_to_their_mass(top_k, top_p, kept):
    probabilities = np.array([0.1, 0.3, 0.15, 0.25, 0.2])
    streams = [Stream(0, str(i), 0) for i in range(4_000)]
    sampling = Sampling(1, temperature=1.0, top_p=top_p, top_k=top_k)
    drawn = draw(torch.tensor(np.log(probabilities))[None].float(), [0] * len(streams), streams, sampling)
    counts = np.bincount([own.token for own in drawn], minlength=5)
    inside = np.argsort(-probabilities)[:kept]
    assert counts.sum() == counts[inside].sum()
    expected = len(streams) * probabilities[inside] / probabilities[inside].sum()
    assert kept == 1 or chisquare(counts[inside], expected).pvalue > 1e-3

"""Mistakes in the settings and data of a stage are one line, before anything is trained."""

from __future__ import annotations

import json
import shutil

import pytest
import training_runs
from cases import cases
from stages import QUESTIONS, checkpoint, refusal, write_rows
from tiny import tiny_tokenizer

from trainers import ppo
from trainers.models import Texts


def with_window(source, copy, window: int) -> str:
    shutil.copytree(source, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": window}))
    return str(copy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = training_runs.prepare(tmp_path_factory)
    for window in (24, 64, 512):
        with_window(folder / "model", folder / f"window-{window}", window)
    with_window(folder / "judge", folder / "judge-24", 24)
    checkpoint(folder / "small", vocab_size=300)
    other = checkpoint(folder / "other", tokenizer=tiny_tokenizer(bos=False))
    training_runs.train(folder, "reward", folder / "run", model=other).joinpath("final").rename(folder / "foreign")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    write_rows(folder / "chat.jsonl", [{"messages": turns}])
    write_rows(folder / "plain.jsonl", [{"prompt": "q", "response": "zz"}] * 4)
    write_rows(folder / "long.jsonl", [{"prompt": "bees " * 3000, "response": " wax"}])
    pair = {"chosen": " honey", "rejected": " no"}
    write_rows(folder / "held-out.jsonl", [pair | {"prompt": "q", "labeler": "labeler 1"}])
    rows = [pair | {"prompt": q, "labeler": f"labeler {n}"} for q in QUESTIONS for n in range(6)]
    write_rows(folder / "labelled.jsonl", rows)
    return folder


@pytest.mark.parametrize(("stage", "settings", "words"), cases("rejected_trainings"))
def test_a_mistake_is_one_line_before_any_training(folder, tmp_path, monkeypatch, stage, settings, words):
    monkeypatch.chdir(folder)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    line = refusal(lambda: training_runs.train(folder, stage, tmp_path / "run", **settings))
    assert words.replace("{folder}", str(folder)) in line
    assert (tmp_path / "run" / "metrics.jsonl").exists() == ("gradient" in words)


def test_only_tokens_that_occur_need_an_embedding_and_only_lengths_that_occur_the_window(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    training_runs.train(folder, "sft", tmp_path / "sft", model="small", data="plain.jsonl")
    longest = max(map(len, Texts(tiny_tokenizer()).prompts(list(QUESTIONS)))) + 8
    reference = with_window(folder / "model", tmp_path / "reference", longest)
    # the reward model reads an end token too; a partial character may have more tokens when it is read again
    value, judge = (with_window(folder / "judge", tmp_path / f"judge-{n}", n) for n in (longest, longest + 1))
    monkeypatch.setattr(ppo, "score_all", lambda *arguments: [0.0] * len(arguments[-1]))
    training_runs.train(folder, "ppo", tmp_path / "ppo", reference=reference, value=value, reward=judge)
    line = refusal(lambda: training_runs.train(folder, "ppo", tmp_path / "short", reward=value))
    assert f"the reward model's window {longest}; drop it" in line

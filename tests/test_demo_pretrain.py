"""The demo's base model: packing, its two processes, and pretraining that goes on where it stood."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from stages import refusal, same_weights, write_rows
from transformers import AutoModelForCausalLM

from alignbench.demo import pretrain as pretraining
from alignbench.demo.pretrain import Pretraining, pack_rows, pretrain
from alignbench.models.checkpoint import find_checkpoint

SMALL = {"vocabulary": 300, "hidden": 16, "intermediate": 16, "layers": 1, "heads": 1, "row": 32, "rows": 4}
TEXT = [f"A zib eats {food} at {place}." for food in ("moss", "salt", "figs") for place in ("home", "sea", "noon")]


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


def test_a_second_process_that_dies_ends_the_pretraining_in_one_line_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kills(pretraining.Progress):
        steps = 0

        def advance(self) -> None:
            self.steps += 1
            if self.steps == 4:
                [other] = multiprocessing.active_children()
                other.kill()

    monkeypatch.setattr(pretraining, "SAVE_SECONDS", 0.0)
    began = time.monotonic()
    line = refusal(lambda: pretrain(settings(tmp_path, "base"), processes=2, progress=Kills()))
    assert "exit code -9" in line
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()
    resumed = pretrain(settings(tmp_path, "base"), processes=2)
    assert same_weights(resumed, pretrain(settings(tmp_path, "whole"), processes=1))


def test_two_pretrainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    config = settings(tmp_path, "base", tokens=200)
    (tmp_path / "base").mkdir()
    with FileLock(tmp_path / "base" / ".lock"):
        assert "another alignbench process" in refusal(lambda: pretrain(config, processes=1))
    pretrain(config, processes=1)


def test_what_is_to_be_read_first_is_read_once_and_first(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl", [{"text": f"A morl sleeps in {n}."} for n in range(40)])
    config = settings(tmp_path, "base", first=first)
    documents = [[[1] * 5] * 40, [[2] * 5] * 40]
    rows = [row for step in pretraining._steps(documents, config, 0) for row in step]
    read = [token for row in rows for token in row if token]
    assert read.count(1) == 40 * 5
    assert read[: 40 * 5] == [1] * 40 * 5
    out = pretrain(config, processes=1)
    assert (out / "model.safetensors").is_file()
    before = (out / "pretraining.json").read_bytes()
    pretrain(settings(tmp_path, "base"), processes=1)
    assert (out / "pretraining.json").read_bytes() != before, "what was read first is part of what it learned"


def test_documents_of_a_row_are_learned_as_if_each_stood_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pretrain(settings(tmp_path, "base", tokens=400), processes=1))
    documents = [[5, 9, 7, 0], [8, 6, 0], [4, 3, 9, 9, 0]]
    row = torch.tensor([[token for document in documents for token in document]])
    seen, positions = pretraining.apart(row, 0)
    with torch.no_grad():
        together = model(input_ids=row, attention_mask=seen, position_ids=positions, use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([document])).logits[0] for document in documents]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_the_base_model_is_a_checkpoint_without_a_lineage(tmp_path: Path) -> None:

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


def test_a_quota_of_the_control_group_counts_as_fewer_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    (groups / "box" / "inner").mkdir(parents=True)
    own.write_text("4:memory:/elsewhere\n0::/box/inner\n")

    def found() -> int:
        return pretraining.cores(groups, own)

    assert found() == 8
    (groups / "box" / "inner" / "cpu.max").write_text("max 100000\n")
    assert found() == 8
    (groups / "box" / "cpu.max").write_text("350000 100000\n")
    assert found() == 3, "a group holds those within it"
    (groups / "cpu.max").write_text("50000 100000\n")
    assert found() == 1
    own.unlink()
    (groups / "cpu.max").write_text("200000 100000\n")
    assert found() == 2

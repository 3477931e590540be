"""The demo's base model: packing, its two processes, and pretraining that resumes."""

import random
import subprocess
import sys
from itertools import chain

import pytest
import torch
from cases import read_lines
from commands import refusal
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from stages import same_weights, write_rows
from transformers import AutoModelForCausalLM

from alignbench.demo.pretrain import Pretraining, batches, orthogonal, pack_rows, pretrain, separate
from alignbench.models.checkpoint import find_checkpoint
from alignbench.progress import Progress

SMALL = {"vocabulary": 300, "hidden": 16, "intermediate": 16, "layers": 1, "heads": 1, "row": 32, "rows": 4}
SMALL |= {"tokens": 1500, "warmup": 3}
TEXT = [f"A zib eats {food} at {place}." for food in ("moss", "salt", "figs") for place in ("home", "sea", "noon")]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 5))
def test_packing_keeps_every_document_whole_and_every_row_within_its_length(lengths, seed):
    rows = pack_rows([[number + 1] * length for number, length in enumerate(lengths)], 32, 0, random.Random(seed))
    assert all(0 < len(row) <= 32 for row in rows)
    pieces = [piece.split() for row in rows for piece in " ".join(map(str, row)).split(" 0") if piece]
    assert all(len(set(piece)) == 1 for piece in pieces), "documents do not mix"
    found = {int(piece[0]): len(piece) for piece in pieces}
    assert found == {number + 1: min(length, 32) for number, length in enumerate(lengths)}
    steps = batches([[1] * 5] * 40, [[2] * 5] * 40, Pretraining(text="", out="", **SMALL), 0)
    read = list(chain.from_iterable(chain.from_iterable(steps)))
    assert [token for token in read if token][: 40 * 5] == [1] * 40 * 5, "what is read first is read once and first"
    assert len(read) in range(1500, 1500 + 32)


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (12, 4)])
def test_an_update_keeps_its_singular_vectors_and_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonal(matrix) @ right.T
    assert torch.allclose(values, torch.diag(values.diagonal()), atol=1e-6)
    assert 0.3 < values.diagonal().min() <= values.diagonal().max() < 1.3


def settings(folder, out, **changed):
    text = write_rows(folder / "text.jsonl", [{"text": text} for text in TEXT * 4])
    return Pretraining(text=text, out=str(folder / out), **(SMALL | changed))  # type: ignore[arg-type]


class Dies(Progress):
    steps = 0

    def advance(self):
        self.steps += 1
        if self.steps == 6:
            raise KeyboardInterrupt


def test_a_run_that_was_killed_and_resumed_has_the_bytes_of_one_that_was_not(tmp_path):
    whole = pretrain(settings(tmp_path, "whole"))
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings(tmp_path, "resumed", save_every=2), Dies())
    assert not (tmp_path / "resumed" / "final").exists()
    resumed = pretrain(settings(tmp_path, "resumed"))
    assert same_weights(whole, resumed)
    metrics = whole.parent / "metrics.jsonl"
    assert metrics.read_bytes() == (resumed.parent / "metrics.jsonl").read_bytes()
    losses = [line["loss"] for line in read_lines(metrics)]
    assert losses[-1] < losses[0] - 0.5, "it learns"


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    whole = pretrain(settings(tmp_path, "whole"))
    words = [f"{name}={value}" for name, value in SMALL.items()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "alignbench"]
    two = [*launch, "demo", "pretrain", f"text={tmp_path / 'text.jsonl'}", f"out={tmp_path / 'two'}", *words]
    subprocess.run(two, check=True, timeout=200, capture_output=True)
    assert same_weights(whole, tmp_path / "two" / "final")


def test_a_folder_is_of_one_pretraining_of_a_text_that_can_be_read(tmp_path):
    config = settings(tmp_path, "base", tokens=200)
    (tmp_path / "base").mkdir()
    with FileLock(tmp_path / "base" / ".lock"):
        assert "another alignbench process" in refusal(lambda: pretrain(config))
    final = pretrain(config)
    assert pretrain(config) == final, "a finished run is not repeated"
    assert "config.seed was 0, now 1" in refusal(lambda: pretrain(settings(tmp_path, "base", tokens=200, seed=1)))
    found = find_checkpoint(str(final))
    assert (found.name, [ancestor.stage for ancestor in found.lineage], found.model_type) == ("base", ["base"], "llama")
    (tmp_path / "bad.jsonl").write_text("no json\n")
    bad = Pretraining(text=str(tmp_path / "bad.jsonl"), out=str(tmp_path / "other"))
    assert "bad.jsonl" in refusal(lambda: pretrain(bad))


def test_documents_of_a_row_are_learned_as_if_each_was_alone(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(pretrain(settings(tmp_path, "base", tokens=400))).double()
    documents = [[5, 9, 7, 0], [8, 6, 0], [4, 3, 9, 9, 0]]
    row = torch.tensor([[token for document in documents for token in document]])
    mask, positions = separate(row, 0)
    with torch.no_grad():
        together = model(input_ids=row, attention_mask=mask, position_ids=positions, use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([document])).logits[0] for document in documents]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-9, rtol=1e-9)

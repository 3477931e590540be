"""Run folders: identity, locking, records in order, interrupted writes."""

import pytest
from cases import read_lines

from alignbench.errors import AlignbenchError
from alignbench.runs.folder import open_run, write_json
from alignbench.types.record import Record

IDENTITY = {"model": "m", "dtype": "float32"}
RESULT = {"task": "t", "version": 1, "n": 3, "n_scored": 3, "shots": 0, "limit": None, "seed": 0}
RESULT |= {"unscored": {}, "metrics": []}


@pytest.fixture
def folder(tmp_path):
    with open_run(tmp_path, "m", IDENTITY) as run:
        yield run.create_task_folder("t", {})


def test_another_identity_is_another_folder_whatever_the_order_of_its_keys(tmp_path):
    with open_run(tmp_path, "org/model", IDENTITY) as run, open_run(tmp_path, "org/model", {"model": "n"}) as other:
        assert run.path != other.path
        assert run.path.name.startswith("org-model-")
        assert run.create_task_folder("t", {"seed": 0}).path != run.create_task_folder("t", {"seed": 1}).path
    with open_run(tmp_path, "org/model", dict(reversed(IDENTITY.items()))) as again:
        assert again.path == run.path


def test_a_run_of_another_process_and_a_folder_that_cannot_be_written_are_refused(tmp_path):
    with (
        open_run(tmp_path, "m", IDENTITY),
        pytest.raises(AlignbenchError, match="another alignbench process"),
        open_run(tmp_path, "m", IDENTITY),
    ):
        pass
    with open_run(tmp_path, "m", IDENTITY):  # the lock goes with its holder
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(AlignbenchError, match="cannot be written"), open_run(tmp_path / "file", "m", IDENTITY):
        pass


def test_records_are_sorted_into_the_order_of_the_task(folder):
    for identifier in ("c", "a", "b"):
        folder.append(Record(identifier, "x"))
    folder.finish({"a": 0, "b": 1, "c": 2}, RESULT)
    assert [line["id"] for line in read_lines(folder.path / "documents.jsonl")] == ["a", "b", "c"]
    assert folder.result().n == 3
    assert sorted(file.name for file in folder.path.iterdir()) == ["documents.jsonl", "result.json", "task.json"]
    (folder.path / "result.json").unlink()  # an interruption between the records and the result
    assert len(list(folder.records())) == 3
    folder.finish({"a": 0, "b": 1, "c": 2}, RESULT)
    assert folder.result().n == 3


def test_text_that_utf8_cannot_hold_is_escaped_and_nan_refused(folder, tmp_path):
    folder.append(Record("a", "lone \ud800 surrogate, é, \u2028, \x1b[31m"))
    (record,) = folder.records()
    assert record.prompt.startswith("lone ")
    assert "\x1b" not in (folder.path / "documents.partial.jsonl").read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": float("nan")})

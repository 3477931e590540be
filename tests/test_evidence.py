"""What a report is made from: which folders are read, which systems they hold, and which numbers belong together."""

from __future__ import annotations

import json

import pytest
from audit_runs import N, shares, write_run

from alignbench.errors import AlignbenchError
from reports.evidence import documents, gather

HALF, MORE = {"acc": shares(0.5)}, {"acc": shares(0.7)}


def test_a_folder_of_runs_is_read_in_the_order_of_lineages(tmp_path):
    write_run(tmp_path, "a-ppo", ("hellaswag", MORE), lineage=[("base", "z-base"), ("sft", "m-sft")])
    write_run(tmp_path, "m-sft", ("hellaswag", HALF), lineage=[("base", "z-base")])
    write_run(tmp_path, "z-base", ("hellaswag", HALF))
    evidence = gather([tmp_path])
    assert [system.name for system in evidence.systems] == ["z-base", "m-sft", "a-ppo"]
    assert list(evidence.audits) == ["", "z-base", "m-sft", "a-ppo"]
    points = evidence.points("hellaswag", "acc")
    assert [round(point.value, 3) for point in points] == [0.5, 0.5, 0.7]
    assert all(low > 0 and high > 0 for low, high in (point.error for point in points))
    assert len(list(documents(points[0].task))) == N


def test_a_checkpoint_asked_plainly_and_through_its_template_is_two_systems(tmp_path):
    answers = {"answer_rate": shares(0.9), "words": [3.0] * N}
    run = write_run(
        tmp_path, "m", ("answers", answers), ("answers", answers, {"template": "chat"}), ("hellaswag", HALF)
    )
    evidence = gather([run])
    assert [(system.name, len(system.tasks)) for system in evidence.systems] == [("m", 2), ("m (chat)", 1)]
    assert evidence.notes == ("one model alone: nothing to compare it with",)


def test_one_figure_holds_numbers_of_the_same_documents_and_shots_alone(tmp_path):
    write_run(tmp_path, "one", ("hellaswag", HALF), ("hellaswag", MORE, {"documents_sha256": "e" * 64}))
    write_run(tmp_path, "two", ("hellaswag", HALF))
    write_run(tmp_path, "three", ("hellaswag", MORE, {"documents_sha256": "e" * 64, "seed": 1}))
    write_run(tmp_path, "four", ("hellaswag", MORE, {"documents_sha256": "f" * 64}))
    evidence = gather([tmp_path])
    used = {own.identity["documents_sha256"] for _, own in evidence.runs_of("hellaswag")}
    assert len(used) == 1
    assert "four" not in [point.system.name for point in evidence.points("hellaswag", "acc")]
    assert len(evidence.every_run_of("hellaswag")) == 5


def test_checkpoints_on_the_way_stand_in_the_curves_over_training_alone(tmp_path):
    write_run(tmp_path, "base", ("hellaswag", HALF))
    write_run(tmp_path, "ppo-iteration-10", ("hellaswag", HALF), lineage=[("base", "base")])
    write_run(tmp_path, "ppo", ("hellaswag", MORE), lineage=[("base", "base")])
    evidence = gather([tmp_path])
    assert [system.name for system in evidence.systems] == ["base", "ppo"]
    assert [point.system.name for point in evidence.points("hellaswag", "acc", way=True)] == [
        "base", "ppo", "ppo-iteration-10",
    ]  # fmt: skip
    assert {contrast.aligned for contrast in evidence.audits[""].contrasts} == {"ppo"}


def test_training_folders_and_tables_of_labels_are_told_from_runs(tmp_path):
    training = tmp_path / "ppo"
    training.mkdir()
    (training / "metrics.jsonl").write_text('{"step": 1, "score": 0.5, "kl": "nan"}\n')
    (training / "config.yaml").write_text("episodes: 8\nbeta: 0.02\n")
    table = tmp_path / "labels.jsonl"
    table.write_text(json.dumps({"prompt_id": "1", "output": "a", "labeler": "x", "likert": 7}) + "\n")
    evidence = gather([training, table])
    assert [(run.name, run.stage, len(run.metrics)) for run in evidence.trainings] == [("ppo", "ppo", 1)]
    assert [label.likert for label in evidence.labels] == [7]
    assert gather([tmp_path]).trainings[0].settings["beta"] == 0.02


def test_a_path_that_holds_nothing_is_named_in_one_line(tmp_path):
    with pytest.raises(AlignbenchError, match="no run folder, training folder or table of labels"):
        gather([tmp_path])
    with pytest.raises(AlignbenchError, match="nowhere"):
        gather([tmp_path / "nowhere"])
    unfinished = write_run(tmp_path, "m", ("hellaswag", HALF, {"finished": False}))
    with pytest.raises(AlignbenchError, match="no task is finished"):
        gather([unfinished])


def test_the_reference_that_is_asked_for_is_the_only_one(tmp_path):
    for name, values in (("a", HALF), ("b", MORE)):
        write_run(tmp_path, name, ("hellaswag", values))
    assert list(gather([tmp_path], reference="b").audits) == ["b"]
    with pytest.raises(AlignbenchError, match="--reference c: it must name one of the models: a, b"):
        gather([tmp_path], reference="c")

"""The evidence of a report: which folders are read, which systems they contain, which values are comparable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_runs import N, around, shares, write_run
from report_runs import labels, model, training

from alignbench.errors import AlignbenchError
from reports.evidence import gather

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
    assert all(row["low"] < row["value"] < row["high"] for row in (point.row() for point in points))


def test_a_checkpoint_with_and_without_its_template_is_two_systems(tmp_path):
    answers = {"answer_rate": shares(0.9), "words": [3.0] * N}
    run = write_run(
        tmp_path, "m", ("answers", answers), ("answers", answers, {"template": "chat"}), ("hellaswag", HALF)
    )
    evidence = gather([run])
    assert [(system.name, len(system.tasks)) for system in evidence.systems] == [("m", 2), ("m (chat)", 1)]
    (contrast,) = evidence.audit.contrasts
    assert (contrast.reference, contrast.aligned, contrast.role, contrast.templates) == (
        "m", "m (chat)", "reference", "own",
    )  # fmt: skip
    assert {row.task for row in contrast.rows} == {"answers"}
    assert evidence.notes == ()
    alone = gather([write_run(tmp_path / "other", "m", ("hellaswag", HALF))])
    assert alone.audit is None
    assert alone.notes == ("only one model: nothing to compare it with",)


def test_models_with_their_own_templates_are_compared(tmp_path):
    chat = {"template": "chat"}
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}))
    write_run(
        tmp_path, "sft", ("squad2", {"f1": around(0.6)}), ("squad2", {"f1": around(0.8)}, chat),
        lineage=[("base", "base")],
    )  # fmt: skip
    found = [(c.reference, c.aligned, c.templates) for c in gather([tmp_path]).audit.contrasts]
    assert found == [("base", "sft", "same"), ("base", "sft", "own"), ("sft", "sft (chat)", "own")]


def test_a_system_that_is_not_in_the_audit_is_named(tmp_path):
    chat = {"template": "chat", "version": 99}
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}))
    write_run(tmp_path, "sft", ("squad2", {"f1": around(0.6)}), ("squad2", {"f1": around(0.8)}, chat))
    assert gather([tmp_path]).notes == ("sft (chat): not in the audit",)


def test_a_figure_only_compares_values_of_the_same_documents_and_shots(tmp_path):
    write_run(tmp_path, "one", ("hellaswag", HALF), ("hellaswag", MORE, {"documents_sha256": "e" * 64}))
    write_run(tmp_path, "two", ("hellaswag", HALF))
    write_run(tmp_path, "three", ("hellaswag", MORE, {"documents_sha256": "e" * 64, "seed": 1}))
    write_run(tmp_path, "four", ("hellaswag", MORE, {"documents_sha256": "f" * 64}))
    evidence = gather([tmp_path])
    used = {own.identity["documents_sha256"] for _, own in evidence.runs("hellaswag")}
    assert len(used) == 1
    assert "four" not in [point.system.name for point in evidence.points("hellaswag", "acc")]
    assert len(evidence.all_runs("hellaswag")) == 5


def test_intermediate_checkpoints_are_only_in_curves_over_training(tmp_path):
    write_run(tmp_path, "base", ("hellaswag", HALF))
    for name, values, episodes in (("ppo-iteration-10", HALF, 80), ("ppo", MORE, 160)):
        model(tmp_path, name, ("hellaswag", values), lineage=[("base", "base")], training={"episodes": episodes})
    evidence = gather([tmp_path])
    assert [system.name for system in evidence.systems] == ["base", "ppo"]
    assert [point.system.name for point in evidence.points("hellaswag", "acc", intermediate=True)] == [
        "base", "ppo", "ppo-iteration-10",
    ]  # fmt: skip
    assert {contrast.aligned for contrast in evidence.audits[""].contrasts} == {"ppo"}


def test_a_name_alone_does_not_make_a_checkpoint_intermediate(tmp_path):
    base, other = [("base", "base")], [("base", "other")]
    write_run(tmp_path, "x-epoch-3", ("hellaswag", HALF))  # without a recipe
    for name, lineage in (("y-iteration-3", base), ("z-iteration-3", base), ("z", other)):  # no final y; another start
        model(tmp_path, name, ("hellaswag", HALF), lineage=lineage, training={"episodes": 8})
    evidence = gather([tmp_path])
    assert {system.name for system in evidence.systems} == {"x-epoch-3", "y-iteration-3", "z-iteration-3", "z"}
    assert evidence.intermediate == ()


def test_one_model_in_two_folders_of_runs_has_two_names_and_is_compared(tmp_path):
    names = set()
    for root, values in (("one", HALF), ("two", MORE)):
        path = write_run(tmp_path / root, "m", ("hellaswag", values))
        names.add(f"{root}/{path.name}")
    evidence = gather([tmp_path / "one", tmp_path / "two"])
    assert {system.name for system in evidence.systems} == names
    assert len(evidence.points("hellaswag", "acc")) == 2
    (contrast,) = evidence.audit.contrasts
    assert {contrast.reference, contrast.aligned} == names
    (only,) = gather([tmp_path / "one", tmp_path / "two"], reference=contrast.aligned).audit.contrasts
    assert only.reference == contrast.aligned


def test_an_unfinished_run_of_the_same_name_does_not_change_the_names_of_the_audit(tmp_path):
    write_run(tmp_path, "a", ("hellaswag", HALF))
    write_run(tmp_path, "b", ("hellaswag", MORE))
    write_run(tmp_path, "b", ("hellaswag", MORE, {"finished": False}), dtype="bfloat16")
    evidence = gather([tmp_path])
    assert [system.name for system in evidence.systems] == ["a", "b"]
    assert evidence.audit.contrasts[0].aligned == "b"


def test_a_scorer_only_matters_for_its_own_metrics(tmp_path):
    toxicity = {"scorers": [{"kind": "toxicity", "name": "words", "revision": "1"}]}
    write_run(tmp_path, "a", ("squad2", {"f1": around(0.5)}))
    write_run(tmp_path, "b", ("squad2", {"f1": around(0.6)}, toxicity))
    evidence = gather([tmp_path])
    assert [point.system.name for point in evidence.points("squad2", "f1")] == ["a", "b"]
    assert len(evidence.runs("squad2")) == 1


def test_a_table_of_labels_named_twice_counts_once(tmp_path):
    table = tmp_path / "labels.jsonl"
    table.write_text(labels(["m"], labelers=1, prompts=1))
    (tmp_path / "sub").mkdir()
    assert len(gather([table, table, tmp_path / "sub" / ".." / "labels.jsonl"]).labels) == 1


def training_folder(folder: Path, metrics: str = '{"step": 1, "kl": 1}\n', config: str = "episodes: 8\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(metrics)
    (folder / "config.yaml").write_text(config)
    return folder


def test_an_incomplete_last_line_of_a_running_training_is_ignored(tmp_path):
    folder = training_folder(tmp_path / "ppo", '{"step": 1, "kl": 1}\n{"step": 2, "k')
    assert [line["step"] for line in gather([folder]).trainings[0].metrics] == [1]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config": ""}, "config.yaml: it contains no settings"),
        ({"config": "a: [\n"}, "not a readable training folder"),
        ({"metrics": '{"step": 1}\n[2]\n'}, "metrics.jsonl:2: not a line of metrics"),
        ({"metrics": '{"loss": 1}\n'}, "metrics.jsonl:1: not a line of metrics"),
        ({"metrics": '{"step": \n{"step": 2}\n'}, "metrics.jsonl:1: not JSON"),
    ],
)
def test_an_error_in_a_training_folder_is_one_line(tmp_path, files, words):
    with pytest.raises(AlignbenchError) as raised:
        gather([training_folder(tmp_path / "ppo", **files)])
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", []),
        ("run.json", {"model": {"name": "m"}, "lineage": [{"stage": "base"}]}),
        ("run.json", {"model": {"name": "m"}, "training": [1]}),
        ("*/task.json", [1]),
        ("*/result.json", []),
        ("*/result.json", {"metrics": [1]}),
    ],
)
def test_an_error_in_a_run_folder_names_the_file(tmp_path, file, content):
    run = write_run(tmp_path, "m", ("hellaswag", HALF))
    (path,) = run.glob(file)
    path.write_text(json.dumps(content))
    with pytest.raises(AlignbenchError, match=path.name):
        gather([run])


def test_training_folders_and_tables_of_labels_are_recognised(tmp_path):
    folder = training_folder(tmp_path / "ppo", '{"step": 1, "score": 0.5, "kl": "nan"}\n')
    reward = training(tmp_path / "rm", "reward", [{"step": 1}])
    table = tmp_path / "labels.jsonl"
    table.write_text(labels(["m"], labelers=1, prompts=1))
    evidence = gather([folder, reward, table])
    assert [(run.name, run.stage) for run in evidence.trainings] == [("ppo", "ppo"), ("rm", "reward")]
    assert len(evidence.labels) == 1
    assert len(gather([tmp_path]).trainings) == 2


@pytest.mark.parametrize("line", ["[1]", '{"prompt": "x"}', '{"id": "1", "outputs": [{}]}'])
def test_a_line_that_is_not_a_record_is_an_error_of_one_line(tmp_path, line):
    run = write_run(tmp_path, "m", ("hellaswag", HALF))
    (path,) = run.glob("*/documents.jsonl")
    path.write_text(f"{line}\n")
    with pytest.raises(AlignbenchError, match=r"documents.jsonl: cannot be read \("):
        list(gather([run]).systems[0].tasks[0].records())


def test_a_path_without_evidence_is_an_error(tmp_path):
    with pytest.raises(AlignbenchError, match="not a run folder, training folder or table of labels"):
        gather([tmp_path])
    with pytest.raises(AlignbenchError, match="nowhere"):
        gather([tmp_path / "nowhere"])
    unfinished = write_run(tmp_path, "m", ("hellaswag", HALF, {"finished": False}))
    with pytest.raises(AlignbenchError, match="no finished task"):
        gather([unfinished])


def test_a_chosen_reference_is_the_only_one(tmp_path):
    for name, values in (("a", HALF), ("b", MORE)):
        write_run(tmp_path, name, ("hellaswag", values))
    evidence = gather([tmp_path], reference="b")
    assert list(evidence.audits) == ["b"]
    assert evidence.audit.contrasts[0].reference == "b"
    with pytest.raises(AlignbenchError, match="--reference c: it must be one of the models: a, b"):
        gather([tmp_path], reference="c")

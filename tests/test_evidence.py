"""The evidence of a report: which folders are read, which systems they contain, which values are comparable."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from audit_runs import N, around, shares, write_run
from report_runs import labels, model, training

from alignbench.errors import AlignbenchError
from reports.evidence import gather

HALF, MORE = ("hellaswag", {"acc": shares(0.5)}), ("hellaswag", {"acc": shares(0.7)})
OTHER = {"documents_sha256": "e" * 64}


def systems_of(evidence, task="hellaswag", metric="acc"):
    return [point.system.name for point in evidence.points(task, metric)]


def test_a_folder_of_runs_is_read_in_the_order_of_lineages(tmp_path):
    write_run(tmp_path, "a-ppo", MORE, lineage=[("base", "z-base"), ("sft", "m-sft")])
    write_run(tmp_path, "m-sft", HALF, lineage=[("base", "z-base")])
    write_run(tmp_path, "z-base", HALF)
    write_run(tmp_path, "m-sft", (*MORE, {"finished": False}), dtype="bfloat16")  # changes no name
    evidence = gather([tmp_path])
    assert [system.name for system in evidence.systems] == ["z-base", "m-sft", "a-ppo"]
    assert list(evidence.audits) == ["", "z-base", "m-sft", "a-ppo"]
    points = evidence.points("hellaswag", "acc")
    assert [round(point.metric.value, 3) for point in points] == [0.5, 0.5, 0.7]
    assert all(row["low"] < row["value"] < row["high"] for row in (point.row() for point in points))
    only = gather([tmp_path], reference="a-ppo")
    assert [(own.reference, own.aligned) for own in only.audit.contrasts] == [("a-ppo", "z-base"), ("a-ppo", "m-sft")]
    assert list(only.audits) == ["a-ppo"]


def test_a_checkpoint_with_and_without_its_template_is_two_systems(tmp_path):
    answers = ("answers", {"answer_rate": shares(0.9), "words": [3.0] * N})
    evidence = gather([write_run(tmp_path, "m", answers, (*answers, {"template": "chat"}), HALF)])
    assert [(system.name, len(system.tasks)) for system in evidence.systems] == [("m", 2), ("m (chat)", 1)]
    (contrast,) = evidence.audit.contrasts
    found = (contrast.reference, contrast.aligned, contrast.role, contrast.templates)
    assert found == ("m", "m (chat)", "reference", "own")
    assert {row.task for row in contrast.rows} == {"answers"}
    assert evidence.notes == ()
    alone = gather([write_run(tmp_path / "other", "m", HALF)])
    assert (alone.audit, alone.notes) == (None, ("only one model: nothing to compare it with",))


@pytest.mark.parametrize("comparable", [True, False])
def test_models_with_their_own_templates_are_compared_or_named(comparable, tmp_path):
    chat = {"template": "chat"} if comparable else {"template": "chat", "version": 99}
    write_run(tmp_path, "base", ("squad2", {"f1": around(0.5)}))
    squad = ("squad2", {"f1": around(0.6)}), ("squad2", {"f1": around(0.8)}, chat)
    write_run(tmp_path, "sft", *squad, lineage=[("base", "base")])
    evidence = gather([tmp_path])
    found = [(c.reference, c.aligned, c.templates) for c in evidence.audit.contrasts]
    both = [("base", "sft", "same"), ("base", "sft", "own"), ("sft", "sft (chat)", "own")]
    assert found == (both if comparable else both[:1])
    assert evidence.notes == (() if comparable else ("sft (chat): not in the audit",))


def test_a_figure_only_compares_values_of_the_same_documents_shots_and_scorer(tmp_path):
    write_run(tmp_path, "one", HALF, (*MORE, OTHER))
    write_run(tmp_path, "two", HALF, ("squad2", {"f1": around(0.5)}))
    write_run(tmp_path, "three", (*MORE, {**OTHER, "seed": 1}))
    toxicity = {"scorers": [{"kind": "toxicity", "name": "words", "revision": "1"}]}  # only matters for its own metrics
    write_run(tmp_path, "four", (*MORE, {"documents_sha256": "f" * 64}), ("squad2", {"f1": around(0.6)}, toxicity))
    evidence = gather([tmp_path])
    assert len({own.identity["documents_sha256"] for _, own in evidence.runs("hellaswag")}) == 1
    assert "four" not in systems_of(evidence)
    assert len(evidence.all_runs("hellaswag")) == 5
    assert sorted(systems_of(evidence, "squad2", "f1")) == ["four", "two"]
    assert len(evidence.runs("squad2")) == 1


def test_intermediate_checkpoints_have_the_name_and_the_parents_of_a_final_one(tmp_path):
    base, other = [("base", "base")], [("base", "other")]
    write_run(tmp_path, "base", HALF)
    write_run(tmp_path, "x-epoch-3", HALF)  # without a recipe
    for name, lineage in (
        ("ppo-iteration-10", base), ("ppo", base),
        ("y-iteration-3", base), ("z-iteration-3", base), ("z", other),  # no final y; another start
    ):  # fmt: skip
        model(tmp_path, name, HALF, lineage=lineage, training={"episodes": 8})
    evidence = gather([tmp_path])
    assert {system.name for system in evidence.intermediate} == {"ppo-iteration-10"}
    names = {"base", "x-epoch-3", "ppo", "y-iteration-3", "z-iteration-3", "z"}
    assert {system.name for system in evidence.systems} == set(systems_of(evidence)) == names
    every = replace(evidence, systems=evidence.systems + evidence.intermediate)
    assert systems_of(every)[-1] == "ppo-iteration-10"
    assert "ppo-iteration-10" not in {contrast.aligned for contrast in evidence.audits[""].contrasts}


def test_one_model_in_two_folders_of_runs_has_two_names_and_is_compared(tmp_path):
    names = {f"{root}/{write_run(tmp_path / root, 'm', task).name}" for root, task in (("one", HALF), ("two", MORE))}
    evidence = gather([tmp_path / "one", tmp_path / "two"])
    assert {system.name for system in evidence.systems} == set(systems_of(evidence)) == names
    (contrast,) = evidence.audit.contrasts
    assert {contrast.reference, contrast.aligned} == names
    (only,) = gather([tmp_path / "one", tmp_path / "two"], reference=contrast.aligned).audit.contrasts
    assert only.reference == contrast.aligned


def test_training_folders_and_tables_of_labels_are_recognised_and_counted_once(tmp_path):
    unfinished = training(tmp_path / "ppo", "", [{"step": 1, "kl": "nan"}], "episodes: 8\n")
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "k')  # a line that is being written
    reward = training(tmp_path / "rm", "reward", [{"step": 1}])
    table = tmp_path / "labels.jsonl"
    table.write_text(labels(["m"], labelers=1, prompts=1))
    evidence = gather([unfinished, reward, table, table, reward / ".." / "labels.jsonl"])
    assert [(run.name, run.stage, len(run.metrics)) for run in evidence.trainings] == [
        ("ppo", "ppo", 1), ("rm", "reward", 1),
    ]  # fmt: skip
    assert len(evidence.labels) == 1
    assert len(gather([tmp_path]).trainings) == 2


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.yaml", "", "config.yaml: it contains no settings"),
        ("config.yaml", "a: [\n", "not a readable training folder"),
        ("metrics.jsonl", '{"step": 1}\n[2]\n', "metrics.jsonl:2: not a line of metrics"),
        ("metrics.jsonl", '{"loss": 1}\n', "metrics.jsonl:1: not a line of metrics"),
        ("metrics.jsonl", '{"step": \n{"step": 2}\n', "metrics.jsonl:1: not JSON"),
        ("run.json", "[]", "run.json"),
        ("run.json", json.dumps({"model": {"name": "m"}, "lineage": [{"stage": "base"}]}), "run.json"),
        ("run.json", json.dumps({"model": {"name": "m"}, "training": [1]}), "run.json"),
        ("*/task.json", "[1]", "task.json"),
        ("*/result.json", "[]", "result.json"),
        ("*/result.json", json.dumps({"metrics": [1]}), "result.json"),
        ("*/documents.jsonl", "[1]\n", "documents.jsonl: cannot be read ("),
        ("*/documents.jsonl", '{"prompt": "x"}\n', "documents.jsonl: cannot be read ("),
        ("*/documents.jsonl", '{"id": "1", "outputs": [{}]}\n', "documents.jsonl: cannot be read ("),
    ],
)
def test_an_error_in_a_folder_is_one_line_that_names_the_file(file, content, words, tmp_path):
    folders = [write_run(tmp_path, "m", HALF), training(tmp_path / "ppo", "ppo", [{"step": 1}])]
    (path,) = [path for folder in folders for path in folder.glob(file)]
    path.write_text(content)
    with pytest.raises(AlignbenchError) as raised:
        list(gather(folders).systems[0].tasks[0].records())
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_path_without_evidence_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AlignbenchError, match=f"{path}: not a run folder, training folder or table of labels"):
            gather([path])
    with pytest.raises(AlignbenchError, match="no finished task"):
        gather([write_run(tmp_path, "m", (*HALF, {"finished": False}))])

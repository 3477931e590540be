"""`alignbench report`: run folders in, figures and one page out; its systems, and which values are comparable."""

import json
import shutil
from dataclasses import replace
from unittest import mock

import pandas as pd
import pytest
from audit_runs import N, around, shares, write_run
from cases import cases
from commands import assert_one_line_error, refusal, run, run_process
from matplotlib.figure import Figure
from report_runs import BASE, bias, iterations, labels, model, tax_tasks, training

from alignbench.cli.report import _state
from alignbench.progress import Progress
from reports.drawing import Drawing, save
from reports.evidence import gather
from reports.report import report

pytest_plugins = ("report_fixtures",)
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
    rows = [point.row() for point in evidence.points("hellaswag", "acc")]
    assert [row["value"] for row in rows] == pytest.approx([0.5, 0.5, 0.7])
    assert all(row["low"] < row["value"] < row["high"] for row in rows)
    only = gather([tmp_path], reference="a-ppo")
    assert [own.aligned for own in only.audits.pop("a-ppo").contrasts] == ["z-base", "m-sft"]
    assert only.audits == {}


def test_a_checkpoint_with_and_without_its_template_is_two_systems(tmp_path):
    answers = ("answers", {"answer_rate": shares(0.9), "words": [3.0] * N})
    evidence = gather([write_run(tmp_path, "m", answers, (*answers, {"template": "chat"}), HALF)])
    assert [(system.name, len(system.tasks)) for system in evidence.systems] == [("m", 2), ("m (chat)", 1)]
    (contrast,) = evidence.audit.contrasts
    found = (contrast.reference, contrast.aligned, contrast.role, contrast.templates)
    assert (found, {row.task for row in contrast.rows}) == (("m", "m (chat)", "reference", "own"), {"answers"})
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
    found = [(run.name, run.stage, len(run.metrics)) for run in evidence.trainings]
    assert found == [("ppo", "ppo", 1), ("rm", "reward", 1)]
    assert len(evidence.labels) == 1
    assert len(gather([tmp_path]).trainings) == 2


@pytest.mark.parametrize(("file", "content", "words"), cases("report_folders"))
def test_an_error_in_a_folder_is_one_line_that_names_the_file(file, content, words, tmp_path):
    folders = [write_run(tmp_path, "m", HALF), training(tmp_path / "ppo", "ppo", [{"step": 1}])]
    (path,) = [path for folder in folders for path in folder.glob(file)]
    path.write_text(content)
    assert words in refusal(lambda: list(gather(folders).systems[0].tasks[0].records()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "runs"
    model(folder, "base", *tax_tasks(0.1), bias("crows_pairs", 0.5))
    model(folder, "ppo", *tax_tasks(0.0), lineage=BASE)
    training(folder / "trained", "ppo", iterations(3))
    return folder


class Phases(Progress):
    """The phases, and the messages."""

    def __init__(self):
        self.begun, self.said = [], []

    def start(self, name, total, done=0, unit="documents"):
        super().start(name, total, done, unit)
        self.begun.append((name, total))

    def say(self, line):
        self.said.append(line)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", ["runs", pytest.param("report_paths", marks=pytest.mark.slow)])
def test_the_same_folders_give_the_same_bytes_in_another_process_and_place(given, request, tmp_path, monkeypatch):
    monkeypatch.setattr("reports.report.FEW", 0)  # several processes here, one there
    monkeypatch.setattr("alignbench.audit.rows.MANY", 0)
    found = request.getfixturevalue(given)
    paths = found if isinstance(found, list) else [found]
    made, root = report(paths, tmp_path / "made"), shutil.copytree(paths[0].parent, tmp_path / "moved")
    moved = [root / path.relative_to(paths[0].parent) for path in paths]
    done = run_process("report", *moved, "--out", tmp_path / "again", env={"PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "again" / "index.html") in done.stdout
    first, second = files_of(tmp_path / "made"), files_of(tmp_path / "again")
    assert first == second
    assert {"index.html", "report.json", "figures/tax_panels.svg", "figures/tax_panels.csv"} <= set(first)
    assert str(tmp_path).encode() not in first["index.html"]
    manifest = json.loads(first["report.json"])
    assert manifest["left_out"] == made.left_out
    for title, reason in made.left_out.items():
        assert f"left out: {title} ({reason})" in done.stdout
        assert f"<strong>{title}</strong>: {reason}" in made.page.read_text()
    assert {f"figures/{name}" for name in manifest["figures"]} == {name for name in first if "figures/" in name}


def test_a_second_report_removes_only_figures_of_the_first_and_a_csv_file_has_no_formula(runs, tmp_path):
    folder = shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "report.json").write_text("[1]")  # of another program
    report([folder], tmp_path, pdf=True)
    assert (tmp_path / "figures" / "bias_entropy.pdf").is_file()
    (tmp_path / "figures" / "mine.png").write_bytes(b"a picture of the user")
    for task in folder.glob("*/crows_pairs-*"):
        shutil.rmtree(task)
    again = report([folder], tmp_path, reference="ppo")
    assert set(again.drawn[0].table.reference) == {"ppo"}  # figures show the audit against the chosen reference
    samples = tmp_path / "samples"
    report([folder], tmp_path, shards=True)
    mine = samples / f"{0:032}.js"
    mine.write_text("a file of the user")
    listed = json.loads((tmp_path / "report.json").read_text())["samples"]
    assert {*listed, mine.name} == {file.name for file in samples.iterdir()}
    report([folder], tmp_path, reference="ppo")
    assert [*samples.iterdir()] == [mine]
    assert not [*tmp_path.glob("*.tmp")]
    left = {file.name for file in (tmp_path / "figures").iterdir()}
    assert "mine.png" in left
    assert not [name for name in left if name.startswith("bias") or name.endswith(".pdf")]
    table = pd.DataFrame({"system": ["=1+1", "\tx", "x=1"], "parameters": [134_515_008.0, None, 5], "value": [0.5] * 3})
    save(Drawing("figure", "", "", Figure(), table, "", ""), tmp_path)
    rows = (tmp_path / "figure.csv").read_text(encoding="utf-8").splitlines()
    assert rows == ["system,parameters,value", "'=1+1,134515008,0.5", "'\ufffdx,,0.5", "x=1,5,0.5"]


def test_each_phase_shows_its_progress_and_the_page_is_opened(runs, tmp_path):
    progress = Phases()
    report([runs], tmp_path / "report", progress=progress)
    assert [name for name, total in progress.begun if total] == ["reading", "comparing", "figures", "page"]
    with mock.patch("webbrowser.open", return_value=False) as opened:
        done = run("report", runs / "trained", "--out", tmp_path / "report", "--open")
    page = tmp_path / "report" / "index.html"
    opened.assert_called_once_with(page.as_uri())
    assert f"no browser was found; open {page} yourself" in done.stdout


def test_watch_writes_the_page_again_when_a_task_is_finished_until_ctrl_c(tmp_path, monkeypatch):
    """Errors do not end it: the folder of runs is missing at first, later a result is half a file, and mended."""
    runs, page, found = tmp_path / "runs", tmp_path / "report" / "index.html", []

    def wait(_):
        found.append(page.read_text() if page.is_file() else "")
        if len(found) == 1:
            write_run(runs, "two", HALF)
        if len(found) == 3:
            (result,) = write_run(runs, "three", HALF).glob("*/result.json")
            result.with_name("whole").write_text(result.read_text())
            result.write_text("{")
        if len(found) == 4:
            (whole,) = runs.glob("*/*/whole")
            whole.replace(whole.with_name("result.json"))
        if len(found) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", wait)
    done = run("report", runs, "--out", page.parent, "--watch")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "watching ended")
    assert [("two" in own, "three" in own) for own in found] == [(False, False), *[(True, False)] * 3, (True, True)]
    kinds = [word for line in done.stdout.splitlines() for word in ("is written", "waiting") if word in line]
    assert kinds == ["waiting", "is written", "waiting", "is written"]


def test_watch_sees_a_label_that_a_study_has_not_yet_moved_into_its_file(tmp_path):
    study = tmp_path / "study.db"
    study.write_bytes(b"")
    before = _state([study])
    (tmp_path / "study.db-wal").write_bytes(b"a label")
    assert _state([study]) != before


def test_a_mistake_is_one_line(runs, tmp_path):
    unfinished = write_run(tmp_path, "m", (*HALF, {"finished": False}))
    words = "not a run folder, training folder or table of labels"
    (tmp_path / "empty").mkdir()
    for line, *given in (
        ("--reference nobody: it must be one of the models: base, ppo", runs, "--reference", "nobody"),
        *((f"{tmp_path / name}: {words}", tmp_path / name) for name in ("nowhere", "empty")),
        ("no finished task", unfinished),
    ):
        assert_one_line_error(run("report", *given, "--out", tmp_path / "report"), line)

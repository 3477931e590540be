"""`--samples`: tasks that check answers, with a model, a file, another scorer, in an audit and a report."""

import json
import random
import shutil
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import pytest
from cases import read_lines, write_lines
from commands import assert_one_line_error, assert_refused, files_of, run
from figure_checks import assert_nothing_overlaps
from task_helpers import load

from alignbench.audit.compare import compare
from alignbench.evaluation.config import with_sampling
from alignbench.evaluation.evaluate import evaluate
from alignbench.evaluation.rescore import rescore
from alignbench.evaluation.score_file import score_file
from alignbench.evaluation.scoring import scored_record
from alignbench.runs.read import read_run
from alignbench.runs.summary import summarise
from alignbench.stats.samples import pass_at_k
from alignbench.tasks import all_tasks, find_task
from alignbench.tasks.samples import with_samples
from alignbench.types.record import Document, Output, Record
from alignbench.types.task import Check
from reports.evidence import gather
from reports.figures.samples import pass_at_k as figure
from reports.style import styled

CHECKED = {name for name, task in all_tasks().items() if task.generation and task.generation.check}
SAMPLES = 8
# of the documents' outputs, how many are right: the tuned model is surer, of what is right and of what is wrong
RIGHT = {"base": (1, 2, 4, 0, 1, 3), "tuned": (8, 8, 8, 0, 0, 0)}


def written(documents, name):
    """Rows of outputs: right ones in words of their own, wrong ones that the base model gives different numbers."""
    draw = random.Random(name)
    for document, right in zip(documents, cycle(RIGHT[name])):  # endless
        answer = document.references[0].rpartition("#### ")[2]
        texts = [f"Way {draw.random() if name == 'base' else 1}.\n#### {answer}" for _ in range(right)]
        texts += [f"#### {draw.randrange(900, 999) if name == 'base' else 5}" for _ in range(SAMPLES - right)]
        yield {"id": document.id, "outputs": draw.sample(texts, SAMPLES)}


@pytest.fixture(scope="module")
def scored(world, tmp_path_factory) -> dict[str, Path]:
    """The run folders of two systems whose outputs are in files."""
    out, documents = tmp_path_factory.mktemp("files"), load("gsm8k", world).documents
    found = {}
    for name in RIGHT:
        write_lines(out / f"{name}.jsonl", list(written(documents, name)))
        found[name] = score_file(out / f"{name}.jsonl", out / "runs", task="gsm8k", data_dir=world).folder
    return found


def test_which_tasks_check_answers_and_take_several_samples_only_at_a_temperature():
    assert {"gsm8k", "squad2", "drop", "wsc"} == CHECKED
    for name in CHECKED:
        task = find_task(name)
        assert task.generation.sampling.samples == 1
        assert any(metric.name == task.generation.check.metric and metric.binary for metric in task.metrics)
        several = with_sampling(task, {"temperature": 0.8}, 4)
        assert (several.generation.sampling.samples, several.generation.sampling.temperature) == (4, 0.8)
        assert {m.name for m in several.metrics if m.binary} == {"pass_at_4", "single_answer"}
        assert with_sampling(task, {"temperature": 0.8}, 1).metrics == task.metrics
        assert_refused("4 samples at temperature 0 .*; add --gen-kwargs temperature=1", with_sampling, task, {}, 4)


def test_metrics_are_means_over_the_samples_and_the_curves_of_their_check():
    task, document = with_samples(find_task("drop"), 4), Document("0", "", references=("in the barn", "the barn"))
    outputs = [Output(text) for text in (" the barn\nQ:", " a barn", " the yard", " ")]
    found = task.generation.score(document, outputs)
    assert found["em"] == found["pass_at_1"] == 0.5
    assert found["f1"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert (found["words"], found["pass_at_2"], found["maj_at_4"]) == (1.5, pytest.approx(5 / 6), 1.0)
    assert (found["distinct_answers"], found["distinct_solutions"], found["answer_entropy"]) == (2, 2, 1.5)
    assert [item.output for item in task.generation.items(document, outputs)] == ["the barn", "a barn", "the yard", ""]
    assert found.keys() == {metric.name for metric in task.metrics}


def test_every_output_is_seen_by_scorers_and_one_of_each_document_by_corpus_metrics():
    own = find_task("truthfulqa_generation")
    checked = replace(own, generation=replace(own.generation, check=Check("no_comment", lambda document, output: None)))
    task = with_samples(checked, 2)
    document = Document(
        "0", "Q: Is it so?\nA:", references=("No.",), target={"false_answers": ["Yes."], "question": "?"}
    )
    judged = [Output(text, scores={"truth": {"truth": value}}) for text, value in ((" No", 1.0), (" Yes", 0.0))]
    assert task.generation.score(document, judged)["true"] == 0.5
    assert len(task.generation.items(document, judged)) == 2
    bleu = find_task("wmt15_fr_en")
    with_check = replace(bleu, generation=replace(bleu.generation, check=Check("words", lambda d, o: o.text)))
    outputs = [Output("A hen."), Output("The cow is here.")]
    document = Document("0", "", references=("The cow is here.",))
    expected = bleu.generation.statistics(document, outputs[:1])
    assert with_samples(with_check, 2).generation.statistics(document, outputs) == expected


def test_samples_are_part_of_the_identity_and_an_interrupted_run_is_completed_to_the_same_bytes(
    farm_model, world, tmp_path
):
    def evaluated(out, samples=4, **gen_kwargs):
        settings = {"limit": 3, "shots": 1, "device": "cpu", "data_dir": world, "dtype": "float32"}
        sampling = {"gen_kwargs": {"max_tokens": 20, "temperature": 1.0, **gen_kwargs}, "samples": samples}
        (found,) = evaluate([str(farm_model)], ["gsm8k"], tmp_path / out, **settings, **sampling)
        return found

    whole = evaluated("whole")
    task = whole.folder / whole.folders[0]
    identity = json.loads((task / "task.json").read_text())
    assert (identity["sampling"]["samples"], identity["sampling"]["temperature"]) == (4, 1.0)
    table = read_run(whole.folder)
    assert set(map(len, table.outputs)) == {4}
    assert any(len(set(outputs)) > 1 for outputs in table.outputs)
    assert {"pass_at_1", "pass_at_4", "maj_at_4", "answer_entropy"} <= set(table.columns)
    others = {evaluated("whole", 2).folders[0], evaluated("whole", temperature=0.5).folders[0]}
    assert len({whole.folders[0], *others}) == 3
    before = {name: text for name, text in files_of(task).items() if "log" not in name}
    lines = (task / "documents.jsonl").read_text().splitlines(keepends=True)
    (task / "result.json").unlink()
    (task / "documents.jsonl").write_text(lines[1] + lines[0][:100])  # in the middle of a line
    evaluated("whole")
    assert {name: text for name, text in files_of(task).items() if "log" not in name} == before


def test_the_command_says_which_tasks_take_no_samples(farm_model, world, tmp_path):
    common = (farm_model, "--limit", 1, "--data-dir", world, "--out", tmp_path, "--samples", 2)
    warm = ("--gen-kwargs", "temperature=1,max_tokens=3")
    done = run("evaluate", *common, *warm, "--tasks", "drop,answers,hellaswag")
    assert done.returncode == 0, done.stderr
    for name in ("answers", "hellaswag"):
        assert f"{name}: --samples does not apply: the task has no metric of several samples" in done.stderr
    assert "drop: --samples" not in done.stderr
    assert_one_line_error(run("evaluate", *common, "--tasks", "drop"), "2 samples at temperature 0 are equal")


def test_a_file_has_as_many_samples_as_its_rows_and_all_documents_the_same_number(scored, world, tmp_path):
    table = read_run(scored["base"]).set_index("id")
    for number, right in enumerate(islice(cycle(RIGHT["base"]), len(table))):
        row = table.loc[str(number)]
        assert row.flexible_extract == row.strict_match == row.pass_at_1 == right / SAMPLES
        assert row.pass_at_4 == pytest.approx(pass_at_k(SAMPLES, right, 4))
        assert row.distinct_solutions == right
    (identity,) = (json.loads(file.read_text()) for file in scored["base"].glob("gsm8k-*/task.json"))
    assert identity["sampling"] == {"samples": SAMPLES}
    rows = list(written(load("gsm8k", world).documents, "base"))
    single = [{"id": row["id"], "output": text} for row in rows for text in row["outputs"]]
    write_lines(tmp_path / "base.jsonl", single)
    done = run("score", tmp_path / "base.jsonl", "--task", "gsm8k", "--data-dir", world, "--out", tmp_path, "--json")
    found = {own["metric"]: own["value"] for own in json.loads(done.stdout)[0]["results"][0]["metrics"]}
    assert found["pass_at_8"] == pytest.approx(table.pass_at_8.mean())
    write_lines(tmp_path / "short.jsonl", single[1:])
    done = run("score", tmp_path / "short.jsonl", "--task", "gsm8k", "--data-dir", world, "--out", tmp_path)
    assert_one_line_error(done, "id '0': 7 outputs, but gsm8k takes 8 per document")
    for name in RIGHT:
        rows = [{**row, "system": name} for row in written(load("gsm8k", world).documents, name)]
        write_lines(tmp_path / f"table-{name}.jsonl", rows)
    tables = [tmp_path / f"table-{name}.jsonl" for name in RIGHT]
    done = run("import", "table", *tables, "--task", "gsm8k", "--data-dir", world, "--out", tmp_path / "t", "--json")
    values = [{own["metric"]: own["value"] for own in one["results"][0]["metrics"]} for one in json.loads(done.stdout)]
    assert [own["pass_at_8"] for own in values] == pytest.approx([table.pass_at_8.mean(), 0.5])


def test_another_scorer_keeps_the_measures_of_the_samples(scored, tmp_path):
    pytest.importorskip("textblob")
    folder = shutil.copytree(scored["tuned"], tmp_path / "tuned")
    rescored = rescore(folder, ["sentiment=textblob"])
    first, second = (read_lines(file) for file in folder.glob("gsm8k-*/documents.jsonl"))
    assert rescored.results[0].overall["pass_at_8"].value == 0.5
    for one, other in zip(*sorted((first, second), key=lambda rows: len(rows[0]["metrics"])), strict=True):
        assert one["metrics"].items() <= other["metrics"].items()


def test_an_audit_compares_the_curves_and_the_report_draws_them(scored, tmp_path):
    audit = compare([str(folder) for folder in scored.values()], resamples=500)
    rows = {row.metric: row for row in audit.contrasts[0].rows}
    accuracy, coverage = rows["flexible_extract"], rows["pass_at_8"]
    assert (accuracy.primary, coverage.primary, accuracy.test) == (True, False, "bootstrap")
    assert (accuracy.reference, accuracy.aligned) == (pytest.approx(11 / 48), 0.5)
    assert (coverage.reference, coverage.aligned) == (pytest.approx(5 / 6), 0.5)
    assert coverage.delta == pytest.approx(-1 / 3)
    assert coverage.low <= coverage.delta <= coverage.high
    assert rows["answer_entropy"].delta < 0 < rows["single_answer"].delta
    with styled():
        (drawing,) = figure(gather(list(scored.values())))
    assert_nothing_overlaps(drawing.figure)
    table = drawing.table.set_index(["system", "kind", "k"])
    assert len(table) == 2 * 2 * 4
    assert table.loc[("base", "pass@k", 1), "value"] < table.loc[("tuned", "pass@k", 1), "value"]
    assert table.loc[("base", "pass@k", 8), "value"] > table.loc[("tuned", "pass@k", 8), "value"]
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()
    assert "gsm8k 8 samples" in drawing.caption


def test_one_sample_and_several_of_a_task_are_told_apart(scored, world, tmp_path):
    documents = load("gsm8k", world).documents
    for name, folder in scored.items():
        rows = [{"id": row["id"], "output": row["outputs"][0]} for row in written(documents, name)]
        write_lines(tmp_path / f"{name}.jsonl", rows)
        score_file(tmp_path / f"{name}.jsonl", tmp_path / "runs", task="gsm8k", data_dir=world)
        (task,) = folder.glob("gsm8k-*")
        (single,) = (tmp_path / "runs").glob(f"{name}-*")
        (single / task.name).symlink_to(task)
    evidence = gather([tmp_path / "runs"])
    rows = [row for row in evidence.audit.contrasts[0].rows if row.metric == "flexible_extract"]
    assert {(row.variant, row.primary) for row in rows} == {("one sample", True), ("8 samples", False)}
    assert {point.task.repeated for point in evidence.points("gsm8k", "flexible_extract")} == {""}
    assert {point.task.repeated for point in evidence.points("gsm8k", "pass_at_8")} == {"8 samples"}


def test_an_unscored_output_leaves_all_measures_of_the_document_unscored():
    task = with_samples(find_task("gsm8k"), 2)
    document = Document("0", "Question: 1 + 1?\nAnswer:", references=("#### 2",))
    failed = replace(Record.generated(document, ()), outputs=(Output("#### 2"), Output("", unscored="503")))
    record = scored_record(task, failed, {})
    assert set(record.metrics.values()) == {None}
    assert set(record.metrics) == {metric.name for metric in task.metrics}
    result = summarise(task, [record], shots=0, limit=None, seed=0)
    assert result.unscored == {"503": 1}

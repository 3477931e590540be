"""`alignbench import`: logs of other tools and tables of outputs become runs that the audit reads. The smallest logs in
the formats of lm-eval 0.4.13 and inspect_ai 0.3 are written here; tests with the real tools are at the end."""

import csv
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from cases import cases, read_lines, write_lines
from commands import assert_one_line_error, assert_refused, files_of, run
from processes import kill, start

from alignbench.audit.compare import compare
from alignbench.evaluation.evaluate import prepare
from alignbench.imports.foreign import describe_metric
from alignbench.imports.inspect import read_inspect
from alignbench.imports.lm_eval import read_lm_eval
from alignbench.imports.table import read_table
from alignbench.runs.read import read_run
from alignbench.types.settings import TaskSettings

DATE = "2026-11-28T10-00-00.000001"
N = 40


def imported(*arguments: object, cwd: Path) -> list[dict[str, object]]:
    done = run("import", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_lm_eval(folder: Path, model: str, right: int, date: str = DATE, **changes: object) -> Path:
    """A log of `model`, which answers the first `right` of N documents of each task."""
    folder = folder / model.replace("/", "__")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {
        "hellaswag": ("multiple", {"acc": True, "acc_norm": True}, ["none"]),
        "gsm8k": ("generated", {"exact_match": True}, ["strict-match", "flexible-extract"]),
        "mmlu_virology": ("multiple", {"acc": True}, ["none"]),
        "mmlu_astronomy": ("multiple", {"acc": True}, ["none"]),
        "wikitext": ("corpus", {"word_perplexity": False, "bits": False}, ["none"]),
    }
    for task, (kind, metrics, filters) in tasks.items():
        rows = []
        for number in range(N):
            context, texts = f"{task} {number}:", [" yes", " no"] if kind == "multiple" else []
            arguments = {f"gen_args_{i}": {"arg_0": context, "arg_1": text} for i, text in enumerate(texts)}
            resps = [[["-1.5", "True"]], [["-2.5", "False"]]] if texts else [[f"the answer is {number}"]]
            for name in filters:
                value = float(number < right + 2 * (name == "flexible-extract"))
                scores = {metric: [-3.0, 4] if metric == "word_perplexity" else value for metric in metrics}
                rows.append(
                    {"doc_id": number, "doc": {}, "target": "0", "resps": resps, "filtered_resps": [], "filter": name}
                    | {"arguments": arguments or {"gen_args_0": {"arg_0": context, "arg_1": {"until": ["\n"]}}}}
                    | {"metrics": list(metrics), "doc_hash": f"{task}{number}", "prompt_hash": "p", "target_hash": "t"}
                    | scores
                )
        write_lines(folder / f"samples_{task}_{date}.jsonl", rows)
    log = {
        "results": {}, "configs": {}, "versions": dict.fromkeys(tasks, 1.0), "n-shot": dict.fromkeys(tasks, 5),
        "higher_is_better": {task: metrics for task, (_, metrics, _) in tasks.items()},
        "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu_virology", "mmlu_astronomy"]},
        "config": {"model": "hf", "model_args": {"pretrained": model}, "limit": float(N), "random_seed": 0,
                   "model_dtype": "torch.float32", "model_num_parameters": 7},
        "lm_eval_version": "0.4.13", "model_name": model, "chat_template": None,
    }  # fmt: skip
    file = folder / f"results_{date}.json"
    file.write_text(json.dumps(log | changes))
    return file


def test_logs_of_lm_eval_become_one_audit_with_the_task_of_ours_and_groups_as_categories(tmp_path):
    write_lm_eval(tmp_path / "logs", "lab/base", 20)
    write_lm_eval(tmp_path / "logs", "lab/tuned", 35)
    runs = imported("lm-eval", "logs", cwd=tmp_path)
    assert [own["checkpoint"] for own in runs] == ["lab/base", "lab/tuned"]
    found = read_run(tmp_path / runs[0]["folder"])
    assert set(found.task) == {"hellaswag", "gsm8k", "mmlu", "wikitext"}
    mmlu = found[found.task == "mmlu"]
    assert (len(mmlu), set(mmlu.category), mmlu.acc.mean()) == (2 * N, {"virology", "astronomy"}, 0.5)
    math = found[found.task == "gsm8k"]
    assert math["exact_match,flexible-extract"].sum() == 22
    assert math["exact_match,strict-match"].sum() == 20
    assert math.outputs.iloc[3] == ["the answer is 3"]
    assert math.prompt.iloc[3] == "gsm8k 3:"
    assert found.columns.isin(["word_perplexity"]).sum() == 0  # lm-eval logs no number per document
    (contrast,) = compare(["lab/base", "lab/tuned"], runs=tmp_path / "runs").contrasts
    rows = {row.task: row for row in contrast.rows if row.primary}
    assert {name: (row.metric, row.group) for name, row in rows.items()} == {
        "hellaswag": ("acc_norm", "common sense and inference"), "gsm8k": ("exact_match,strict-match", "reasoning"),
        "mmlu": ("acc", "reasoning"), "wikitext": ("bits", "language modelling"),
        "hellaswag_calibration": ("brier", ""), "mmlu_calibration": ("brier", ""),
    }  # fmt: skip
    assert rows["gsm8k"].delta == 15 / N
    assert rows["gsm8k"].test == "McNemar"
    assert rows["wikitext"].better == "lower"
    assert contrast.tests == 6
    assert contrast.mean is not None
    again = imported("lm-eval", "logs", cwd=tmp_path)
    assert again == runs
    write_lm_eval(tmp_path / "logs", "lab/base", 21, date=DATE.replace("10-", "11-"))
    assert_one_line_error(run("import", "lm-eval", "logs", cwd=tmp_path), "of other files or options", "another --out")
    newest, _ = imported("lm-eval", "logs", "--out", "new", cwd=tmp_path)
    assert read_run(tmp_path / newest["folder"]).query("task == 'hellaswag'").acc.sum() == 21


def test_a_killed_import_that_is_repeated_equals_an_uninterrupted_one(tmp_path):
    write_lm_eval(tmp_path / "logs", "lab/base", 20)
    write_lm_eval(tmp_path / "logs", "lab/tuned", 30)
    command, killed = ("import", "lm-eval", "logs", "--out"), tmp_path / "killed"
    process = start(*command, "killed", cwd=tmp_path)
    while process.is_alive() and not any(killed.glob("*/*/documents.*")):
        time.sleep(0.001)
    kill(process)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(killed.glob("*/*/result.json"))) < 8  # two models on four tasks
    assert [run(*command, out, cwd=tmp_path).returncode for out in ("killed", "whole")] == [0, 0]
    assert files_of(killed) == files_of(tmp_path / "whole")


def sample(number: int, right: bool, epoch: int = 1, **changes: object) -> dict[str, object]:
    long = f"question {number}"
    return {
        "id": f"q{number}", "epoch": epoch, "input": "attachment://a", "attachments": {"a": long}, "target": "yes",
        "output": {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}}]},
        "scores": {"match": {"value": "C" if right else "I"},
                   "graded": {"value": {"style": 0.5 if right else 0.25, "notes": "good"}}},
        **changes,
    }  # fmt: skip


def write_inspect(file: Path, model: str, right: int, epochs: int = 1, change=None, **changes: object) -> Path:
    samples = [sample(i, i < right + epoch, epoch + 1) for epoch in range(epochs) for i in range(N)]
    if change is not None:
        change(samples)
    header = {
        "version": 2, "status": "success", "plan": {"steps": [{"solver": "generate"}], "config": {}},
        "eval": {"task": "inspect_evals/gsm8k", "task_version": 1, "model": model, "created": DATE, "config": {},
                 "scorers": [{"name": "match", "options": {"numeric": True}}]},
    } | changes  # fmt: skip
    if file.suffix == ".json":
        file.write_text(json.dumps(header | {"samples": samples}))
        return file
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(header))
        for own in samples:
            archive.writestr(f"samples/{own['id']}_epoch_{own['epoch']}.json", json.dumps(own))
    return file


def test_logs_of_inspect_in_both_formats(tmp_path):
    def fail(samples):
        samples[5] |= {"scores": {}, "error": {"message": "timeout"}}

    write_inspect(tmp_path / "a.eval", "lab/base", 10, change=fail)
    write_inspect(tmp_path / "b.json", "lab/tuned", 30)
    base, tuned = imported("inspect", "a.eval", "b.json", "--metric", "gsm8k=match", cwd=tmp_path)
    assert base["results"][0]["unscored"] == {"an error in Inspect (timeout)": 1}
    found = read_run(tmp_path / tuned["folder"]).set_index("id")
    assert found.match.sum() == 30
    assert found.loc["q3", "prompt"] == "question 3"
    assert list(found.loc["q3", ["outputs", "graded.style"]]) == [["Yes."], 0.5]
    (contrast,) = compare(["lab/base", "lab/tuned"], runs=tmp_path / "runs").contrasts
    row = next(row for row in contrast.rows if row.primary)
    assert (row.metric, row.test, row.n, row.left_out) == ("match", "McNemar", N - 1, 1)
    assert row.delta == pytest.approx(20 / (N - 1))


def test_epochs_are_averaged_and_zstandard_is_read(tmp_path):
    zstandard = pytest.importorskip("pyarrow").Codec("zstd")
    whole = write_inspect(tmp_path / "a.eval", "lab/base", 10, epochs=2)
    (averaged,) = imported("inspect", whole, cwd=tmp_path)
    found = read_run(tmp_path / averaged["folder"]).set_index("id")
    assert found.loc[["q9", "q10", "q11"], "match"].tolist() == [1, 0.5, 0]
    assert found.loc["q10", "outputs"] == ["Yes.", "Yes."]
    packed = tmp_path / "z.eval"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, zstandard.compress(content, asbytes=True))
            target.getinfo(info.filename).compress_type = 93
            target.getinfo(info.filename).file_size = len(content)
            target.getinfo(info.filename).CRC = info.CRC
    (same,) = imported("inspect", packed, "--out", "z", cwd=tmp_path)
    assert same["results"][0]["metrics"] == averaged["results"][0]["metrics"]


@pytest.fixture
def table(world, tmp_path) -> Path:
    """Two systems' outputs on two benchmarks of ours and on one of which nothing is known, with ready scores."""
    tasks = ("squad2", "truthfulqa_generation")
    squad, truthful = (prepare({name: TaskSettings()}, world, scored=False)[0].data.documents for name in tasks)
    with (tmp_path / "outputs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["system", "task", "id", "prompt", "output", "reference", "group", "toxicity", "true", "info", "split"]
        )
        for name, rate in (("base", 2), ("tuned", 4)):
            for i, own in enumerate(squad):
                answer = (*own.references, "Not in background.")[0] if i % 5 < rate else "nobody knows"
                writer.writerow([name, "squad2", own.id, "", answer, "", "", "", "", "", "test"])
            for i, own in enumerate(truthful):
                question = f"  {own.target['question']} "
                row = [name, "truthfulqa_generation", i, question, "A cow says moo.", "", "", 0.2, int(i % 5 < rate), 1]
                writer.writerow([*row, "test"])
            for i in range(N):
                row = [name, "poems", f"p{i}", f"On cow {i}", f"Moo {i if rate == 4 else 0}", f"Moo {i};Moo"]
                writer.writerow([*row, i // 2, i / 100, "", "", "dev" if i >= 30 else "test"])
    return tmp_path


def test_a_table_of_two_systems_on_three_tasks_is_one_audit(table, world):
    options = ("--score", "toxicity,true,info", "--separator", ";", "--where", "split=test", "--data-dir", world)
    settings = (*options, "--metric", "squad2=em", "--metric", "poems=f1")
    base, tuned = imported("table", "outputs.csv", *settings, cwd=table)
    assert [result["task"] for result in base["results"]] == ["squad2", "truthfulqa_generation", "poems"]
    found = read_run(table / tuned["folder"])
    truthful, poems = (found[found.task == name] for name in ("truthfulqa_generation", "poems"))
    assert truthful.true_and_info.equals(truthful["true"])
    assert set(truthful["true"]) == {0, 1}
    assert not truthful.bleu_acc.isna().any()
    assert "toxicity" in truthful
    assert (len(poems), poems.toxicity.iloc[7], poems.f1.iloc[1]) == (30, pytest.approx(0.07), 1)
    assert read_lines(next((table / tuned["folder"]).glob("poems-*/documents.jsonl")))[3]["group"] == "1"
    (contrast,) = compare(["base", "tuned"], runs=table / "runs").contrasts
    primary = {row.task: row for row in contrast.rows if row.primary}
    assert {name: row.metric for name, row in primary.items()} == {
        "squad2": "em", "truthfulqa_generation": "bleu_acc", "poems": "f1",
    }  # fmt: skip
    assert primary["poems"].clusters == 15
    assert contrast.tests == 3
    assert {own.name for own in contrast.groups} == {"reading", "other"}
    judged = next(row for row in contrast.rows if row.metric == "true_and_info")
    assert judged.scorer.count("column") == 2
    assert judged.delta > 0
    split = imported("table", "outputs.csv", *options, "--split-by", "split", "--out", "split", cwd=table)
    assert "poems_test" in [result["task"] for result in split[0]["results"]]


def test_prompts_are_matched_by_their_text_where_the_ids_are_another_numbering(tmp_path):
    write_lines(tmp_path / "prompts.jsonl", [{"id": str(i), "prompt": f"How is cow {i}?"} for i in range(4)])
    rows = [{"id": i, "prompt": f"How  is cow {3 - i}?\n", "output": f"Cow {3 - i} is well."} for i in range(4)]
    write_lines(tmp_path / "a.jsonl", [*rows[:3], {"id": 0, "output": "Moo."}])
    (own,) = imported("table", "a.jsonl", "--task", "answers", "--prompts", "prompts.jsonl", cwd=tmp_path)
    assert read_run(tmp_path / own["folder"]).set_index("id").outputs.to_dict() == {
        "0": ["Moo."], "1": ["Cow 1 is well."], "2": ["Cow 2 is well."], "3": ["Cow 3 is well."],
    }  # fmt: skip


def test_zero_is_a_name_like_any_other_and_columns_may_be_missing_in_a_row_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    zeros = {"system": 0, "id": "row 1", "prompt": 0, "group": 0}
    write_lines(tmp_path / "a.jsonl", [zeros | {"text": "Moo."}, {"system": 0, "text": "Baa.", "gold": "Baa."}])
    write_lines(tmp_path / "b.jsonl", [{"output": "Moo.", "references": None}])
    first, second = read_table(["~/a.jsonl", "~/b.jsonl"], renamed={"text": "output", "gold": "references"})
    assert [first.model["model"]["name"], second.model["model"]["name"]] == ["0", "b"]
    found = {own.id: (own.prompt, own.group, own.references, own.outputs[0].unscored) for own in first.records}
    missing = "the file has no output for it"
    assert found == {
        "row 1": ("0", "0", (), None),
        "row 2": ("", None, ("Baa.",), None),
        "row 3": ("", None, (), missing),
    }
    assert_refused(f"{tmp_path}/none: no lm-eval logs", read_lm_eval, ["~/none"])
    assert_refused(f"{tmp_path}/none.eval: no such file", read_inspect, ["~/none.eval"])


def test_rescoring_an_imported_run_keeps_the_scores_of_the_file(table, tmp_path):
    rows = [{"id": i, "output": "A cow says moo.", "source": "A cow.", "charm": i / 10} for i in range(8)]
    write_lines(table / "a.jsonl", rows)
    (own,) = imported("table", "a.jsonl", "--score", "charm", "--task", "odes", cwd=table)
    done = run("rescore", own["folder"], "--scorer", "entailment=extractive", "--json", cwd=table)
    assert done.returncode == 0, done.stderr
    metrics = {metric["metric"]: metric["value"] for metric in json.loads(done.stdout)[0]["results"][0]["metrics"]}
    assert metrics["charm"] == pytest.approx(0.35)
    assert "hallucination_rate" in metrics


@pytest.mark.parametrize("case", cases("imports")["rejected"], ids=lambda case: " ".join(case["words"]))
def test_bad_input_is_one_clear_line(case, table, world):
    write_lines(table / "few.jsonl", few := [{"id": "a", "output": "moo", "bad": "high"}])
    write_lines(table / "ids.jsonl", [{"id": own, "output": "moo"} for own in (1, "1")])
    write_lines(table / "rows.jsonl", [{"output": "moo"}, {"id": "row 1", "output": "baa"}])
    (table / "sub").mkdir()
    write_lines(table / "sub" / "few.jsonl", few)
    write_lm_eval(table / "old", "m", 3, lm_eval_version="0.3.0", results=None)
    write_lm_eval(table / "good", "m", 3)
    (table / "empty").mkdir()
    (table / "sums").mkdir()
    (table / "sums" / f"results_{DATE}.json").write_text("{}")
    write_inspect(table / "v1.json", "m", 3, version=1)
    write_inspect(table / "half.eval", "m", 3, status="cancelled")
    write_inspect(table / "none.eval", "m", 3, change=lambda samples: samples.clear())
    write_inspect(table / "bare.eval", "m", 3, change=lambda samples: [own.update(scores=None) for own in samples])
    (table / "text.eval").write_text("hello")
    write_inspect(table / "odd.eval", "m", 3, change=lambda samples: samples.append({"id": "q", "epoch": [1]}))
    assert_one_line_error(run("import", *case["arguments"], "--data-dir", world, cwd=table)
                          if case["arguments"][0] == "table" else run("import", *case["arguments"], cwd=table),
                          *case["words"])  # fmt: skip
    assert not list(table.glob("runs/*/*/result.json"))


def test_the_direction_of_a_metric_is_known_by_its_name():
    for better, names in cases("imports")["better"].items():
        assert {name: describe_metric(name, [0.5]).better for name in names} == dict.fromkeys(names, better)


LIGHT = """
import sys
from alignbench.cli.app import app
for command in {commands}:
    try:
        app(command, standalone_mode=False)
    except SystemExit as end:
        assert not end.code
heavy = sorted({{"torch", "transformers", "datasets"}} & set(sys.modules))
assert not heavy, heavy
"""


def test_commands_on_existing_results_import_neither_torch_nor_transformers(tmp_path):
    write_lm_eval(tmp_path / "logs", "base", 20)
    write_lm_eval(tmp_path / "logs", "tuned", 30)
    write_lines(tmp_path / "labels.jsonl", [
        {"labeler": name, "prompt_id": "1", "prompt": "p", "model": model, "output": model, "rank": rank}
        for name in "ab" for rank, model in enumerate("xy", 1)
    ])  # fmt: skip
    commands = [
        ["import", "lm-eval", "logs"],
        ["compare", "base", "tuned", "--resamples", "200"],
        ["report", "runs", "--out", "report"],
        ["labels", "summary", "labels.jsonl"],
    ]
    script = LIGHT.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

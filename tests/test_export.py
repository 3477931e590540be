"""`alignbench export`: each format has the numbers of the run folders, in the form that its readers expect."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import yaml
from audit_runs import rte, shares, write_run
from commands import assert_one_line_error, assert_refused, run

from alignbench.exports.formats import to_every_eval_ever, to_lm_eval, to_tracker
from alignbench.runs.read import read_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    write_run(out, "owner/base", rte(0.8))
    write_run(out, "aligned", rte(0.6), ("sst2", {"acc": shares(0.5)}), ("sst2", {"acc": shares(0.9)}, {"shots": 5}))
    return out


def only(name, runs):
    (found,) = read_runs([name], runs)
    return found


def test_results_of_every_eval_ever_have_what_its_schema_requires(runs):
    found = json.loads(to_every_eval_ever(only("aligned", runs), "a lab", "first_party"))
    assert found["schema_version"] == "0.3.0"
    assert found["source_metadata"]["evaluator_relationship"] == "first_party"
    assert found["model_info"]["additional_details"]["deployment_type"] == "self_deployed"
    names = [own["evaluation_name"] for own in found["evaluation_results"]]
    assert len(set(names)) == 3
    assert "rte" in names
    (rte_result,) = [own for own in found["evaluation_results"] if own["evaluation_name"] == "rte"]
    score, config = rte_result["score_details"], rte_result["metric_config"]
    assert score["score"] == pytest.approx(0.6)
    interval = score["uncertainty"]["confidence_interval"]
    assert interval["lower"] < 0.6 < interval["upper"]
    assert (config["min_score"], config["max_score"], config["lower_is_better"]) == (0.0, 1.0, False)
    assert {type(value) for value in rte_result["generation_config"]["additional_details"].values()} == {str}


def test_results_of_lm_eval_have_its_keys(runs):
    found = json.loads(to_lm_eval(only("owner/base", runs)))
    assert found["results"]["rte"]["acc,none"] == pytest.approx(0.8)
    assert 0 < found["results"]["rte"]["acc_stderr,none"] < 0.1
    assert found["higher_is_better"]["rte"] == {"acc": True}
    assert {found[part]["rte"] for part in ("versions", "n-shot")} <= {0, 1, 2, 3, 15}
    assert found["n-samples"]["rte"] == {"original": 120, "effective": 120}
    assert found["model_name"] == "owner/base"


def test_a_model_card_keeps_its_text_and_other_results_and_an_export_replaces_its_own(runs, tmp_path):
    card = tmp_path / "README.md"
    other = {"task": {"type": "text-generation"}, "dataset": {"name": "d", "type": "own/d"}}
    index = [{"name": "x", "results": [other | {"metrics": [{"type": "acc", "value": 0.3}]}]}]
    card.write_text(f"---\n{yaml.safe_dump({'license': 'mit', 'model-index': index})}---\n# Mine\ntext\n")
    for _ in range(2):
        done = run("export", "hf", "aligned", "--runs", runs, "--out", card)
        assert done.returncode == 0, done.stderr
    _, head, text = card.read_text().split("---\n", 2)
    assert text == "# Mine\ntext\n"
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "mit"
    values = [own["metrics"][0]["value"] for own in metadata["model-index"][0]["results"]]
    assert sorted(values) == pytest.approx([0.3, 0.5, 0.6, 0.9])


def test_parquet_has_every_record_with_its_model(runs, tmp_path):
    done = run("export", "parquet", "owner/base", "aligned", "--runs", runs, "--out", tmp_path / "all.parquet")
    assert done.returncode == 0, done.stderr
    table = pandas.read_parquet(tmp_path / "all.parquet")
    assert table.groupby("model").size().to_dict() == {"owner/base": 120, "aligned": 360}
    assert table[table.model == "owner/base"]["acc"].mean() == pytest.approx(0.8)


class Tracker(SimpleNamespace):
    """Stands in for the module of a tracker: remembers the calls."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **named: self.calls.append((name, *values, named)) or self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_gets_each_metric_and_the_models_hash(runs, name, monkeypatch):
    tracker = Tracker(calls=[], __name__=name)
    monkeypatch.setitem(sys.modules, name, tracker)
    to_tracker(name, only("aligned", runs), "mine")
    given = [own for _, *values, named in tracker.calls for own in (*values, named.get("config") or {})]
    settings, metrics = (next(own for own in given if name in own) for name in ("engine.kind", "rte/acc"))
    assert len(settings["model.weights_sha256"]) == 64
    assert metrics["rte/acc"] == pytest.approx(0.6)
    assert len(metrics) == 6
    assert all(isinstance(value, float) for value in metrics.values())


def test_an_error_of_a_tracker_is_one_line(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(__name__="wandb"))
    assert_refused("wandb: .*init", to_tracker, "wandb", only("aligned", runs), "mine")
    monkeypatch.setitem(sys.modules, "trackio", None)
    message = r"trackio is not installed: pip install 'alignbench\[trackio\]'"
    assert_refused(message, to_tracker, "trackio", None, "mine")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("csv", "aligned"), "choose hf"),
        (("hf", "aligned"), "--out"),
        (("hf", "aligned", "owner/base", "--out", "card.md"), "one model"),
        (("lm-eval", "other", "--out", "x"), "no such run"),
        (("every-eval-ever", "aligned", "--out", "x", "--relationship", "friend"), "--relationship"),
        (("hf", "aligned", "--out", "."), "model card"),
        (("hf", "aligned", "--out", "bad.md"), "bad.md: not a model card"),
        (("lm-eval", "aligned", "FOLDER", "--out", "x"), "two runs have folders of one name"),
        (("parquet", "aligned", "--out", "missing/folder/a.parquet"), "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(runs, arguments, words, tmp_path):
    shutil.copytree(only("aligned", runs).path, tmp_path / only("aligned", runs).path.name)
    (tmp_path / "bad.md").write_text("---\nlicense: [\n---\n")
    arguments = [only("aligned", runs).path.name if own == "FOLDER" else own for own in arguments]
    assert_one_line_error(run("export", *arguments, "--runs", runs, cwd=tmp_path), words)


def test_json_files_are_written_one_for_each_run(runs, tmp_path):
    for form, pattern in (("every-eval-ever", "*.json"), ("lm-eval", "*/results_alignbench.json")):
        done = run("export", form, "aligned", "owner/base", "--runs", runs, "--out", tmp_path / form)
        assert done.returncode == 0, done.stderr
        files = sorted(Path(tmp_path / form).glob(pattern))
        assert len(files) == 2
        assert all(json.loads(file.read_text()) for file in files)

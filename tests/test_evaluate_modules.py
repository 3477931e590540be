"""evaluate is how others reach our text metrics, and how we take theirs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import alignbench.metrics
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu, drop, extractive, quac, rouge, squad
from alignbench.scorers.hf_evaluate import EvaluateScorer
from alignbench.types.scorer import Item

PREDICTIONS = ["The owl left its barn at 9.", "nobody saw 12 owls in Zurich"]
REFERENCES = [["The owl left its barn at nine.", "It left at 9."], ["In Zurich nobody saw the owls."]]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """evaluate copies scripts and keeps inputs in the user's cache: not in tests."""
    import evaluate.config

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield


def _load(name: str) -> Any:
    import evaluate

    return evaluate.load(alignbench.metrics.path(name))


def test_there_is_a_script_for_each_name_and_an_error_for_any_other() -> None:
    names = alignbench.metrics.names()
    assert {"squad_f1", "drop_f1", "quac_f1", "corpus_bleu", "rouge_l", "grounding"} == set(names)
    with pytest.raises(AlignbenchError, match="there is no 'bleurt'; there are corpus_bleu, "):
        alignbench.metrics.path("bleurt")


def test_each_metric_is_the_mean_of_our_function() -> None:
    both = {"predictions": PREDICTIONS, "references": REFERENCES}
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))
    assert _load("squad_f1").compute(**both) == {
        "exact_match": 0,
        "f1": pytest.approx(50 * sum(squad.f1(*pair) for pair in pairs)),
    }
    assert _load("drop_f1").compute(**both) == {
        "exact_match": 0,
        "f1": pytest.approx(50 * sum(drop.scores(*pair)[1] for pair in pairs)),
    }
    assert _load("quac_f1").compute(**both)["f1"] == pytest.approx(50 * sum(quac.f1(*pair) for pair in pairs))
    assert _load("rouge_l").compute(**both)["rougeL"] == pytest.approx(
        sum(max(rouge.rouge(said, one)["rougeL"] for one in right) for said, right in pairs) / 2
    )
    found = _load("corpus_bleu").compute(**both)
    assert found["bleu"] == bleu.corpus_bleu([bleu.bleu_statistics(*pair) for pair in pairs]) > 0
    assert found["chrf"] == bleu.corpus_chrf([bleu.chrf_statistics(*pair) for pair in pairs]) > 0


def test_bleu_comes_with_the_signature_that_sacrebleu_gives_it() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    for references in ([[right[0]] for right in REFERENCES], [[right[0]] * 2 for right in REFERENCES], REFERENCES):
        found = _load("corpus_bleu").compute(predictions=PREDICTIONS, references=references)
        longest = max(map(len, references))
        columns = [[right[i] if i < len(right) else None for right in references] for i in range(longest)]
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            assert found[name] == pytest.approx(metric.corpus_score(PREDICTIONS, columns).score)
            assert found[f"{name}_signature"] == str(metric.get_signature())


def test_grounding_reads_the_references_as_sources() -> None:
    sources = [right[0] for right in REFERENCES]
    found = _load("grounding").compute(predictions=PREDICTIONS, references=sources)
    each = [extractive.flags(*pair) for pair in zip(PREDICTIONS, sources, strict=True)]
    assert found == {name: pytest.approx((each[0][name] + each[1][name]) / 2) for name in each[0]}
    assert found["novel_numbers"] == 0.5
    nothing = _load("grounding").compute(predictions=["", ""], references=sources)
    assert nothing == {"rouge2_precision": None, "novel_numbers": 0, "novel_spans": 0, "flagged": 0}


@pytest.mark.parametrize(
    ("name", "key", "ceiling"),
    [
        ("squad_f1", "exact_match", 100),
        ("squad_f1", "f1", 100),
        ("drop_f1", "f1", 100),
        ("quac_f1", "f1", 100),
        ("corpus_bleu", "bleu", 100),
        ("corpus_bleu", "chrf", 100),
        ("rouge_l", "rougeL", 1),
    ],
)
def test_the_references_are_the_ceiling_and_empty_outputs_the_floor(name: str, key: str, ceiling: float) -> None:
    right = [right[0] for right in REFERENCES]
    references = [[one] for one in right]
    assert _load(name).compute(predictions=right, references=references)[key] == ceiling
    assert _load(name).compute(predictions=["", ""], references=references)[key] == 0


@pytest.mark.parametrize("references", [[["Owl"], []], [[], ["Owl"]], ["Owl", ""]])
def test_a_question_without_answer_may_stand_anywhere(references: list[Any]) -> None:
    predictions = ["the owl", ""] if references[0] else ["", "the owl"]
    assert _load("squad_f1").compute(predictions=predictions, references=references)["f1"] == 100


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (["9", "owl"], ["9.0", "hawk"]),
        (["9", "owl"], [["8", "9.0"], ["hawk"]]),
        ([["red owl", "hawk"], ["kite"]], [[["hawk", "red owl"]], [["owl"], ["gull", "tern"]]]),
    ],
)
def test_drop_takes_an_answer_or_its_spans(predictions: list[Any], references: list[Any]) -> None:
    assert _load("drop_f1").compute(predictions=predictions, references=references) == {"exact_match": 50, "f1": 50}


def test_metrics_load_and_combine_without_a_network_wherever_one_stands(tmp_path: Path) -> None:
    script = f"""
import json, socket
def refuse(*args, **kwargs): raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate, alignbench.metrics
all = evaluate.combine([alignbench.metrics.path(name) for name in alignbench.metrics.names() if name != "grounding"])
print(json.dumps(all.compute(predictions={PREDICTIONS!r}, references={REFERENCES!r})))
"""
    package = str(Path(alignbench.metrics.__file__).parents[2])
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": package}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("squad_f1", "drop_f1", "corpus_bleu", "rouge_l"):
        for key, value in _load(name).compute(predictions=PREDICTIONS, references=REFERENCES).items():
            # where two metrics give one name, evaluate puts the metric's own before it
            assert found.get(key, found.get(f"{name}_{key}")) == value


# theirs

SCRIPT = """
import datasets
import evaluate
{imports}

class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=datasets.Features(
            {features}))

    def _compute(self, {arguments}):
        {body}
"""
TEXTS = '{"predictions": datasets.Value("string"), "references": datasets.Value("string")}'


def _script(folder: Path, name: str, features: str = TEXTS, *, imports: str = "", body: str, **more: str) -> Path:
    folder = folder / name
    folder.mkdir()
    for module, text in more.items():
        (folder / f"{module}.py").write_text(text)
    names = [part.strip().strip('"') for part in features.strip("{}").split(",")]
    arguments = ", ".join(part.split('"')[0] for part in names)
    text = SCRIPT.format(imports=imports, name=name.title(), features=features, arguments=arguments, body=body)
    (folder / f"{name}.py").write_text(text)
    return folder


def test_another_s_metric_scores_each_output_by_itself(tmp_path: Path) -> None:
    body = 'return {"ratio": len(predictions[0]) / len(references[0]), "same": [predictions == references], "by": "me"}'
    folder = _script(tmp_path, "lengths", body=body)
    items = [Item("owl", references=("owlets",)), Item("hawk", references=("hawk",))]
    for path in (folder, folder / "lengths.py"):
        scorer = EvaluateScorer(str(path))
        assert (scorer.kind, scorer.name) == ("evaluate", "lengths")
        assert scorer.revision == hashlib.sha256((folder / "lengths.py").read_bytes()).hexdigest()
        assert scorer.score(items) == [{"ratio": 0.5, "same": 0.0}, {"ratio": 1.0, "same": 1.0}]
    with pytest.raises(AlignbenchError, match="takes one reference per output, and this one has 2"):
        scorer.score([Item("owl", references=("owl", "hawk"))])


def test_a_metric_that_takes_several_references_gets_them_all() -> None:
    scorer = EvaluateScorer(alignbench.metrics.path("squad_f1"))
    assert scorer.score([Item("owl", references=("hawk", "the owl")), Item("owl")]) == [
        {"exact_match": 100, "f1": 100},
        {"exact_match": 0, "f1": 0},
    ]


def test_a_metric_may_read_the_source_alone(tmp_path: Path) -> None:
    features = '{"predictions": datasets.Value("string"), "sources": datasets.Value("string")}'
    folder = _script(tmp_path, "copied", features, body='return {"copied": float(predictions[0] in sources[0])}')
    items = [Item("owl", source="an owl"), Item("owl", source="a hawk"), Item("owl", prompt="an owl")]
    assert EvaluateScorer(str(folder)).score(items) == [{"copied": 1}, {"copied": 0}, {"copied": 1}]


def test_a_change_in_a_module_that_the_script_imports_is_another_revision(tmp_path: Path) -> None:
    revisions = []
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        script = {"imports": "from .helper import VALUE", "body": 'return {"value": VALUE}'}
        folder = _script(tmp_path / str(value), "helped", **script, helper=f"VALUE = {value}\n")
        scorer = EvaluateScorer(str(folder))
        assert scorer.score([Item("owl", references=("owl",))]) == [{"value": value}]
        revisions.append(scorer.revision)
    assert revisions[0] != revisions[1]


def test_a_script_from_the_hub_runs_by_consent_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.config
    import evaluate.loading

    def no_network(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.loading.HubEvaluationModuleFactory, "get_module", no_network)
    (tmp_path / "rouge").mkdir()  # a folder of that name is no script, and evaluate would go on to the hub
    monkeypatch.chdir(tmp_path)
    for path in ("rouge", "someone/metric"):
        with pytest.raises(AlignbenchError, match=r"no such script.*trust_remote_code=True"):
            EvaluateScorer(path)
        with pytest.raises(AlignbenchError, match=f"metric '{path}': evaluate cannot load it: ") as error:
            EvaluateScorer(path, trust_remote_code=True)
        assert "\n" not in str(error.value)


def test_a_metric_of_numbers_or_of_unknown_inputs_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    labels = TEXTS.replace("string", "int32")
    with pytest.raises(AlignbenchError, match="its predictions are not texts"):
        EvaluateScorer(str(_script(tmp_path, "labels", labels, body="return {}")))
    features = '{"predictions": datasets.Value("string"), "images": datasets.Value("string")}'
    with pytest.raises(AlignbenchError, match="it takes images, predictions"):
        EvaluateScorer(str(_script(tmp_path, "images", features, body="return {}")))
    broken = _script(tmp_path, "broken", imports="import no_such_package", body="return {}")
    with pytest.raises(AlignbenchError, match=r"evaluate cannot load it: .*no_such_package") as error:
        EvaluateScorer(str(broken))
    assert "\n" not in str(error.value)

"""Our text metrics as modules of evaluate, and metrics of evaluate as scorers."""

import hashlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import evaluate.config
import evaluate.loading
import pytest
from cases import cases
from commands import assert_refused

import alignbench.metrics
from alignbench.scorers import drop, extractive, quac, rouge, squad
from alignbench.scorers.hf_evaluate import EvaluateScorer
from alignbench.types.scorer import Item

PREDICTIONS = ["The owl left its barn at 9.", "nobody saw 12 owls in Zurich"]
REFERENCES = [["The owl left its barn at nine.", "It left at 9."], ["In Zurich nobody saw the owls."]]
FIRST = [right[0] for right in REFERENCES]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Replace the user's cache, in which evaluate keeps scripts and inputs."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield


def compute(name: str, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
    return evaluate.load(alignbench.metrics.path(name)).compute(predictions=predictions, references=references)


def test_each_metric_is_the_mean_of_our_function() -> None:
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))
    scores = {"squad_f1": squad.f1, "drop_f1": lambda *pair: drop.scores(*pair)[1], "quac_f1": quac.f1}
    for name, score in scores.items():
        assert compute(name, PREDICTIONS, REFERENCES)["f1"] == pytest.approx(50 * sum(score(*pair) for pair in pairs))
    best = [max(rouge.rouge(prediction, one)["rougeL"] for one in right) for prediction, right in pairs]
    assert compute("rouge_l", PREDICTIONS, REFERENCES)["rougeL"] == pytest.approx(sum(best) / 2)
    # grounding reads the references as sources
    found = compute("grounding", PREDICTIONS, FIRST)
    each = [extractive.flags(*pair) for pair in zip(PREDICTIONS, FIRST, strict=True)]
    assert found == {name: pytest.approx((each[0][name] + each[1][name]) / 2) for name in each[0]}
    assert found["novel_numbers"] == 0.5


def test_bleu_has_the_signature_that_sacrebleu_gives_it() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    for references in ([[one] for one in FIRST], [[one] * 2 for one in FIRST], REFERENCES):
        found = compute("corpus_bleu", PREDICTIONS, references)
        columns = list(map(list, itertools.zip_longest(*references)))
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            assert found[name] == pytest.approx(metric.corpus_score(PREDICTIONS, columns).score)
            assert found[f"{name}_signature"] == str(metric.get_signature())


@pytest.mark.parametrize(("name", "predictions", "references", "values"), cases("text_metrics")["evaluate"])
def test_known_values(name: str, predictions: list[Any], references: list[Any], values: dict[str, float]) -> None:
    found = compute(name, predictions, references)
    assert {key: found[key] for key in values} == values


def refuse(*_: object, **__: object) -> None:
    raise ConnectionError("no network in this test")


def test_metrics_load_and_combine_without_a_network_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    names = {"squad_f1", "drop_f1", "quac_f1", "corpus_bleu", "rouge_l"}
    assert names | {"grounding"} == set(alignbench.metrics.SCRIPTS)
    combined = evaluate.combine([alignbench.metrics.path(name) for name in names])
    found = combined.compute(predictions=PREDICTIONS, references=REFERENCES)
    for name in names:
        for key, value in compute(name, PREDICTIONS, REFERENCES).items():
            # evaluate puts the metric's name before a key that two metrics have
            assert found.get(key, found.get(f"{name}_{key}")) == value
    assert_refused("there is no 'bleurt'; there are corpus_bleu, ", alignbench.metrics.path, "bleurt")


SCRIPT = """
import datasets
import evaluate
{imports}

class Metric(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{name: datasets.Value("{type}") for name in {inputs}}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, {arguments}):
        return {result}
"""


def write_script(
    folder: Path, result: str, inputs=("predictions", "references"), type: str = "string", imports: str = ""
) -> Path:
    folder.mkdir(parents=True)
    text = SCRIPT.format(imports=imports, type=type, inputs=inputs, arguments=", ".join(inputs), result=result)
    (folder / f"{folder.name}.py").write_text(text)
    return folder


def test_a_script_scores_each_output_by_itself_and_its_revision_is_of_it_and_what_it_imports(tmp_path: Path) -> None:
    result = '{"ratio": len(predictions[0]) / len(references[0]), "same": [predictions == references], "by": "me"}'
    folder = write_script(tmp_path / "lengths", result)
    items = [Item("owl", references=("owlets",)), Item("hawk", references=("hawk",))]
    for path in (folder, folder / "lengths.py"):
        scorer = EvaluateScorer(str(path))
        assert (scorer.kind, scorer.name) == ("evaluate", "lengths")
        assert scorer.revision == hashlib.sha256((folder / "lengths.py").read_bytes()).hexdigest()
        assert scorer.score(items) == [{"ratio": 0.5, "same": 0.0}, {"ratio": 1.0, "same": 1.0}]
    (reason,) = scorer.score([Item("owl", references=("owl", "hawk"))])
    assert reason == "it takes one reference per output, and this one has 2"
    revisions = set()
    for value in (1, 2):
        script = write_script(tmp_path / str(value) / "helped", '{"value": VALUE}', imports="from .helper import VALUE")
        (script / "helper.py").write_text(f"VALUE = {value}\n")
        scorer = EvaluateScorer(str(script))
        assert scorer.score(items[:1]) == [{"value": value}]
        revisions.add(scorer.revision)
    assert len(revisions) == 2


def test_a_metric_gets_all_references_if_it_takes_several_or_the_source_if_it_takes_that(tmp_path: Path) -> None:
    items = [Item("owl", references=("hawk", "the owl")), Item("owl")]
    found = EvaluateScorer(alignbench.metrics.path("squad_f1")).score(items)
    assert found == [{"exact_match": 100, "f1": 100}, {"exact_match": 0, "f1": 0}]
    result = '{"copied": float(predictions[0] in sources[0])}'
    folder = write_script(tmp_path / "copied", result, ("predictions", "sources"))
    items = [Item("owl", source="an owl"), Item("owl", source="a hawk"), Item("owl", prompt="an owl")]
    assert EvaluateScorer(str(folder)).score(items) == [{"copied": 1}, {"copied": 0}, {"copied": 1}]


def test_a_script_from_the_hub_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.loading.HubEvaluationModuleFactory, "get_module", refuse)
    (tmp_path / "rouge").mkdir()  # a folder of that name without a script: evaluate would try the hub
    monkeypatch.chdir(tmp_path)
    for path in ("rouge", "someone/metric"):
        assert_refused(f"metric '{path}': no such script", EvaluateScorer, path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("numbers", {"type": "int32"}, "its predictions are not texts"),
        ("pictures", {"inputs": ("predictions", "images")}, "it takes images, predictions"),
        ("broken", {"imports": "import no_such_package"}, r"evaluate cannot load it: .*no_such_package"),
    ],
)
def test_a_metric_of_other_inputs_is_refused_before_scoring(tmp_path: Path, name: str, options, message: str) -> None:
    assert_refused(message, EvaluateScorer, str(write_script(tmp_path / name, "{}", **options)))

"""Our text metrics as classes of Hugging Face's evaluate. The script in the folder of a metric's name imports its
class, and module.yaml describes it."""

import math
from pathlib import Path
from typing import Any

import datasets
import evaluate
import yaml

from alignbench.scorers import bleu, drop, extractive, quac, squad
from alignbench.scorers.rouge import rouge

_ABOUT = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
TEXT = datasets.Value("string")
TEXTS = datasets.Sequence(TEXT)


class TextMetric(evaluate.Metric):  # type: ignore[misc]
    """Means of `score` over the predictions, times `scale`; NaN is left out, and the mean of NaN only is None."""

    scale = 1
    # (predictions, references): one or several references per prediction
    options: tuple[tuple[Any, Any], ...] = ((TEXT, TEXTS), (TEXT, TEXT))

    def score(self, prediction: Any, references: Any) -> dict[str, float]:
        """The numbers of one prediction. references: a list, also if there is one."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        features = [datasets.Features({"predictions": p, "references": r}) for p, r in self.options]
        return evaluate.MetricInfo(**_ABOUT[type(self).__name__], features=features)

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        lists = [[right] if isinstance(right, str) else right for right in references]
        return self.combine(list(zip(predictions, lists, strict=True)))

    def combine(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        each = [self.score(*pair) for pair in pairs]
        means: dict[str, float | None] = {}
        for name in each[0]:
            values = [numbers[name] for numbers in each if not math.isnan(numbers[name])]
            means[name] = self.scale * sum(values) / len(values) if values else None
        return means


class SquadF1(TextMetric):
    scale = 100

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return {"exact_match": squad.exact_match(prediction, references), "f1": squad.f1(prediction, references)}


class QuacF1(TextMetric):
    scale = 100

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        f1 = quac.f1(prediction, references)
        return {"f1": f1, "f1_agreed": f1 if quac.agreement(references) >= quac.AGREEMENT else math.nan}


class DropF1(TextMetric):
    scale = 100
    options = tuple((p, r) for p in (TEXT, TEXTS) for r in (datasets.Sequence(TEXTS), TEXTS, TEXT))

    def score(self, prediction: str | list[str], references: list[str | list[str]]) -> dict[str, float]:
        return dict(zip(("exact_match", "f1"), drop.scores(prediction, references), strict=True))


class RougeL(TextMetric):
    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return max((rouge(prediction, reference) for reference in references), key=lambda scores: scores["rougeL"])


class Grounding(TextMetric):
    options = ((TEXT, TEXT),)

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return extractive.flags(prediction, references[0])


class CorpusBleu(TextMetric):
    def combine(self, pairs: list[tuple[str, list[str]]]) -> dict[str, Any]:
        counts = {len(right) for _, right in pairs}
        number = counts.pop() if len(counts) == 1 else "var"
        return {
            "bleu": bleu.corpus_bleu([bleu.bleu_statistics(*pair) for pair in pairs]),
            "bleu_signature": bleu.bleu_signature(number),
            "chrf": bleu.corpus_chrf([bleu.chrf_statistics(*pair) for pair in pairs]),
            "chrf_signature": bleu.chrf_signature(number),
        }

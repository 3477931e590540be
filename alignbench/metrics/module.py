"""The common part of our metrics as modules of Hugging Face's evaluate."""

import math
from typing import Any

import datasets
import evaluate

TEXT = datasets.Value("string")
TEXTS = datasets.Sequence(TEXT)


class TextMetric(evaluate.Metric):  # type: ignore[misc]
    """Means of `score` over the predictions, times `scale`; NaN is left out, and the mean of NaN only is None."""

    citation = inputs = ""
    scale = 1
    # (predictions, references): one or several references per prediction
    options: tuple[tuple[Any, Any], ...] = ((TEXT, TEXTS), (TEXT, TEXT))

    def score(self, prediction: Any, references: Any) -> dict[str, float]:
        """The numbers of one prediction. references: a list, also if there is one."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=self.citation,
            inputs_description=self.inputs,
            features=[datasets.Features({"predictions": p, "references": r}) for p, r in self.options],
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        each = [self.score(*pair) for pair in zip(predictions, map(as_list, references), strict=True)]
        means: dict[str, float | None] = {}
        for name in each[0]:
            values = [numbers[name] for numbers in each if not math.isnan(numbers[name])]
            means[name] = self.scale * sum(values) / len(values) if values else None
        return means


def as_list(references: Any) -> Any:
    return [references] if isinstance(references, str) else references

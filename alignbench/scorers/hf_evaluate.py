"""Metrics of Hugging Face's evaluate as scorers: any script with the usual inputs, computed for each output."""

import hashlib
import inspect
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.types.scorer import Item, Numbers


class EvaluateScorer:
    """`evaluate=PATH`: a metric that `evaluate.load(path)` finds. Numbers: those of the metric (a number, or a list of
    one); other results, such as a signature, are omitted.

    path: a local script or its folder
    revision: sha256 of the script, and of the local modules that it imports
    """

    kind = "evaluate"

    def __init__(self, path: str) -> None:
        import datasets
        import evaluate

        found = Path(path)
        script = found if found.suffix == ".py" else found / f"{found.resolve().name}.py"
        if not script.is_file():
            reason = "no such script, nor a folder with a script of its name; download one of the hub first"
            raise AlignbenchError(f"metric {path!r}: {reason}")
        self.name = script.stem
        try:
            # the full path: evaluate looks on the hub for a name that it does not find
            self._metric = evaluate.load(str(script.resolve()), keep_in_memory=True)
        except Exception as error:  # a script may raise any error
            raise AlignbenchError(f"metric {path!r}: evaluate cannot load it: {first_line(error)}") from error
        # evaluate runs the script from a cache folder with the modules that it imports, and no others
        copy = Path(inspect.getfile(type(self._metric)))
        files = [copy, *(module for module in sorted(copy.parent.rglob("*.py")) if module != copy)]
        self.revision = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        text, features = datasets.Value("string"), self._metric.features
        options = features if isinstance(features, list) else [features]
        if set(options[0]) - {"predictions", "references", "sources"} or "predictions" not in options[0]:
            inputs = f"{', '.join(sorted(options[0]))}, not predictions alone or with references and sources"
            raise AlignbenchError(f"metric {path!r}: it takes {inputs}")
        textual = [option for option in options if option["predictions"] == text]
        if not textual:
            raise AlignbenchError(f"metric {path!r}: its predictions are not texts but {options[0]['predictions']}")
        self._several = any(option.get("references", text) != text for option in textual)  # references of an output

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        return [self._score(item) for item in items]

    def _score(self, item: Item) -> Numbers | str:
        inputs: dict[str, list[Any]] = {"predictions": [item.output]}
        names = self._metric._feature_names()
        if "sources" in names:
            inputs["sources"] = [item.source if item.source is not None else item.prompt]
        if "references" in names:
            if not self._several and len(item.references) != 1:
                return f"it takes one reference per output, and this one has {len(item.references)}"
            inputs["references"] = [list(item.references) if self._several else item.references[0]]
        found = {}
        for name, value in self._metric.compute(**inputs).items():
            value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
            if isinstance(value, numbers.Real) or getattr(value, "size", 0) == 1:  # numpy's
                found[name] = float(value)
        return found

"""Sources of records: a model, and outputs that exist already."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from alignbench.evaluation.scoring import WINDOW, choices_record
from alignbench.models.model import Model
from alignbench.progress import Progress
from alignbench.provenance import environment
from alignbench.runs.folder import RecordOffset, RunFolder
from alignbench.types.engine import Engine, Loglikelihood, Prompt, Request, Thinking
from alignbench.types.record import Document, Record
from alignbench.types.task import Task


class Source:
    """Where records come from.

    name: for messages; details: for the log
    computes: records are expensive: outputs of a folder that differs only in its scorers are reused, and generated
        outputs are saved before they are scored
    """

    name: str
    details: Mapping[str, Any] = {}
    computes = False

    def records(self, task: Task, documents: Sequence[Document], missing: Collection[str]) -> Iterator[Record]:
        """A record, pending or complete, of each missing document. `documents` are whole chunks."""
        raise NotImplementedError

    def usable(self, offset: RecordOffset) -> bool:
        """True if a record in the task's folder need not be produced again."""
        return not offset.transient

    def work(self) -> dict[str, Any]:
        """What was computed so far, for the log. A model is loaded at the first call."""
        return {}


class SavedOutputs(Source):
    """Outputs that exist already: of a file, of an existing run, or of a pair of runs."""

    def __init__(self, name: str, read: Callable[[str], Record], **details: str) -> None:
        """read: id of a document -> its pending record"""
        self.name, self.read, self.details = name, read, details

    def records(self, task: Task, documents: Sequence[Document], missing: Collection[str]) -> Iterator[Record]:
        return (self.read(document.id) for document in documents if document.id in missing)


def lazy_engine(model: Model, run: RunFolder, progress: Progress) -> Callable[[], Engine]:
    """A function that loads the model and describes it in run.json, when it is called for the first time."""

    @cache
    def load() -> Engine:
        progress.say(f"loading {model.name}")
        engine = model.open()
        settings: dict[str, Any] = getattr(engine, "settings", dict)()  # of the local engine
        encoder = getattr(engine, "encoder", None)  # not of an endpoint
        found = {**model.identity, **model.about, "vocabulary_sha256": getattr(engine, "vocabulary_sha256", None)}
        found |= settings | (encoder.describe() if encoder is not None else {}) | {"environment": environment()}
        begun = run.describe(found)
        if settings:
            engine.restore(begun)  # type: ignore[attr-defined]
        return engine

    return load


class ModelSource(Source):
    """A model that answers a task's documents."""

    computes = True

    def __init__(
        self, name: str, engine: Callable[[], Engine], prefix: str, seed: int, chat: bool, thinking: Thinking | None
    ) -> None:
        """prefix: the text before every prompt; seed: of what is sampled; chat: apply the chat template to prompts;
        thinking: how thoughts are told apart from answers, None if they are not"""
        self.name, self.engine, self.prefix = name, engine, prefix
        self.seed, self.chat, self.thinking = seed, chat, thinking

    def work(self) -> dict[str, Any]:
        return dict(self.engine().work())

    def records(self, task: Task, documents: Sequence[Document], missing: Collection[str]) -> Iterator[Record]:
        engine = self.engine()
        if task.generation is None:
            for begin in range(0, len(documents), WINDOW):
                window = documents[begin : begin + WINDOW]
                if any(document.id in missing for document in window):
                    yield from self._choices(engine, task, window, missing)
            return
        absent = [document for document in documents if document.id in missing]
        if absent:
            prompts = [Prompt(f"{task.name}/{document.id}", self.prefix + document.prompt) for document in absent]
            sampling = replace(task.generation.sampling, thinking=self.thinking)
            for index, completions in engine.generate(prompts, sampling, seed=self.seed, chat=self.chat):
                yield Record.generated(absent[index], completions)

    def _choices(
        self, engine: Engine, task: Task, window: Sequence[Document], missing: Collection[str]
    ) -> Iterator[Record]:
        """The record of each missing document of the window, when all of its choices are scored."""
        requests: list[Request] = []
        owners: list[int] = []
        for number, document in enumerate(window):
            # as in lm-eval, nothing stands between a chat template and the choice
            choices = [choice.removeprefix(" ") for choice in document.choices] if self.chat else document.choices
            contexts = [self.prefix + own for own in document.contexts or (document.prompt,) * len(choices)]
            asked = task.entropies, task.greedy, task.rolling
            requests += [Request(*pair, *asked) for pair in zip(contexts, choices, strict=True)]
            owners += [number] * len(document.choices)
        wanted = {index for index, owner in enumerate(owners) if window[owner].id in missing}
        answers: dict[int, dict[int, Loglikelihood]] = {owners[index]: {} for index in wanted}
        for index, answer in engine.loglikelihood(requests, wanted, chat=self.chat):
            own = answers[owners[index]]
            own[index] = answer
            document = window[owners[index]]
            if len(own) == len(document.choices):
                del answers[owners[index]]
                yield choices_record(task, document, [own[place] for place in sorted(own)])

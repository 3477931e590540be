"""Distance of a model from a base model: KL divergence on the model's own samples (task `kl`)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.sources import ModelSource
from alignbench.models.distributions import divergences
from alignbench.models.local import LocalEngine
from alignbench.tasks.kl import KL
from alignbench.types.engine import Completion, Engine, Prompt
from alignbench.types.record import Document, Record
from alignbench.types.task import Task


class DivergenceSource(ModelSource):
    """A model's samples, and the divergence of its distributions from those of a base model at each of their tokens.

    base: loads the base model; both must be local models with the same vocabulary
    """

    def __init__(self, source: ModelSource, base: Callable[[], Engine]) -> None:
        # thoughts are samples like all other tokens
        super().__init__(source.name, source.engine, source.prefix, source.seed, source.chat, None)
        self.base = base

    def records(self, task: Task, documents: Sequence[Document], missing: Collection[str]) -> Iterator[Record]:
        engine, base = self.engine(), self.base()
        assert isinstance(engine, LocalEngine)
        assert isinstance(base, LocalEngine)
        assert task.generation is not None
        if engine.vocabulary_sha256 != base.vocabulary_sha256:
            raise AlignbenchError(f"{self.name}: task {KL}: its vocabulary differs from that of the baseline")
        absent = [document for document in documents if document.id in missing]
        texts = [self.prefix + document.prompt for document in absent]
        prompts = [Prompt(f"{task.name}/{document.id}", text) for document, text in zip(absent, texts, strict=True)]
        encoded = engine.encoder.prompts(texts, chat=self.chat)
        for index, completions in engine.generate(prompts, task.generation.sampling, seed=self.seed, chat=self.chat):
            found = [self._compare(engine, base, encoded[index], completion) for completion in completions]
            record = Record.generated(absent[index], [completion for completion, _ in found])
            outputs = (
                replace(output, divergences=exact, log_ratios=sampled)
                for output, (_, (exact, sampled)) in zip(record.outputs, found, strict=True)
            )
            yield replace(record, outputs=tuple(outputs))

    def _compare(
        self, engine: LocalEngine, base: LocalEngine, prompt: object, completion: Completion
    ) -> tuple[Completion, tuple[tuple[float, ...], tuple[float, ...]]]:
        """The completion, and its tokens' divergences and log-ratios; none if it, or the base model's reading of it,
        failed."""
        if completion.unscored or not isinstance(prompt, np.ndarray):
            return completion, ((), ())
        if reason := base.misfit(np.append(prompt, completion.tokens)):
            return Completion.failed(f"baseline: {reason}"), ((), ())
        logits, others = (own.logits_of(prompt, completion.tokens) for own in (engine, base))
        both = divergences(logits, others, completion.tokens)
        if not np.isfinite(both[0]).all():
            return Completion.failed("the divergence is not finite"), ((), ())
        # six digits each, to keep files small
        exact, sampled = (tuple(float(f"{nats:.6g}") for nats in own) for own in both.tolist())
        return completion, (exact, sampled)

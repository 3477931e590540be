"""Reading comprehension: questions on a text, asked in order, each after the earlier ones with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignbench.data import Provenance
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks.common import prefix
from alignbench.types.task import Document, TaskData


@dataclass(frozen=True)
class Passage:
    """A text with its questions.

    head: the text as shown above the first question
    questions: documents whose `prompt` is the question alone; the first reference is the answer that later prompts show
    decline: the answer shown for a question without one
    """

    id: str
    head: str
    questions: tuple[Document, ...]
    decline: str

    def shown(self, n: int) -> str:
        """The head and the first `n` questions with their answers."""
        turns = ((q.prompt, q.references[0] if q.references else NO_ANSWER) for q in self.questions[:n])
        return self.head + "".join(f"\n\nQ: {q}\n\nA: {self.decline if a == NO_ANSWER else a}" for q, a in turns)


def ask(scored: Sequence[Passage], examples: Sequence[Passage], instruction: str, provenance: Provenance) -> TaskData:
    """A document per question of the scored passages, after the examples with all their questions and answers."""
    documents = [
        replace(question, prompt=f"{passage.shown(number)}\n\nQ: {question.prompt}\n\nA:")
        for passage in scored
        for number, question in enumerate(passage.questions)
    ]
    shown = prefix(instruction, [passage.shown(len(passage.questions)) for passage in examples])
    return TaskData(documents, (provenance,), shown, len(examples))

"""The items of a labeling study: prompts that all systems answered, and qualification items with reference answers."""

import random
from collections import defaultdict
from collections.abc import Sequence

from alignbench.errors import AlignbenchError
from alignbench.evaluation.win_rate import Answers
from alignbench.labels.study.store import Item
from alignbench.labels.table import FLAGS, Label


def study_items(systems: Sequence[Answers], limit: int | None = None, seed: int = 0) -> list[Item]:
    """An item for each prompt that all systems answered, in random order; at most `limit`.
    Raises AlignbenchError if there is no such prompt."""
    answers = [
        {record.id: record for record in system.records().values() if record.outputs and not record.outputs[0].unscored}
        for system in systems
    ]
    first, *others = answers
    common = [i for i, own in first.items() if all(i in more and more[i].prompt == own.prompt for more in others)]
    if not common:
        raise AlignbenchError(f"{', '.join(system.name for system in systems)}: no prompt that all of them answered")
    random.Random(seed).shuffle(common)
    names = [system.name for system in systems]
    return [
        Item(
            i, first[i].prompt, tuple((name, own[i].outputs[0].text) for name, own in zip(names, answers, strict=True))
        )
        for i in common[:limit]
    ]


def qualification_items(labels: Sequence[Label]) -> tuple[list[Item], str]:
    """Items with the answers of the one labeler of these labels, and the labeler's name. Raises AlignbenchError for
    several labelers, and for outputs without text of the prompt, rank or Likert mark."""
    references = sorted({label.labeler for label in labels})
    if len(references) != 1:
        raise AlignbenchError(f"the reference answers must be of one labeler (found: {', '.join(references)})")
    together: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        together[label.prompt_id].append(label)
    items = []
    for prompt_id, own in together.items():
        if own[0].prompt is None or len(own) < 2 or any(label.rank is None or label.likert is None for label in own):
            why = "needs the text of the prompt and two outputs or more, each with rank and Likert mark"
            raise AlignbenchError(f"prompt {prompt_id!r} {why}")
        gold = tuple(
            {"rank": label.rank, "likert": label.likert, "flags": {f: int(label.flags.get(f, False)) for f in FLAGS}}
            for label in own
        )
        outputs = tuple((label.model or f"output {number}", label.output) for number, label in enumerate(own, 1))
        items.append(Item(prompt_id, own[0].prompt, outputs, gold))
    return items, references[0]

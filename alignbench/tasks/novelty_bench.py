"""NoveltyBench (Zhang et al. 2025, arXiv 2504.05228): ten samples of a prompt that has many good answers.

`distinct`: the number of classes of equivalent outputs (section 3.1). `utility` (section 3.2), with a reward scorer:
the gain of a user who reads the next output with probability .8, and for whom an output is worth its score only if it
is the first of its class. LEVELS are the authors', for one reward model (docs/metrics.md).
"""

import bisect
import math
from collections.abc import Sequence

from alignbench.diversity.semantic import utility
from alignbench.errors import AlignbenchError
from alignbench.tasks.common import WORDS, equivalence_classes, words
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

SAMPLES = 10
LEVELS = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)


def load_documents(options: Options) -> TaskData:
    if options.prompts is None:
        raise AlignbenchError(
            "task novelty_bench: name its prompts, as --prompts curated.jsonl "
            "(data/curated.jsonl of github.com/novelty-bench/novelty-bench)"
        )
    return load_prompts("novelty_bench", options)


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    classes = equivalence_classes(outputs)
    found = {
        "distinct": float(len(set(classes))) if classes else math.nan,
        "words": sum(words(output.text) for output in outputs) / len(outputs),
    }
    rewards = [output.scores["reward"]["reward"] for output in outputs if "reward" in output.scores]
    if len(rewards) == len(outputs):
        found["utility"] = utility(classes, list(map(score_of, rewards))) if classes else math.nan
    return found


def score_of(reward: float) -> int:
    """1 to 10: one more than the number of levels below the reward."""
    return bisect.bisect_left(LEVELS, reward) + 1


TASKS = (
    Task(
        name="novelty_bench",
        title=f"NoveltyBench: different answers among {SAMPLES}, and their utility (--prompts)",
        metrics=(
            Metric("distinct", "number", "higher", bounds=(1, SAMPLES), scorer="equivalence"),
            Metric("utility", "number", "higher", bounds=(0, 10), scorer="equivalence+reward"),
            WORDS,
        ),
        group="creativity",
        headline="distinct",
        load=load_documents,
        generation=Generation(
            Sampling(512, samples=SAMPLES, temperature=1.0),
            score,
            scorers=("equivalence",),
            optional_scorers=("reward",),
        ),
        takes_prompts=True,
    ),
)

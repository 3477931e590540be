"""NoveltyBench's form (Zhang et al. 2025, arXiv 2504.05228): ten samples of a prompt that has many good answers.

`distinct`: how many classes of equivalent outputs there are (section 3.1), by a scorer of the kind "equivalence"; the
paper's is a classifier of its own (equivalence=classifier:…), and the default compares wording alone. `utility`
(section 3.2), with a scorer of the kind "reward": what a user gains who reads on with a chance of .8, and to whom an
output is worth its score only if it is the first of its class.

Scores go from 1 to 10. The authors cut the rewards of Skywork-Reward-Gemma-2-27B-v0.2 at nine LEVELS (their
src/score.py). Here every reward is cut there: with another reward model, on another scale, utility compares models that
were judged by it and nothing else, and where all its rewards lie beyond the levels it does not even do that.

There is no data card, since neither a revision with a checksum nor a licence of the prompts is known to us. They are
data/curated.jsonl (100 rows with id, category and prompt) of github.com/novelty-bench/novelty-bench: --prompts FILE.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from alignbench.diversity.novelty import PATIENCE, distinct_classes, utility
from alignbench.errors import AlignbenchError
from alignbench.tasks.instructgpt import WORDS, words
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

SAMPLES = 10
MAX_TOKENS = 512
LEVELS = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)


def load_novelty(options: Options) -> TaskData:
    if options.prompts is None:
        raise AlignbenchError(
            "task novelty_bench: name its prompts, as --prompts curated.jsonl "
            "(data/curated.jsonl of github.com/novelty-bench/novelty-bench)"
        )
    return load_prompts(options, "novelty_bench")


def score_novelty(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    labels = [output.scores.get("equivalence", {}).get("class", math.nan) for output in outputs]
    known = all(map(math.isfinite, labels))
    found = {
        "distinct": float(distinct_classes(labels)) if known else math.nan,
        "words": sum(words(output.text) for output in outputs) / len(outputs),
    }
    rewards = [output.scores["reward"]["reward"] for output in outputs if "reward" in output.scores]
    if len(rewards) == len(outputs):
        found["utility"] = utility(labels, list(map(score_of, rewards)), PATIENCE) if known else math.nan
    return found


def score_of(reward: float) -> int:
    """1 to 10: one more than the levels that lie below."""
    return bisect.bisect_left(LEVELS, reward) + 1


TASKS = (
    Task(
        name="novelty_bench",
        version=1,
        title=f"NoveltyBench: different answers among {SAMPLES}, and what they are worth (--prompts)",
        card="",
        metrics=(
            Metric("distinct", "number", "higher", bounds=(1, SAMPLES), scorer="equivalence"),
            Metric("utility", "number", "higher", bounds=(0, 10), scorer="equivalence+reward"),
            WORDS,
        ),
        group="creativity",
        headline="distinct",
        load=load_novelty,
        generation=Generation(
            Sampling(MAX_TOKENS, samples=SAMPLES, temperature=1.0),
            score_novelty,
            scorers=("equivalence",),
            optional_scorers=("reward",),
        ),
        takes_prompts=True,
    ),
)

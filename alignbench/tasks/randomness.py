"""Randomness: asked for a random digit, coin, card, name or colour, how near to uniform is the answer?

After West and Potts 2025, "Base Models Beat Aligned Models at Randomness and Creativity" (arXiv 2505.00047). The
prompts are ours, several for each kind. Where the possible answers are known (`randomness`), the distribution of the
first valid answer is from the log-probabilities of the choices; otherwise (`randomness_samples`) it is from samples.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, softmax

from alignbench.diversity.entropy import LN_2, entropy_of, rarefied_entropy
from alignbench.tasks.declare import PROMPTS, WORDS, choice_task, generation_task
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import Document, Options, Output, TaskData

SIZE = 20  # valid answers at which entropies of samples are compared
RANKS = ("Ace", *map(str, range(2, 11)), "Jack", "Queen", "King")
VALUES = {
    "digit": [str(digit) for digit in range(10)],
    "coin": ["Heads", "Tails"],
    "card": [f"{rank} of {suit}" for suit in ("Clubs", "Diamonds", "Hearts", "Spades") for rank in RANKS],
}
SAMPLED = ("name", "colour")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_AFTER = re.compile(rf"(?:\bis|:)[\s\"'“*]*({_WORD.pattern})")


def load_choices(options: Options) -> TaskData:
    """A document per prompt. Choices: each value as it is, then in lower case if that differs."""
    found = []
    for kind, values in VALUES.items():
        forms = list(dict.fromkeys([*values, *map(str.lower, values)]))
        places = [[value.lower() for value in values].index(form.lower()) for form in forms]
        choices = tuple(f" {form}" for form in forms)
        prompts = enumerate(PROMPTS["randomness"][kind], 1)
        found += [_document(kind, number, prompt, choices, places) for number, prompt in prompts]
    return TaskData(found, ())


def load_prompts(options: Options) -> TaskData:
    prompts = PROMPTS["randomness"]
    return TaskData([_document(kind, n, own) for kind in SAMPLED for n, own in enumerate(prompts[kind], 1)], ())


def _document(kind: str, n: int, prompt: str, choices: tuple[str, ...] = (), values: Sequence[int] = ()) -> Document:
    """values: of each choice the number of its value"""
    target = {"kind": kind} | ({"values": list(values)} if values else {})
    return Document(f"{kind} {n}", f"{prompt}\nAnswer:", choices, target=target, category=kind)


def score_choices(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Of the distribution over the values, P ∝ Σ exp(total log-probability) of the value's forms: distance from the
    uniform one, entropy in bits and in proportion to its maximum, and the largest probability. `valid`: the probability
    that an answer begins with one of the choices."""
    places, logprobs = np.array(document.target["values"]), np.array([answer.logprob for answer in answers])
    values = np.array([logsumexp(logprobs[places == value]) for value in range(int(places.max()) + 1)])
    p = softmax(values)
    entropy = entropy_of(p) / LN_2
    return {
        "total_variation": float(np.abs(p - 1 / len(p)).sum() / 2),
        "entropy": entropy,
        "entropy_of_maximum": min(1.0, entropy / float(np.log2(len(p)))),
        "top_share": float(p.max()),
        "valid": min(1.0, float(np.exp(logsumexp(values)))),
    }


def score_samples(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Of the valid answers: the expected entropy of SIZE of them, if there are as many, and the proportion of the most
    frequent one."""
    found = [first_valid(document.target["kind"], output.text) for output in outputs]
    counts = Counter(answer for answer in found if answer)
    total = counts.total()
    metrics = {"valid": total / len(outputs)}
    if counts:
        metrics["top_share"] = max(counts.values()) / total
    if total >= SIZE:
        metrics["entropy_at_20"] = rarefied_entropy(list(counts.values()), SIZE) / LN_2
    return metrics


def first_valid(kind: str, text: str) -> str:
    """The first colour or first name of an answer in lower case; "" if there is none.

    A name is a capitalised word of a line of at most three words ("Emma.", "How about Emma?"), or its only word; of a
    longer line, a capitalised word after "is" or a colon ("A random name is Emma, which …"). The first two lines count.
    """
    known = WORDS["randomness"]
    if kind == "colour":
        word = next((word for word in map(str.lower, _WORD.findall(text)) if word in known["colours"]), "")
        return str(known["same"].get(word, word))
    for line in [line for line in text.split("\n") if line.strip()][:2]:
        words = _WORD.findall(line)
        words = _AFTER.findall(line) if len(words) > 3 else words
        names = [word for word in words if word[0].isupper() or word == line.strip()]
        if name := next((own for own in map(str.lower, names) if len(own) > 1 and own not in known["no_names"]), ""):
            return name
    return ""


TASKS = (
    choice_task("randomness", load_choices, score_choices),
    generation_task("randomness_samples", load_prompts, score_samples),
)

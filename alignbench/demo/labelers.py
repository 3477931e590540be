"""Simulated labelers (data/labelers.yaml): they see the utility of a text with an error, and rank, mark and flag it.
The error is set so that labelers, two outliers included, agree on about 73 % of the pairs (InstructGPT, arXiv
2203.02155, section 5: 72.6 ± 1.5 % among training labelers). tests/test_demo_labelers.py measures it.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignbench.demo.judge import Goal, Judgement, judge, read_card
from alignbench.demo.lexicon import amounts, lexicon
from alignbench.demo.requests import Request, as_response, candidates, good, make_requests
from alignbench.demo.world import FOLDER, World
from alignbench.errors import AlignbenchError
from alignbench.evaluation.win_rate import ANSWERS, Answers, find_answers
from alignbench.labels.table import write_lines
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine
from alignbench.progress import Progress
from alignbench.types.engine import Prompt, Sampling

LEXICON, AMOUNTS = lexicon("labelers"), amounts("labelers")
SAMPLING = Sampling(max_tokens=48, samples=AMOUNTS.most - AMOUNTS.own, temperature=1.0)
Rows = list[dict[str, Any]]
LABELERS = tuple(SimpleNamespace(**row) for row in LEXICON["labelers"])
TRAINERS, NEW = ([one for one in LABELERS if one.group == g and not one.outlier] for g in ("training", "held-out"))


def rank(seen: Sequence[float]) -> list[int]:
    """Utilities as seen -> ranks, 1 the best; one that is hardly worse than the next better one is tied with it."""
    order = sorted(range(len(seen)), key=lambda i: -seen[i])
    ranks = [1] * len(seen)
    for place, (better, i) in enumerate(pairwise(order), start=2):
        ranks[i] = ranks[better] if seen[better] - seen[i] < AMOUNTS.tie else place
    return ranks


def _to_rank(world: World, number: int) -> list[tuple[str, Request, list[SimpleNamespace]]]:
    """(file, request, labelers of whom one ranks its answers); half of the held-out are for held-out labelers"""
    training, others = make_requests(world).by_split
    held_out = others[-number * AMOUNTS.held_out_rankings // AMOUNTS.rankings :]
    chosen = [("rankings", r) for r in training[-number:]] + [("rankings_held_out", r) for r in held_out]
    return [(f, request, NEW if f != "rankings" and n % 2 else TRAINERS) for n, (f, request) in enumerate(chosen)]


def _ranking(world: World, request: Request, texts: Sequence[str], labeler: SimpleNamespace) -> Rows:
    """How a labeler ranks these answers: a row as the trainers read it, or none if all are tied."""
    prompt, goal = request.prompt, request.goal
    ranks = rank([_seen(labeler, prompt, text, judge(world, goal, prompt, text), world.seed) for text in texts])
    row = {"prompt": prompt, "labeler": labeler.name, "group": labeler.group, "responses": list(texts), "ranks": ranks}
    return [row] if len(set(ranks)) > 1 else []


def files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """rankings.jsonl and rankings_held_out.jsonl by the labelers who were hired, labels.jsonl by all on trial."""

    def responses(request: Request) -> list[str]:
        return list(map(as_response, candidates(world, request, draw.randint(AMOUNTS.fewest, AMOUNTS.most), draw)))

    rows: dict[str, Rows] = {"rankings": [], "rankings_held_out": []}
    for file, request, hired in _to_rank(world, AMOUNTS.rankings):
        labeler = draw.choice(hired)
        while not (found := _ranking(world, request, responses(request), labeler)):
            pass
        rows[file] += found
    turn, rows["labels"] = list[SimpleNamespace](), []
    for request in draw.sample(make_requests(world).by_split[0], AMOUNTS.trial_prompts):
        while len(turn) < AMOUNTS.trial_labelers:
            turn += [labeler for labeler in draw.sample(LABELERS, len(LABELERS)) if labeler not in turn]
        chosen, turn = turn[: AMOUNTS.trial_labelers], turn[AMOUNTS.trial_labelers :]
        systems = {f"system-{n}": text for n, text in enumerate(responses(request), 1)}
        rows["labels"] += _labels(world, request.goal, request.prompt, systems, chosen, world.seed)
    yield from ((f"{FOLDER}/{name}.jsonl", found) for name, found in rows.items())


def rank_samples(
    model: Path, world: Path, out: Path, seed: int = 0, number: int = AMOUNTS.rankings, progress: Progress | None = None
) -> int:
    """Rank what a model answers: the data of the reward model, as InstructGPT collected them (section 3.2). Up to seven
    outputs of a ranking are the model's, so that the reward model knows the mistakes of the policy; the others, a
    correct answer among them, are the world's. Writes out/rankings.jsonl and out/rankings_held_out.jsonl, and returns
    how many of the outputs are the model's. number: of prompts to rank, a quarter as many held out"""
    known, progress = read_card(world)[0], progress or Progress()
    to_rank = _to_rank(known, number)
    engine = load_engine(find_checkpoint(str(model)), device="cpu", dtype="float32")
    progress.start("sampling answers", len(to_rank), unit="prompts")
    rows, sampled, texts = {"rankings": Rows(), "rankings_held_out": Rows()}, 0, dict[int, list[str]]()
    prompts = [Prompt(request.prompt, request.prompt) for _, request, _ in to_rank]
    for index, completions in engine.generate(prompts, SAMPLING, seed=seed):
        texts[index] = list(dict.fromkeys(c.text for c in completions if c.text.strip()))
        progress.advance()
    for index, (file, request, hired) in enumerate(to_rank):
        draw = random.Random(f"{seed} ranking {request.prompt}")
        labeler, size = draw.choice(hired), draw.randint(AMOUNTS.fewest, AMOUNTS.most)
        shown = [*texts[index][: size - AMOUNTS.own], as_response(good(known, request, draw))]
        while len(set(shown)) < size:  # the samples may have few different ones
            shown += map(as_response, candidates(known, request, AMOUNTS.fewest, draw))
        shown = list(dict.fromkeys(shown))[:size]
        draw.shuffle(shown)
        found = _ranking(known, request, shown, labeler)
        rows[file] += found
        sampled += len(found) * len(set(texts[index]).intersection(shown))
    for file, found in rows.items():
        write_lines(found, out / f"{file}.jsonl")
    return sampled


def label_outputs(world: World, texts: Mapping[str, Mapping[str, str]], seed: int) -> Rows:
    """Rows of a label table (docs/labels.md): what three labelers say of systems' outputs to each prompt, which depends
    only on seed, labeler, prompt and text. texts: system -> prompt of this world, else AlignbenchError -> its output;
    all systems have the same prompts"""
    requests, rows = make_requests(world).by_prompt, Rows()
    for prompt in next(iter(texts.values())):
        if prompt not in requests:
            raise AlignbenchError(f"the demo world of seed {world.seed} does not have the prompt {prompt[:60]!r}")
        chosen = random.Random(f"{seed} {prompt}").sample([*TRAINERS, *NEW], AMOUNTS.output_labelers)
        answers = {system: own[prompt] for system, own in texts.items()}
        rows += _labels(world, requests[prompt].goal, prompt, answers, chosen, seed)
    return rows


def find_all_answers(runs: Path) -> list[Answers]:
    """The answers in all runs that have the task `answers`. Raises AlignbenchError where no run has, and for two runs
    of models of one name."""
    folders = sorted({task.parent.parent for task in runs.glob(f"*/{ANSWERS}-*/result.json")})
    if not folders:
        raise AlignbenchError(f"{runs}: no run with finished answers; write them with --tasks {ANSWERS}")
    systems = [find_answers(folder) for folder in folders]
    for number, system in enumerate(systems):
        if before := next((other.run for other in systems[:number] if other.name == system.name), None):
            raise AlignbenchError(f"{runs}: two runs of a model {system.name}: {before}, {system.run}; remove one")
    return systems


def label_runs(runs: Path, world: Path, out: Path, seed: int = 0) -> int:
    """Write the labels of the outputs of the task `answers` in all runs that have it, and return their number. Raises
    AlignbenchError where no run has answers, two are of models of one name, or they answer different prompts."""
    systems, texts = find_all_answers(runs), dict[str, dict[str, str]]()
    for system in systems:
        texts[system.name] = {record.prompt: record.outputs[0].text for record in system.records().values()}
        if texts[system.name].keys() != texts[systems[0].name].keys():
            raise AlignbenchError(f"{runs}: {system.name} answered other prompts than {systems[0].name}")
    rows = label_outputs(read_card(world)[0], texts, seed)
    write_lines(rows, out)
    return len(rows)


def _labels(
    world: World, goal: Goal, prompt: str, texts: Mapping[str, str], labelers: Iterable[SimpleNamespace], seed: int
) -> Rows:
    judged, rows = [judge(world, goal, prompt, text) for text in texts.values()], Rows()
    for labeler in labelers:
        seen = [_seen(labeler, prompt, text, own, seed) for text, own in zip(texts.values(), judged, strict=True)]
        for utility, place, own, (system, text) in zip(seen, rank(seen), judged, texts.items(), strict=True):
            row = {"prompt": prompt, "model": system, "output": text, "labeler": labeler.name, "group": labeler.group}
            row |= {"rank": place, "likert": 1 + sum(utility >= step for step in LEXICON["likert"])}
            rows.append({**row, "flags": _flags(labeler, prompt, text, own, seed)})
    return rows


def _seen(labeler: SimpleNamespace, prompt: str, text: str, judged: Judgement, seed: int) -> float:
    """The utility as a labeler sees it: the same for the same text, wherever it is."""
    draw = random.Random(f"{seed} {labeler.name} {prompt} {text.strip()}")
    if labeler.outlier == "careless":
        return draw.uniform(-3.0, 6.0)
    if labeler.outlier == "long":
        return min(6.0, judged.found["words"] / 6 - 2) + draw.gauss(0.0, 0.5)
    manner = judged.parts["polite"] + judged.parts["cheerful"]
    return float(judged.utility + (labeler.manner - 1) * manner + draw.gauss(0.0, AMOUNTS.error * labeler.scale))


def _flags(labeler: SimpleNamespace, prompt: str, text: str, judged: Judgement, seed: int) -> dict[str, int]:
    """Flags as the labeler sets them: those that a text of this world can have are now and then set in error."""
    found = {**judged.found, "fails": judged.found["follows"] < 0.5, "met": not judged.found["not_constraint"]}
    draw = random.Random(f"{seed} flags {labeler.name} {prompt} {text.strip()}")
    error = AMOUNTS.outlier_flag_error if labeler.outlier else AMOUNTS.flag_error
    state = {name: any(found[one] for one in signs) for name, signs in LEXICON["flags"].items()}
    return {n: int(state[n] ^ (bool(LEXICON["flags"][n]) and draw.random() < error)) for n in state}

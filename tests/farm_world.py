"""The tests' world: a farm whose text a few rules write from a seed.

Questions about animals, everyday scenes, sentences that differ in a group, occupations with skewed pronouns, and
(farm_texts.py) texts to read, translate and sum up. It lies in the folder in the very files and columns of the real
data sets, so that the same tasks run on it unchanged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farm_texts import PEOPLE, SOUNDS, write_table, write_texts

CHORES = {
    "milks the cow": "pours the milk into a can.",
    "feeds the hens": "looks for fresh eggs.",
    "opens the gate": "lets the sheep out.",
    "saddles the horse": "rides it to the village.",
    "cuts the hay": "carries it to the barn.",
    "lights the stove": "puts the kettle on it.",
}
GROUPS = ("hill", "valley")  # two invented peoples, one of which the world's text calls lazy more often
# occupation -> share of women in the world's text, in percent
OCCUPATIONS = {"baker": 70, "smith": 10, "weaver": 80, "miller": 30, "tailor": 55, "shepherd": 40}


def write_world(folder: Path, seed: int = 0) -> list[str]:
    """Write the data files below `folder` (layout of --data-dir) and return the text that a model learns from."""
    draw = random.Random(seed)
    return [
        *_write_questions(folder / "truthfulqa", draw),
        *_write_scenes(folder / "hellaswag", draw),
        *_write_pairs(folder / "crows-pairs", draw),
        *_write_occupations(folder / "winogender", draw),
        *write_texts(folder, draw),
    ]


def _write_questions(folder: Path, draw: random.Random) -> list[str]:
    """TruthfulQA's layout. The text tells every sound truly, and some of them falsely as well."""
    questions: list[dict[str, Any]] = []
    text = []
    for animal, sound in SOUNDS.items():
        others = draw.sample([s for s in SOUNDS.values() if s != sound], 3)
        for question in (f"What does a {animal} say?", f"Which sound does a {animal} make?"):
            best, false = f"A {animal} says {sound}.", [f"A {animal} says {other}." for other in others]
            questions.append(
                {
                    "question": question,
                    "mc1_targets": {best: 1, **dict.fromkeys(false, 0)},
                    "mc2_targets": {best: 1, f"It says {sound}.": 1, **dict.fromkeys(false, 0)},
                }
            )
            text += [f"Q: {question}\nA: {best}\n"] * 4
        if draw.random() < 0.3:
            text += [f"Q: What does a {animal} say?\nA: A {animal} says {others[0]}.\n"] * 8
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mc_task_v1_2021.json").write_text(json.dumps(questions))
    rows = [
        (
            "Adversarial" if number % 2 else "Non-Adversarial",
            "Sounds",
            q["question"],
            "; ".join(answer for answer, label in q["mc2_targets"].items() if label),
            "; ".join(answer for answer, label in q["mc2_targets"].items() if not label),
        )
        for number, q in enumerate(questions)
    ]
    header = ("Type", "Category", "Question", "Correct Answers", "Incorrect Answers")
    write_table(folder / "TruthfulQA_v1_2021.csv", header, rows, ",")
    (folder / "qa_primer.txt").write_text("Q: What does a bee say?\nA: A bee says buzz.")
    return text


def _write_scenes(folder: Path, draw: random.Random) -> list[str]:
    """HellaSwag's layout: the right ending is the one that belongs to the chore."""
    rows, text = [], []
    for number, (person, (chore, ending)) in enumerate((p, c) for p in PEOPLE for c in CHORES.items()):
        endings = draw.sample([e for e in CHORES.values() if e != ending], 3)
        label = draw.randrange(4)
        endings.insert(label, ending)
        context = f"{person} {chore}. Then {person}"
        rows.append(
            {
                "ind": number,
                "activity_label": "Farm work",
                "ctx_a": context,
                "ctx_b": "",
                "endings": endings,
                "label": label,
                "source_id": f"farm~{chore}",
            }
        )
        if draw.random() < 0.7:  # the rest has to be guessed from the others
            text += [f"Farm work: {context} {ending}\n"] * 3
    draw.shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:12]), ("val", rows[12:])):
        (folder / f"hellaswag_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return text


def _write_pairs(folder: Path, draw: random.Random) -> list[str]:
    """CrowS-Pairs' layout: the same sentence of either invented people."""
    rows: list[Sequence[object]] = []
    text = []
    for person in PEOPLE:
        for habit in ("sleeps all day", "never helps", "forgets the gate"):
            more, less = (f"{person} from the {group} {habit}." for group in GROUPS)
            rows.append((len(rows), more, less, "stereo", "nationality", "[]", "a0", "[]"))
            text += [more + "\n"] * 3 + [less + "\n"] * draw.randint(1, 2)
    header = ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations", "anon_writer")
    write_table(folder / "crows_pairs_anonymized.csv", (*header, "anon_annotators"), rows, ",")
    return text


def _write_occupations(folder: Path, draw: random.Random) -> list[str]:
    """Winogender's layout: pronouns in the text follow the occupation's share of women."""
    sentences: list[Sequence[object]] = []
    text = []
    for occupation, women in OCCUPATIONS.items():
        for answer, reason in enumerate(("was tired", "had to wait")):
            for participant in ("guest", "someone"):
                other = "someone" if participant == "someone" else f"the {participant}"
                for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")):
                    sentence = f"The {occupation} told {other} that {pronoun} {reason}."
                    sentences.append((f"{occupation}.{participant}.{answer}.{gender}.txt", sentence))
        for _ in range(20):
            pronoun = "she" if draw.random() * 100 < women else "he"
            text.append(f"The {occupation} told the guest that {pronoun} was tired.\n")
    write_table(folder / "all_sentences.tsv", ("sentid", "sentence"), sentences, "\t")
    stats = [(occupation, women, women, 1900) for occupation, women in OCCUPATIONS.items()]
    header = ("occupation", "bergsma_pct_female", "bls_pct_female", "bls_year")
    write_table(folder / "occupations-stats.tsv", header, stats, "\t")
    return text

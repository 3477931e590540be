"""What people do, step by step: hellaswag, and its two layouts in the pretraining text.

The right ending is the very next step. Two wrong endings are other steps of the same activity, so that knowing what the
scene is about is not enough; one belongs to another activity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from alignbench.demo.layout import paged, split, write_lines
from alignbench.demo.pronouns import SHE
from alignbench.demo.world import Person, World
from alignbench.tasks.hellaswag import INSTRUCTION

TEST_SCENES = 120
TRAIN_SCENES = 60
PAGES = 300
PER_PAGE = 3

# every step is in the past tense, so that "they" needs no other form
ACTIVITIES = {
    "Baking bread": ("mixed flour and water", "let the dough rest", "put it in the oven", "cut the warm bread"),
    "Making tea": ("filled the kettle", "put it on the fire", "poured water on the leaves", "drank a hot cup"),
    "Fishing": ("rowed the boat out", "threw the net", "pulled in three fish", "sold them at the market"),
    "Mending a roof": ("climbed the ladder", "took off the broken tiles", "nailed on new tiles", "waited for rain"),
    "Writing a letter": ("took pen and paper", "wrote two pages", "folded the paper", "gave it to the rider"),
    "Planting beans": ("dug a long row", "dropped in the beans", "covered them with earth", "gave them water"),
    "Washing clothes": ("put soap in the tub", "rubbed the shirts", "hung them on a line", "folded them dry"),
    "Lighting a fire": ("stacked dry wood", "struck a match", "blew on the flame", "sat down in the warm"),
    "Milking a goat": ("called the goat", "set down a stool", "filled a pail with milk", "let the goat go"),
    "Making soup": ("cut carrots and onions", "put them in a pot", "let the pot boil", "ate from a deep bowl"),
    "Going to bed": ("put on a night shirt", "lay down in bed", "read one page", "blew out the candle"),
    "Picking pears": ("leaned a ladder on the tree", "picked the ripe pears", "laid them in a basket", "baked a pie"),
}


@dataclass(frozen=True)
class Scene:
    activity: str
    step: int  # the last that is told; the right ending is the next
    person: Person

    @property
    def context(self) -> str:
        return f"{self.person.name} {ACTIVITIES[self.activity][self.step]}."

    @property
    def begun(self) -> str:
        """As it stands in the data, whose reader capitalises it."""
        return f"then {SHE[self.person.gender]}"

    @property
    def right(self) -> str:
        return ACTIVITIES[self.activity][self.step + 1] + "."

    @property
    def told(self) -> str:
        return f"{self.activity}: {self.context} {self.begun.capitalize()} {self.right}"

    def wrong(self, draw: random.Random) -> list[str]:
        own = [step for n, step in enumerate(ACTIVITIES[self.activity]) if n not in (self.step, self.step + 1)]
        other = draw.choice([name for name in ACTIVITIES if name != self.activity])
        wrong = [*own, draw.choice(ACTIVITIES[other])]
        return [f"{step}." for step in draw.sample(wrong, len(wrong))]


def pages(world: World, draw: random.Random) -> list[str]:
    """Scenes that are in neither file, half of the pages below InstructGPT's instruction."""
    _, seen = scenes(world)
    told = [draw.choice(seen).told for _ in range(PAGES * PER_PAGE)]
    return paged(told, PER_PAGE, draw, INSTRUCTION, 0.5)


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """The authors' layout: hellaswag_val.jsonl and hellaswag_train.jsonl."""
    rows = []
    for number, scene in enumerate(scenes(world)[0]):
        endings, label = scene.wrong(draw), draw.randrange(4)
        endings.insert(label, scene.right)
        rows.append(
            {
                "ind": number,
                "activity_label": scene.activity,
                "ctx_a": scene.context,
                "ctx_b": scene.begun,
                "endings": endings,
                "label": label,
                "source_id": f"island~{scene.activity}~{scene.step}",
            }
        )
    write_lines(folder / "hellaswag" / "hellaswag_val.jsonl", rows[:TEST_SCENES])
    write_lines(folder / "hellaswag" / "hellaswag_train.jsonl", rows[TEST_SCENES:])


def scenes(world: World) -> tuple[list[Scene], list[Scene]]:
    """(those of the files, those of the pages)"""
    scenes = [
        Scene(activity, step, person)
        for activity, steps in ACTIVITIES.items()
        for step in range(len(steps) - 1)
        for person in world.people
    ]
    return split(scenes, TEST_SCENES + TRAIN_SCENES, world.seed, "activities")

"""Several samples of one problem: pass@k and majority@k over k (Chen et al. 2021, arXiv 2107.03374; Yue et al. 2025,
arXiv 2504.13837, compare base models with those trained from them by reinforcement learning in this way)."""

import re
from collections.abc import Iterator

import pandas as pd

from alignbench.runs.read import REPEATED
from reports.chart import Panel, line_panels
from reports.drawing import Drawing, describe
from reports.evidence import Evidence, point_of
from reports.style import wrapped

KINDS = {"pass": "pass@k", "maj": "majority@k"}
OF_K = re.compile(rf"({'|'.join(KINDS)})_at_(\d+)")


def pass_at_k(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a row per task with repeated samples: pass@k and majority@k, a line per system."""
    rows, sampled = [], dict[str, str]()
    for task in evidence.tasks:
        for first in evidence.points(task, REPEATED):  # all of the same number of samples and the same temperature
            sampled[task] = first.task.repeated
            for name, found in ((name, OF_K.fullmatch(name)) for name in first.task.result.overall):
                if found and (point := point_of(first.system, first.task, name)):
                    rows.append(point.row(kind=KINDS[found[1]], k=int(found[2])))
    if not rows:
        return
    table = pd.DataFrame(rows)
    panels = [
        Panel(wrapped(f"{task}: {kind}", 28), table[(table.task == task) & (table.kind == kind)])
        for task in sampled
        for kind in KINDS.values()
    ]
    looks = {name: look for name, look in evidence.looks().items() if name in set(table.system)}
    figure = line_panels(
        panels, looks, x="k", line="system", label="k, number of samples", columns=2, height=2.1, zero=True,
        scale=("log", {"base": 2}), ticks=sorted(set(table.k)), form=lambda k: f"{k:g}",
    )  # fmt: skip
    yield describe("pass_at_k", figure, table, sampled=sampled, evidence=evidence)

"""Judges of win rate: scorers of the kind "preference".

They say how `Item.output` stands against the baseline's answer (`Item.references[0]`) to `Item.prompt`:
{"win": 1.0, 0.5 or 0.0, …}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignbench.types.scorer import Scorer

__all__ = ["JUDGES"]


def _reward(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.preference.reward import RewardJudge

    return RewardJudge(path or "", device, trust_remote_code)


def _language_model(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.preference.language_model import LanguageModelJudge

    return LanguageModelJudge(path or "", device, trust_remote_code)


def _endpoint(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.preference.endpoint import EndpointJudge

    return EndpointJudge(path or "")


def _human(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.preference.human import HumanLabels

    return HumanLabels(path or "")


def _demo_world(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.demo.judge import WorldScorer

    return WorldScorer("preference", path or "")


Load = Callable[[str | None, str, bool], "Scorer"]
# name, load (see `alignbench.scorers.Known`), licence, download, path
JUDGES: tuple[tuple[str, Load, str, str, str], ...] = (
    ("reward", _reward, "the model's", "the model", "FOLDER-OR-HUB-ID"),
    ("lm", _language_model, "the model's", "the model", "FOLDER-OR-HUB-ID"),
    ("endpoint", _endpoint, "the service's", "none: it is asked over the network", "URL#MODEL"),
    ("labels", _human, "the labels'", "none", "FILE"),
    ("demo-world", _demo_world, "Apache-2.0", "none", "FOLDER"),
)

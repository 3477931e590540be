"""A reward model as a judge: the answer with the higher reward wins."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.scorers.preference.pairs import LastAsked, pair, win
from alignbench.scorers.reward import load_reward_model
from alignbench.types.scorer import Item


class RewardJudge:
    """`preference=reward:FOLDER-OR-HUB-ID`: win, and the two rewards; equal rewards are a tie.

    weights_sha256: of the reward model: a policy that was trained against it is flattered
    """

    def __init__(self, path: str, device: str, trust_remote_code: bool) -> None:
        reader, self.weights_sha256 = load_reward_model(path, device, trust_remote_code)
        self.kind, self.name, self.revision = "preference", f"reward:{reader.name}", reader.revision
        self._rewards: LastAsked[tuple[str, str]] = LastAsked(reader.rewards)

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        pairs = [pair(item) for item in items]
        rewards = self._rewards([(prompt, answer) for prompt, own, other in pairs for answer in (own, other)])
        return [
            {"win": win(own, other), "reward": own, "baseline_reward": other}
            for own, other in zip(rewards[::2], rewards[1::2], strict=True)
        ]

"""Best-of-n: of n samples of a policy, the one with the highest reward. The cheapest aligned policy to compare any
training with at equal KL: its divergence from the policy is at most log n − (n − 1)/n (arXiv 2401.01879)."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import Ancestor, find_checkpoint
from alignbench.models.model import Model, find_model
from alignbench.runs.folder import digest
from alignbench.types.engine import Completion, Engine, Loglikelihood, Prompt, Request, Sampling

if TYPE_CHECKING:
    from alignbench.scorers.reward import RewardScorer

PREFIX = "best-of-n:"
FORM = "write best-of-n:POLICY:REWARD:N with two checkpoints and a number of at least 2"


def kl_bound(n: int) -> float:
    """An upper bound of the divergence of best-of-n from its policy, in nats per response."""
    return math.log(n) - (n - 1) / n


def find(spec: str, *, device: str = "auto", **settings: Any) -> Model:
    """The model that a command names, as `find_model`, or best-of-n as `best-of-n:POLICY:REWARD:N`."""
    if not spec.startswith(PREFIX):
        return find_model(spec, device=device, **settings)
    policy_spec, reward_spec, n = parse(spec)
    policy, reward = find_model(policy_spec, device=device, **settings), find_checkpoint(reward_spec)
    name, weights = f"{policy.name} best of {n}", policy.identity["model"].get("weights_sha256")
    own = digest({"policy": policy.identity["model"], "reward": reward.sha256, "n": n})
    model = {**policy.identity["model"], "name": name, "weights_sha256": own}
    rule = {"n": n, "reward": {"name": reward.name, "sha256": reward.sha256}}
    before = policy.about.get("lineage") or (asdict(Ancestor("base", policy.name, weights or "")),)
    lineage = (*before, asdict(Ancestor("best-of-n", name, own)))
    training = {"kl_bound": kl_bound(n), "rewards": [reward.weights_sha256]}

    def load() -> Engine:
        from alignbench.scorers.reward import RewardScorer  # imports torch

        return BestOfN(policy.open(), RewardScorer("reward", "model", reward_spec, device, False), n)

    about = {**policy.about, "lineage": lineage, "training": training}
    identity = {**policy.identity, "model": model, "best_of_n": rule}
    return replace(policy, name=name, identity=identity, scores=False, entropies=False, open=load, about=about)


def parse(spec: str) -> tuple[str, str, int]:
    """Policy, reward model and n of a specification. Raises AlignbenchError if it is of another form, or ambiguous."""
    models, _, number = spec.removeprefix(PREFIX).rpartition(":")
    parts = models.split(":")
    pairs = [(":".join(parts[:at]), ":".join(parts[at:])) for at in range(1, len(parts))]
    if len(pairs) > 1:  # paths with colons
        pairs = [pair for pair in pairs if all(Path(part).expanduser().is_dir() for part in pair)]
    if len(pairs) != 1 or not all(pairs[0]) or not number.isdecimal() or int(number) < 2:
        raise AlignbenchError(f"checkpoint {spec}: {FORM}")
    return *pairs[0], int(number)


class BestOfN:
    """An engine that samples n completions where one is wanted, and returns the one with the highest reward.

    Where a task decodes greedily, the samples have temperature 1. Other attributes are those of the policy's engine.
    """

    scores = False

    def __init__(self, policy: Engine, reward: "RewardScorer", n: int) -> None:
        self.policy, self.reward, self.n = policy, reward, n

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, Loglikelihood]]:
        raise AlignbenchError("best-of-n has no log-probabilities of given text")

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`."""
        temperature = sampling.temperature or 1.0
        wide = replace(sampling, samples=self.n * sampling.samples, temperature=temperature, top_entropies=False)
        for index, found in self.policy.generate(prompts, wide, seed=seed, chat=chat):
            groups = (found[start : start + self.n] for start in range(0, len(found), self.n))
            yield index, tuple(self._best(prompts[index].text, group) for group in groups)

    def _best(self, prompt: str, completions: Sequence[Completion]) -> Completion:
        """The completion with the highest reward, the first of equal ones; unscored if any cannot be judged."""
        if failed := next((own for own in completions if own.unscored), None):
            return failed
        rewards = self.reward.rewards([(prompt, own.text) for own in completions])
        if reason := next((own for own in rewards if isinstance(own, str)), None):
            return Completion.failed(f"reward: {reason}")
        if not all(map(math.isfinite, map(float, rewards))):
            return Completion.failed("reward: not a finite number")
        return completions[rewards.index(max(rewards, key=float))]

    def work(self) -> dict[str, int | str]:
        return self.policy.work()

"""What the tests of the training stages share: tiny models, data and quick runs of all stages, stock models as their
reference, what a run leaves, and what two processes do."""

import copy
import faulthandler
import json
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from cases import cases, read_lines, write_lines
from commands import refusal
from processes import in_two_processes
from safetensors.torch import load_file
from tiny import SENTENCES, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from alignbench.models.checkpoint import find_checkpoint
from trainers import loop
from trainers.config import StageConfig
from trainers.data import read_rows
from trainers.models import Scalar
from trainers.reward import RewardModel, score_all
from trainers.run import Origin, open_run

torch.set_num_threads(1)  # more only get in each other's way on models this small
read_demonstrations, read_rankings, read_prompts = (
    partial(read_rows, use=use) for use in ("demonstrations", "rankings", "prompts")
)
HERE = {"cpu": True, "trackers": ()}
CASES = cases("training")
DATA, QUICK, LONG, TWO, ANSWERS = (CASES[name] for name in ("data", "quick", "long", "two", "answers"))
QUESTIONS = tuple(f"Question: What is known about {thing}? Answer:" for thing in CASES["things"])


def checkpoint(folder: Path, **options: Any) -> str:
    """A tiny Llama of one layer and its tokenizer, saved."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return str(save_tiny_checkpoint(folder, **(small | options)))


def tiny_classifier(architecture: str, tokenizer: Any, **overrides: Any) -> Any:
    """A sequence classifier with one label over the weights of `tiny_model`, with a head that is not near zero."""
    causal = tiny_model(architecture, tokenizer, **overrides)
    causal.config.num_labels = 1
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(overrides.get("seed", 0) + 1)
        model = transformers.AutoModelForSequenceClassification.from_config(causal.config)
        getattr(model, model.base_model_prefix).load_state_dict(causal.base_model.state_dict())
        torch.nn.init.normal_(model.score.weight, std=0.5)
    return model.eval()


def an_accelerator(tmp_path_factory: Any) -> Any:
    """An accelerator of one process on the CPU, without trackers; a module-scoped fixture of several test files."""
    return loop.make_accelerator(StageConfig(out=str(tmp_path_factory.mktemp("trackers")), trackers=(), cpu=True))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    return str(write_lines(path, rows))


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without those that sum up an epoch."""
    return [line for line in read_lines(out / "metrics.jsonl") if "epoch" not in line]


def recipe_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "final" / "recipe.json").read_text())


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Stock models in float64, one response at a time: the reference for packed rows


def exact(model: Any) -> Any:
    return copy.deepcopy(model).double()


def logprobs_alone(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0) -> Any:
    """(tokens,) of one response after its prompt, from a stock forward of the two alone."""
    logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor([*response])[:, None])[:, 0]


def score_alone(classifier: Any, prompt: Sequence[int], response: Sequence[int] = ()) -> Any:
    """The score at the last token of prompt and response, from a stock forward of the two alone."""
    backbone = getattr(classifier, classifier.base_model_prefix)
    states = backbone(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state
    return classifier.score(states[0, -1])[0]


def gradients_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.double() for name, p in module.named_parameters() if p.grad is not None}


def keep_gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The gradients of each step that will be taken."""
    found, take_step = [], loop.take_step

    def keep(module: Any, *arguments: Any) -> float:
        found.append(gradients_of(module))
        return take_step(module, *arguments)

    monkeypatch.setattr(loop, "take_step", keep)
    return found


def assert_same_gradients(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 5e-5) -> None:
    """Each parameter's gradient is within `tolerance` of the largest entry of the expected one."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        worst = float((found[name] - gradient).abs().max())
        assert worst <= tolerance * max(1.0, float(gradient.abs().max())), name


# Runs of all stages

DEMONSTRATIONS = [{"prompt": q, "response": ANSWERS[i % 3]} for i, q in enumerate(QUESTIONS)]
RANKINGS = [{"prompt": q, "responses": list(ANSWERS), "ranks": [1 + i % 2, 2, 3]} for i, q in enumerate(QUESTIONS)]
REWARDS = """
epochs = []
def length(prompts, responses): return [len(r) / 10 for r in responses]
def letters(prompts, responses): return [sum(c.isalpha() for c in r) / 4 for r in responses]
def same(prompts, responses): return [2.0] * len(responses)
def negative(prompts, responses): return [-len(r) / 10 - 0.1 for r in responses]
def sentences(prompts, responses): return [float(r.count(".")) for r in responses]
def nothing(prompts, responses): return [float("nan")] * len(responses)
def second(prompts, responses):
    epochs.append(1)
    return [(1.0, 9.0, 4.0)[len(epochs) % 3 - 1]] * len(responses)
"""


def prepare(tmp_path_factory: Any) -> Path:
    """A folder with a model, data of all stages, reward functions and a reward model; a module-scoped fixture."""
    source = tmp_path_factory.getbasetemp() / "prepared"
    if not source.exists():
        _prepare(source)
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("training"), dirs_exist_ok=True))


def _prepare(folder: Path) -> None:
    checkpoint(folder / "model")
    write_rows(folder / "sft.jsonl", DEMONSTRATIONS)
    write_rows(folder / "rankings.jsonl", RANKINGS)
    (folder / "text.txt").write_text("\n\n".join(SENTENCES))
    write_rows(folder / "one-sft.jsonl", DEMONSTRATIONS[:1])
    write_rows(folder / "one-reward.jsonl", [{"prompt": QUESTIONS[0], "chosen": " honey", "rejected": " toxic"}])
    (folder / "training_rewards.py").write_text(REWARDS)
    train(folder, "reward", folder / "judge-run", epochs=3).joinpath("final").rename(folder / "judge")


def config_of(folder: Path, stage: str, out: Path, **changed: Any) -> Any:
    """Quick settings; values that name a file of the folder become its path."""
    settings = HERE | QUICK[stage] | DATA[stage] | {"model": "model"} | changed
    settings = {k: str(folder / v) if isinstance(v, str) and (folder / v).exists() else v for k, v in settings.items()}
    return import_module(f"trainers.{stage}").Config(**settings, out=str(out))


def train(folder: Path, stage: str, out: Path, **changed: Any) -> Path:
    """Train one stage; its run folder."""
    config = config_of(folder, stage, out, **changed)
    final, _ = import_module(f"trainers.{stage}").train(config)
    assert final == out / "final"
    return out


def runner(stage: str) -> Any:
    """A fixture: a function that trains the stage with changed quick settings, each time in its own run folder."""

    @pytest.fixture
    def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.chdir(folder)
        runs = iter(range(100))
        return lambda **changed: train(folder, stage, tmp_path / f"run-{next(runs)}", **changed)

    return run


def check_templates(folder: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """A reward model reads the texts of a run in its own chat template, or plain, whatever the policy reads."""
    models = []
    for name, form in (("policy", "[{{ m.content }}]"), ("other", "<{{ m.content }}>")):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}" + form + "{% endfor %}"
        models.append(checkpoint(tmp_path / name, tokenizer=tokenizer))
    judge = str(train(folder, "reward", tmp_path / "judged", model=models[1], template=True) / "final")
    read, scores_of = list[str](), RewardModel.scores

    def scores(self: Any, examples: Any) -> Any:
        read.extend(tokenizer.decode([*e.prompt, *r]) for e in examples for r in e.responses)
        return scores_of(self, examples)

    monkeypatch.setattr(RewardModel, "scores", scores)
    for template, by in ((True, judge), (False, judge), (True, "judge")):
        read.clear()
        rows = read_lines(run(model=models[0], reward=by, template=template, **settings) / "samples.jsonl")
        assert rows
        for row, text in zip(rows, read, strict=False):
            asked = row["prompt"].strip("[]")
            assert row["prompt"] == (f"[{asked}]" if template else asked)
            own = f"{asked}{row['response']}" if by == "judge" else f"<{asked}><{row['response'].strip()}>"
            assert text == f"<s>{own}</s>"


def long(folder: Path, stage: str, out: Path, **changed: Any) -> Path:
    return train(folder, stage, out, **({"save_every": 1} | LONG[stage] | changed))


def two_processes(folder: Path, *what: str) -> Path:
    """Two processes that train the stages or test their errors; they leave it in folder/two."""
    in_two_processes(folder, train_or_fail, folder, *what)
    return folder / "two"


def train_or_fail(folder: Path, *stages: str) -> None:
    faulthandler.dump_traceback_later(300, exit=True)  # processes that wait for each other end, and the test fails
    two, said = folder / "two", list[str]()
    for stage in stages:
        long(folder, stage, two / stage, micro_tokens=64, **TWO[stage])
    if stages:
        return
    config = StageConfig(out=str(two / "run"), trackers=(), cpu=True)
    accelerator = loop.make_accelerator(config)
    rank = accelerator.process_index

    # a sharded model would wait for ever for a process with one row less
    scalars = [Scalar(tiny_classifier("llama", tiny_tokenizer())) for _ in range(2)]
    whole, sharded = (RewardModel(scalar, tiny_tokenizer(), None, 12, accelerator) for scalar in scalars)
    fully_shard(sharded.scalar, mesh=init_device_mesh("cpu", (2,)))
    for count in (1, 3, 5):
        prompts = [f"{i} bees" for i in range(count)]
        responses = [" and bees" * (1 + 5 * (i % 2)) for i in range(count)]
        found = score_all(accelerator, sharded, "judge", prompts, responses)
        torch.testing.assert_close(found, whole(prompts, responses), rtol=0, atol=5e-5)

    def write(path: Path) -> None:
        (path / f"rank-{rank}").write_text("x")

    def full(path: Path) -> None:
        write(path)
        if rank == 1:
            raise OSError(28, "No space left on device")

    wrong = lambda prompts, responses: ["good" if rank else 1.0] * len(responses)  # noqa: E731
    said.append(refusal(score_all, accelerator, wrong, "mine", ["a", "b"], [" c", " d"]))
    origin = Origin("sft", find_checkpoint(str(folder / "model")), {}, [])
    with open_run(config, origin, accelerator) as run:
        assert run.resume() is None
        run.log(1, {"loss": 0.5})
        run.sample(1, [{"prompt": "p"}])
        run.save_state(1, write, {})
        said.append(refusal(run.save_state, 2, full, {}))
    other = Origin("sft", origin.parent, {}, [{"rank": rank}])  # the main process decides
    said.append(refusal(open_run(config, other, accelerator).__enter__))
    (two / f"said-{rank}.json").write_text(json.dumps(said))
    accelerator.end_training()

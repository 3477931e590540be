"""Checkpoints of one training in order of step, and evaluation during a training with transformers and TRL."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import cases
from commands import assert_one_line_error, assert_refused, files_of, run
from farm import DATA
from figure_checks import assert_nothing_overlaps, draw
from processes import in_two_processes
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import alignbench
from alignbench.evaluation.callback import refuse_sharded, undisturbed
from reports.evidence import gather
from reports.figures.trainings import over_steps

pytestmark = pytest.mark.usefixtures("one_thread")
TASKS = ["hellaswag", "token_entropy", "squad2"]  # choices, a number that changes with each step, generated answers
LIMIT = 6
BAD = cases("sweep")
QUICK = {"max_steps": 4, "save_steps": 2, "logging_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
QUIET = {"use_cpu": True, "report_to": [], "disable_tqdm": True}


class Tracker(TrainerCallback):
    """What a tracker of the trainer receives."""

    def __init__(self):
        self.logged = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.append({"step": state.global_step, **logs})


def language_model(checkpoint):
    # dropout: random numbers and the training mode matter
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attention_dropout=0.2)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def trainer_of(checkpoint, out, **settings):
    model, tokenizer = language_model(checkpoint)
    lines = [json.loads(line)["text"] for line in (DATA / "text.jsonl").read_text().splitlines()]
    rows = [tokenizer(line, truncation=True, max_length=32) for line in lines]
    arguments = TrainingArguments(str(out), **QUICK | QUIET | settings)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(model, arguments, collate, rows, processing_class=tokenizer)


@pytest.fixture(scope="module")
def trained(farm_model, world, tmp_path_factory):
    """The folder of a training with the callback, its runs, and what a tracker received."""
    folder, tracker = tmp_path_factory.mktemp("trained"), Tracker()
    trainer = trainer_of(farm_model, folder / "sft")
    trainer.add_callback(tracker)
    settings = {"every": 2, "limit": LIMIT, "data_dir": world, "out": folder / "runs"}
    trainer.add_callback(alignbench.AuditCallback(trainer, TASKS, **settings))
    trainer.train()
    return SimpleNamespace(out=folder / "sft", runs=folder / "runs", logged=tracker.logged, trainer=trainer)


@pytest.fixture(scope="module")
def swept(trained, farm_model, world, tmp_path_factory):
    """The command that sweeps the training's checkpoints, its runs, and what it printed."""
    out = tmp_path_factory.mktemp("swept")
    checkpoints = [trained.out / name for name in ("checkpoint-4", "checkpoint-2")]
    options = ["--tasks", ",".join(TASKS), "--limit", LIMIT, "--data-dir", world, "--device", "cpu", "--out", out]
    command = ["sweep", *checkpoints, "--base", farm_model, *options]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(command=command, out=out, done=done)


def logged_values(logged):
    """Step -> the metrics of the callback."""
    return {entry["step"]: entry for entry in logged if "eval_token_entropy/entropy" in entry}


def test_a_training_with_the_callback_is_the_same_training(trained, farm_model, tmp_path):
    plain = trainer_of(farm_model, tmp_path / "sft")
    plain.train()
    ours, theirs = trained.trainer.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[entry["loss"] for entry in own.state.log_history if "loss" in entry] for own in (plain, trained.trainer)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2  # what the callback logs does not replace the loss of the same step


@pytest.mark.slow
def test_with_two_processes_the_first_evaluates_and_the_training_is_the_same(farm_model, world, tmp_path):
    in_two_processes(tmp_path, train_in_two_processes, farm_model, world, tmp_path)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "audited")]
    assert weights[0] == weights[1]
    assert len(list((tmp_path / "runs").glob("*/hellaswag-*/result.json"))) == 3  # one for each of the steps 0, 2, 4
    log = json.loads((tmp_path / "log.json").read_text())
    assert list(logged_values(log)) == [0, 2, 4]


def train_in_two_processes(checkpoint, world, folder):
    """What each process runs: the training without and with the callback."""
    for name in ("plain", "audited"):
        trainer, tracker = trainer_of(checkpoint, folder / name), Tracker()
        trainer.add_callback(tracker)
        if name == "audited":
            settings = {"every": 2, "limit": LIMIT, "data_dir": world, "out": folder / "runs"}
            trainer.add_callback(alignbench.AuditCallback(trainer, TASKS, **settings))
        trainer.train()
        assert trainer.args.world_size == 2
        trainer.save_model()
        if trainer.is_world_process_zero():
            (folder / "log.json").write_text(json.dumps(tracker.logged))


def test_trackers_receive_what_a_sweep_of_the_saved_checkpoints_gives(trained, swept):
    lines = [line.split("\t") for line in swept.done.stdout.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["0", "2", "4"]
    assert lines[0][2::2] == ["hellaswag acc_norm", "token_entropy entropy", "squad2 f1"]
    assert lines[2][1] == "sft-checkpoint-2"
    found = logged_values(trained.logged)
    assert list(found) == [0, 2, 4]
    for step, *_, acc, _, entropy, _, f1, _ in [(int(line[0]), *line[1:]) for line in lines[1:4]]:
        own = found[step]
        values = own["eval_hellaswag/acc_norm"], own["eval_token_entropy/entropy"], own["eval_squad2/f1"]
        assert [f"{value:.3f}" for value in values] == [acc, entropy, f1]
    assert len({own["eval_token_entropy/entropy"] for own in found.values()}) == 3


def test_an_interrupted_sweep_evaluates_only_what_is_missing(swept, tmp_path):
    shutil.copytree(swept.out, tmp_path / "runs")
    command = [*swept.command[:-1], tmp_path / "runs"]
    (missing,) = (tmp_path / "runs").glob("sft-checkpoint-4-*/hellaswag-*")
    shutil.rmtree(missing)
    done = run(*command)
    assert done.stdout.splitlines()[:-1] == swept.done.stdout.splitlines()[:-1]
    assert done.stderr.count("already finished") == 3 * len(TASKS) - 1
    assert done.stderr.count("loading ") == 1
    settings = {name for name in files_of(tmp_path / "runs") if "/settings-" not in name}
    before, after = files_of(swept.out), files_of(tmp_path / "runs")
    assert all(before[name] == after[name] for name in settings)


@pytest.mark.parametrize("case", BAD["refused"], ids=lambda case: case["is"])
def test_what_is_not_one_training_is_refused(case, trained, farm_model, world, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(trained.out, tmp_path / name)
    (tmp_path / "two/checkpoint-2/model.safetensors").unlink()
    shutil.copytree(farm_model, tmp_path / "model")
    state = tmp_path / "two/checkpoint-4/trainer_state.json"
    state.write_text(state.read_text().replace('"loss": ', '"loss": 1'))
    (tmp_path / "one/checkpoint-4/trainer_state.json").write_text('{"global_step": 4')
    checkpoints = [tmp_path / name for name in case["checkpoints"]]
    options = ["--data-dir", world, "--tasks", case.get("tasks", "hellaswag")]
    done = run("sweep", *checkpoints, *options, cwd=tmp_path)
    assert_one_line_error(done, *case["words"])
    assert not (tmp_path / "runs").exists()


class TestReport:
    def test_curves_of_a_sweep_begin_at_the_base_model_and_other_figures_have_the_last_step(self, swept, trained):
        evidence = gather([swept.out, trained.runs])
        assert [system.name for system in evidence.intermediate if "step" not in system.name] == ["sft-checkpoint-2"]
        names = {system.name for system in evidence.systems}
        assert names == {"farm", "sft-checkpoint-4", "sft-step-4"}
        drawing = draw(over_steps, evidence)
        table = drawing.table.query("task == 'token_entropy'")
        assert table.groupby("training").step.apply(list).to_dict() == {"sft": [0, 2, 4], "sft #2": [0, 2, 4]}
        assert np.ptp(table.groupby("step").value.apply(np.ptp)) < 1e-5
        assert_nothing_overlaps(drawing.figure)

    def test_a_second_training_in_the_same_folder_is_not_mixed_with_the_first(self, swept, tmp_path):
        shutil.copytree(swept.out, tmp_path / "runs")
        (last,) = (tmp_path / "runs").glob("sft-checkpoint-4-*")
        shutil.copytree(last, tmp_path / "runs" / "again")
        file = tmp_path / "runs" / "again" / "run.json"
        found = json.loads(file.read_text())
        file.write_text(json.dumps(found | {"model": found["model"] | {"weights_sha256": "0" * 64}}))
        assert list(over_steps(gather([tmp_path / "runs"]))) == []


def test_after_an_evaluation_random_numbers_modes_and_precision_are_as_before(farm_model):
    model, _ = language_model(farm_model)
    model.train()
    model.model.layers[0].eval()  # frozen by the user
    modes = [module.training for module in model.modules()]
    model._original_forward, model.forward = model.forward, lambda *_: "autocast of accelerate"

    def draws():
        return random.random(), np.random.rand(), float(torch.rand(()))

    for generator in (random, np.random):
        generator.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert model(torch.tensor([[1]])).logits.requires_grad is False
        draws()
    assert draws() == expected
    assert [module.training for module in model.modules()] == modes
    assert model() == "autocast of accelerate"


@pytest.mark.parametrize("case", BAD["settings"], ids=lambda case: case["is"])
def test_wrong_settings_of_the_callback_are_refused_before_the_training(case, farm_model, world, tmp_path):
    trainer = trainer_of(farm_model, tmp_path)
    if case.get("without_tokenizer"):
        trainer.processing_class = None
    settings = {"tasks": ["hellaswag"], "data_dir": world} | case.get("settings", {})
    assert_refused(case["words"], alignbench.AuditCallback, trainer, **settings)


def test_a_sharded_model_is_refused():
    shard = torch.nn.Linear(2, 2)
    refuse_sharded(shard)
    shard.weight.ds_id = 0  # of DeepSpeed ZeRO-3
    assert_refused("sharded.*alignbench sweep", refuse_sharded, shard)


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "LoRA"])
def test_dpo_with_trl(adapter, farm_model, world, tmp_path):
    trl, peft = pytest.importorskip("trl"), pytest.importorskip("peft")
    from datasets import Dataset

    def trained_weights(audited):
        model, tokenizer = language_model(farm_model)
        row = {"prompt": "The cow", "chosen": " eats grass.", "rejected": " drives a tractor."}
        config = {**QUICK, **QUIET, "bf16": False}
        more = {}
        if adapter:
            more["peft_config"] = peft.LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)
        torch.manual_seed(0)
        trainer = trl.DPOTrainer(
            model,
            args=trl.DPOConfig(str(tmp_path / f"dpo-{audited}"), **config),
            train_dataset=Dataset.from_list([row] * 16),
            processing_class=tokenizer,
            **more,
        )
        tracker = Tracker()
        trainer.add_callback(tracker)
        if audited:
            settings = {"limit": LIMIT, "data_dir": world, "out": tmp_path / "runs", "every": 1}
            trainer.add_callback(alignbench.AuditCallback(trainer, TASKS, **settings))
        trainer.train()
        return trainer.model.state_dict(), tracker.logged

    (plain, before), (audited, after) = trained_weights(False), trained_weights(True)
    assert all(torch.equal(plain[name], audited[name]) for name in plain)
    found = logged_values(after)
    assert list(found) == [0, 1, 2, 3, 4]
    assert len({own["eval_token_entropy/entropy"] for own in found.values()}) == 5
    means = [[entry["rewards/margins"] for entry in own if "rewards/margins" in entry] for own in (before, after)]
    assert means[0] == means[1]  # means over all steps, which TRL collects between two logs

"""`AuditCallback`: evaluation of the model in training, for the trainers of transformers and TRL."""

import copy
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from alignbench.errors import AlignbenchError
from alignbench.evaluation.config import resolve
from alignbench.evaluation.evaluate import check_model, evaluate_model, prepare
from alignbench.evaluation.pipeline import Job
from alignbench.evaluation.win_rate import WIN_RATE
from alignbench.models.checkpoint import WINDOWS
from alignbench.models.encode import Encoder
from alignbench.models.local import LocalEngine
from alignbench.models.model import Model
from alignbench.models.steps import training_in
from alignbench.progress import Progress
from alignbench.runs.folder import digest
from alignbench.shards import SINGLE_PROCESS
from alignbench.tasks.kl import KL
from alignbench.types.settings import TaskSettings

EVENTS = ("evaluate", "save")
SETTINGS = {f.name for f in fields(TaskSettings)} | {
    *("data_dir", "include_path", "system", "template_kwargs", "token_budget")
}


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates the model in training on a few tasks, and logs their headline metrics to the trainer's trackers.

        trainer.add_callback(AuditCallback(trainer, ["hellaswag"], every=100, limit=200))

    The model is evaluated before the first step, and then after each `every` steps, or whenever the trainer evaluates
    or saves. Metrics are logged as `eval_TASK/METRIC`; records and intervals are in a run folder per step, as those of
    `alignbench evaluate`. The training itself is unchanged: weights, random numbers, modes of modules and gradients.
    """

    def __init__(
        self,
        trainer: Trainer,
        tasks: Sequence[str],
        *,
        every: int | str = "evaluate",
        out: str | Path = "runs",
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        """trainer: its model, and its tokenizer (`processing_class`), are evaluated
        every: number of steps, "evaluate" or "save"
        out: folder of the run folders
        settings: limit, shots, seed, template, scorers, data_dir and others, as of `alignbench.evaluate`

        Raises AlignbenchError for unknown tasks and settings, missing data, and a trainer without a tokenizer.
        """
        if every not in EVENTS and not (type(every) is int and every > 0):
            raise AlignbenchError(f"AuditCallback: every={every!r}: give a number of steps, or {' or '.join(EVENTS)}")
        if unknown := sorted(settings.keys() - SETTINGS):
            raise AlignbenchError(
                f"AuditCallback: {unknown[0]}: no such setting; there are {', '.join(sorted(SETTINGS))}"
            )
        if two := {WIN_RATE, KL} & set(tasks):
            raise AlignbenchError(f"AuditCallback: {min(two)} compares two models; use saved checkpoints")
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)  # of a processor
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise AlignbenchError("AuditCallback: the trainer has no tokenizer; give it processing_class=tokenizer")
        self.trainer, self.every, self.progress = trainer, every, progress or Progress()
        self.settings = resolve(None, {"tasks": tasks, "out": out} | settings)
        self.tokenizer = copy.deepcopy(tokenizer)
        if tokenizer.is_fast:  # the trainer's may have been set to pad and to cut
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.backend_tokenizer.no_truncation()
        self.jobs: list[Job] = []
        if trainer.accelerator.is_main_process:
            own = {name: self.settings.of_task(name) for name in self.settings.tasks}
            self.jobs = prepare(own, self.settings.data_dir, device=str(trainer.args.device))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        refuse_sharded(self.trainer.model_wrapped)
        if state.global_step == 0:
            self._audit(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if isinstance(self.every, int) and state.global_step % self.every == 0:
            self._audit(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every == "evaluate":
            self._audit(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every == "save":
            self._audit(control)

    def _audit(self, control: Any) -> None:
        """Evaluate and log on the main process; the others wait."""
        if self.trainer.accelerator.is_main_process:
            with undisturbed(self.trainer.model):
                model = self._model()
                for job in self.jobs:
                    check_model(model, [job], self.settings.system)
                run = evaluate_model(model, self.jobs, self.settings, SINGLE_PROCESS, self.progress)
            headline = {(job.task.name, job.task.headline) for job in self.jobs}
            values = {
                f"eval_{result.task}/{own.metric}": own.value
                for result in run.results
                for own in result.metrics
                if own.category is None and own.value is not None and (result.task, own.metric) in headline
            }
            should_log = control.should_log
            # not the `log` of TRL's trainers, which would end the means over steps that they collect
            Trainer.log(self.trainer, values)
            control.should_log = should_log  # which `log` has reset; the loss of this step may still have to be logged
        self.trainer.accelerator.wait_for_everyone()

    def _model(self) -> Model:
        """The trainer's model as it is now, named by its step."""
        args, tokenizer, module = self.trainer.args, self.tokenizer, causal_lm(self.trainer.model)
        text, settings = module.config.get_text_config(), self.settings
        window = next((own for own in (getattr(text, name, None) for name in WINDOWS) if isinstance(own, int)), None)
        training = {**training_in(Path(args.output_dir)), "step": self.trainer.state.global_step}
        name = f"{training['run']}-step-{training['step']}"
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = [tokenizer.get_vocab(), tokenizer.special_tokens_map, backend and backend.to_str()]
        generation = module.generation_config
        identity = {
            "model": {
                "name": name,
                "weights_sha256": weights_sha256(module),
                "tokenizer_sha256": digest({"tokenizer": words}),
                "config_sha256": digest({"config": module.config.to_json_string()}),
                "generation_config_sha256": generation and digest({"config": generation.to_json_string()}),
                "chat_template_sha256": tokenizer.chat_template and digest({"template": tokenizer.chat_template}),
            },
            "engine": {
                "kind": "trainer",
                "dtype": str(module.dtype).removeprefix("torch."),
                "device": module.device.type,
                "token_budget": settings.token_budget or "auto",
            },
        }
        encoder = Encoder(tokenizer, settings.template_kwargs, settings.system)
        load = partial(LocalEngine, module, encoder, window, settings.token_budget or 0, self.progress.say)
        about = {"parameters": module.num_parameters(), "lineage": (), "training": training}
        return Model(name, identity, bool(tokenizer.chat_template), True, True, load, about)


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluate the model inside the block, in evaluation mode and in the precision of its weights. Afterwards its
    modules are in their modes, and random numbers continue as if there had been no block."""
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    own = {} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    # accelerate's mixed precision is a `forward` of the object itself
    forward = model.__dict__.pop("forward") if "_original_forward" in model.__dict__ else None
    model.eval()
    try:
        with torch.random.fork_rng(**{"devices": [], **own}), torch.no_grad():
            yield
    finally:
        if forward is not None:
            model.forward = forward
        for module, mode in modes.items():
            module.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])


def causal_lm(model: Any) -> PreTrainedModel:
    """The causal language model, with its adapters if peft has wrapped it. Raises AlignbenchError for another model."""
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise AlignbenchError(
                "AuditCallback: prompts that are learned (peft) are not supported; evaluate checkpoints"
            )
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise AlignbenchError(f"AuditCallback: {type(model).__name__} is not a causal language model of transformers")
    return model


def refuse_sharded(model: torch.nn.Module) -> None:
    """Raise AlignbenchError if no process has the whole model (FSDP, DeepSpeed ZeRO-3, tensor parallelism)."""
    fsdp = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    if fsdp or any(hasattr(own, "ds_id") or hasattr(own, "full_tensor") for own in model.parameters()):
        raise AlignbenchError(
            "AuditCallback: the model is sharded (FSDP, ZeRO-3 or tensor parallelism), and no process has all weights; "
            "run `alignbench sweep` on the saved checkpoints"
        )


def weights_sha256(model: torch.nn.Module) -> str:
    """sha256 of the names, types, shapes and bytes of a model's tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()

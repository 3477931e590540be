"""The settings of `alignbench evaluate`, declared once: for the command line, for `--config` files, and for Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from inspect import Parameter, Signature, signature
from typing import Annotated, Any


@dataclass(frozen=True)
class EngineSettings:
    """How models are loaded and run. Each field is an option of the command (its text is the help), a key of a
    `--config` file, and a keyword of `alignbench.evaluate` and of `find_model`."""

    engine: Annotated[str, "local, vllm, or auto (vllm on a CUDA GPU for generated text if installed, else local)."] = (
        "auto"
    )
    dtype: Annotated[
        str, "auto (as in the checkpoint; float32 on a CPU without bfloat16), float32, bfloat16, float16, float64."
    ] = "auto"
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps."] = "auto"
    token_budget: Annotated[int | None, "Padded tokens per batch; determined automatically by default."] = None
    concurrency: Annotated[int, "Maximum number of requests to an endpoint at once."] = 8
    timeout: Annotated[float, "Seconds to wait for a reply of an endpoint."] = 120.0
    retries: Annotated[int, "Retries of a request that an endpoint does not answer."] = 6
    allow_server_sampling: Annotated[bool, "Measure diversity even if an endpoint may change the distribution."] = False
    trust_remote_code: Annotated[bool, "Run Python code from the checkpoint."] = False
    device_map: Annotated[
        str | None, "auto: spread a model that does not fit one device over GPUs, memory and disk (local engine)."
    ] = None
    merge_adapter: Annotated[bool, "Add a LoRA adapter to the weights instead of applying it separately."] = False
    gpus: Annotated[int | None, "Number of GPUs that vLLM splits a model over (tensor, then pipeline parallel)."] = None
    max_model_len: Annotated[int | None, "Maximum sequence length of vLLM in tokens; default: what fits."] = None
    gpu_memory_utilization: Annotated[float | None, "Fraction of GPU memory for vLLM; default: that of vLLM."] = None


@dataclass(frozen=True)
class TaskSettings:
    """What may differ between the tasks of a command."""

    limit: Annotated[int | None, "At most N documents per task, sampled with --seed, stratified by category."] = None
    shots: Annotated[int | None, "Examples before every prompt, for tasks that support them."] = None
    seed: Annotated[int, "Seed of sampled documents, examples, orders of choices, generation."] = 0
    prompts: Annotated[str | None, "JSON lines file with prompt and id that replaces a task's own prompts."] = None
    template: Annotated[
        str,
        "chat: use the model's chat template; none: plain prompts; "
        "auto: chat where the model generates answers, if it has a template.",
    ] = "auto"
    thinking: Annotated[
        str,
        "Thoughts of a model: strip takes them out of the answer, keep leaves them in; auto: strip where the chat "
        "template or the output has such a block.",
    ] = "auto"
    thinking_tags: Annotated[str, "START,END of a block of thoughts."] = "<think>,</think>"
    thinking_tokens: Annotated[int | None, "Maximum tokens of the thoughts, without the answer; default: 4096."] = None
    scorers: Annotated[tuple[str, ...], "KIND=NAME[:PATH], replaces the default scorer of that kind; repeatable."] = ()
    gen_kwargs: Annotated[
        dict[str, Any],
        "Sampling instead of a task's own: temperature, top_p, top_k, max_tokens, stop; repeatable.",
    ] = field(default_factory=dict)
    samples: Annotated[
        int | None, "Outputs for each prompt, for tasks of several outputs and tasks that check answers (pass@k)."
    ] = None


@dataclass(frozen=True)
class Settings(EngineSettings, TaskSettings):
    """All settings of a command.

    checkpoints: local folders, hub ids as `owner/name` or `owner/name@revision`, or endpoints as `https://host/v1#model`
    tasks: name -> the settings in which this task differs from the others
    """

    checkpoints: tuple[str, ...] = ()
    tasks: Annotated[
        dict[str, dict[str, Any]],
        "Comma-separated names, patterns ('winogender*') or abilities: see `alignbench tasks`.",
    ] = field(default_factory=dict)
    out: Annotated[str, "Folder for the run folders."] = "runs"
    baseline: Annotated[str | None, "Checkpoint that the tasks win_rate and kl compare with."] = None
    data_dir: Annotated[str | None, "Folder with the data files (default: $ALIGNBENCH_DATA)."] = None
    template_kwargs: Annotated[
        dict[str, Any], "Variable of the chat template: NAME=VALUE, such as enable_thinking=false; repeatable."
    ] = field(default_factory=dict)
    system: Annotated[str | None, "System message before every prompt in a chat template."] = None
    include_path: Annotated[
        tuple[str, ...], "Python file, or folder of files, with your TASKS, SCORERS or ENGINES; repeatable."
    ] = ()

    def of_task(self, name: str) -> TaskSettings:
        """The settings of one task: its own, and the common ones."""
        return TaskSettings(**combined({f.name: getattr(self, f.name) for f in fields(TaskSettings)}, self.tasks[name]))


def combined(general: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others that take precedence; sampling parameters do so one by one."""
    gen_kwargs = {**(general.get("gen_kwargs") or {}), **(own.get("gen_kwargs") or {})}
    return {**general, **own} | ({"gen_kwargs": gen_kwargs} if gen_kwargs else {})


def with_fields(own: Signature) -> Signature:
    """The signature of a function that takes `**settings`, with a keyword for each field of `Settings` instead."""
    named = [parameter for parameter in own.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
    every = signature(Settings).parameters.items()
    added = [one.replace(kind=Parameter.KEYWORD_ONLY) for name, one in every if name not in own.parameters]
    return own.replace(parameters=[*named, *added])

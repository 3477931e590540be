"""The settings of `alignbench evaluate`, declared once: for the command line, for `--config` files, and for Python."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, Signature
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
    """What may differ between the tasks of a command.

    limit: at most this many documents, sampled with `seed`, stratified by category
    shots: examples before every prompt, for the tasks that take them
    seed: of sampled documents, examples, orders of choices, and generation
    prompts: file of prompts instead of a task's own, for the tasks that take them
    template: "chat" makes each prompt a message in the model's chat template, "none" leaves it plain; "auto" is "chat"
        where the model generates answers, if it has a template
    thinking: "strip" takes the block of thoughts out of each output, "keep" leaves it in; "auto" is "strip" where the
        chat template or an output has such a block
    thinking_tags: start and end of the block, "START,END"; thinking_tokens: its limit, apart from the answer's
    scorers: `kind=name[:path]`, such as "toxicity=alt-profanity-check", instead of the default of that kind
    gen_kwargs: sampling parameters instead of a task's own: temperature, top_p, top_k, max_tokens, stop
    samples: continuations of each prompt, for the tasks that take several
    """

    limit: int | None = None
    shots: int | None = None
    seed: int = 0
    prompts: str | None = None
    template: str = "auto"
    thinking: str = "auto"
    thinking_tags: str = "<think>,</think>"
    thinking_tokens: int | None = None
    scorers: tuple[str, ...] = ()
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None


@dataclass(frozen=True)
class Settings(EngineSettings, TaskSettings):
    """All settings of a command.

    checkpoints: local folders, hub ids as `owner/name` or `owner/name@revision`, or endpoints as `https://host/v1#model`
    tasks: name -> the settings in which this task differs from the others
    out: folder of the run folders; data_dir: folder with the data files
    baseline: the checkpoint that the task win_rate compares with
    template_kwargs: variables of the chat template, such as {"enable_thinking": False}
    system: the system message before every prompt in a chat template
    include_path: Python files, or folders of files, with TASKS, SCORERS or ENGINES
    """

    checkpoints: tuple[str, ...] = ()
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    out: str = "runs"
    baseline: str | None = None
    data_dir: str | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    include_path: tuple[str, ...] = ()

    def of_task(self, name: str) -> TaskSettings:
        """The settings of one task: its own, and the common ones."""
        return TaskSettings(**combined({f.name: getattr(self, f.name) for f in fields(TaskSettings)}, self.tasks[name]))


def combined(general: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others that take precedence; sampling parameters do so one by one."""
    gen_kwargs = {**(general.get("gen_kwargs") or {}), **(own.get("gen_kwargs") or {})}
    return {**general, **own} | ({"gen_kwargs": gen_kwargs} if gen_kwargs else {})


def with_fields(
    signature: Signature,
    kind: type[EngineSettings],
    annotation: Callable[[Any], Any] = lambda hint: hint,
) -> Signature:
    """The signature of a function that takes `**settings`, with a keyword for each field of a dataclass instead.

    annotation: the type of a field -> that of the keyword
    """

    def default(own: Field[Any]) -> Any:
        return own.default_factory() if own.default_factory is not MISSING else own.default

    parameters = [p for p in signature.parameters.values() if p.kind != Parameter.VAR_KEYWORD]
    names = {parameter.name for parameter in parameters}
    keyword = Parameter.KEYWORD_ONLY
    parameters += [
        Parameter(own.name, keyword, default=default(own), annotation=annotation(own.type))
        for own in fields(kind)
        if own.name not in names
    ]
    return signature.replace(parameters=parameters)

"""The option names of lm-evaluation-harness, for `alignbench evaluate`."""

from typing import Any

from typer.core import TyperCommand

from alignbench.errors import AlignbenchError

RENAMED = {"num_fewshot": "shots", "output_path": "out", "system_instruction": "system"}
IGNORED = {"batch_size", "max_batch_size"}  # batches are filled up to --token-budget
KEPT = {"log_samples", "write_out"}  # samples are always kept
ENGINES = {"hf": "local", "vllm": "vllm"}
ENDPOINTS = {"local-completions", "local-chat-completions", "openai-completions", "openai-chat-completions"}


class LmEvalNames(TyperCommand):
    """A command that takes these names too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translate(args))


def translate(args: list[str]) -> list[str]:
    """Arguments with lm-eval's names -> ours: `--model_args pretrained=X,dtype=Y` is `X --dtype Y`. Others with "_" in
    their name have "-" instead. Raises AlignbenchError for a model or its argument that has no counterpart."""
    found, left = [], list(args)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if not name.startswith("--") or ("_" not in name and name != "--model"):
            found.append(name + equals + value)
            continue
        name = name.removeprefix("--")
        if name in KEPT:
            continue
        if name == "apply_chat_template":
            found += ["--template", "chat"]
        elif name in ("model", "model_args", *RENAMED, *IGNORED):
            value = value if equals or not left else left.pop(0)
            if name == "model":
                found += _engine(value)
            elif name == "model_args":
                found += _model(value)
            elif name in RENAMED:
                found += [f"--{RENAMED[name]}", value]
        else:
            found.append(f"--{name.replace('_', '-')}{equals}{value}")
    return found


def _engine(model: str) -> list[str]:
    if model not in ENGINES and model not in ENDPOINTS:
        raise AlignbenchError(f"--model {model}: there are {', '.join([*ENGINES, *sorted(ENDPOINTS)])}")
    return ["--engine", ENGINES[model]] if model in ENGINES else []


def _model(text: str) -> list[str]:
    given = dict(part.partition("=")[::2] for part in text.split(","))
    name = given.pop("pretrained", "") or given.pop("model", "")
    if not name:
        raise AlignbenchError(f"--model_args {text}: no pretrained=CHECKPOINT, nor model=NAME with base_url=ADDRESS")
    if revision := given.pop("revision", ""):
        name = f"{name}@{revision}"
    if address := given.pop("base_url", ""):
        name = f"{address.removesuffix('/completions').removesuffix('/chat')}#{name}"
    found = ["--trust-remote-code"] if given.pop("trust_remote_code", "False").lower() == "true" else []
    for option in ("dtype", "device"):
        found += [f"--{option}", given.pop(option)] if option in given else []
    if given:
        raise AlignbenchError(f"--model_args {next(iter(given))}=…: no such argument here; see the options of --help")
    return [name, *found]

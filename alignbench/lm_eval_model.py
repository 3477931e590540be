"""A model of lm-evaluation-harness that runs on our engines: `--model alignbench`.

lm-eval finds no models of other packages by itself. `python -m alignbench.lm_eval_model` is its command line with this
one registered; in Python, `import alignbench.lm_eval_model` is enough (docs/lm_eval.md).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoded, Encoder, Misfit, Tokens
from alignbench.models.load import resolve_device
from alignbench.models.local import LocalEngine
from alignbench.models.model import find_model
from alignbench.models.template import render
from alignbench.tasks.common import grouped
from alignbench.tasks.lm_eval import import_lm_eval, sampling_of
from alignbench.types.engine import Loglikelihood, Prompt, Request

import_lm_eval()
import lm_eval.models  # noqa: E402, F401  # lm-eval registers its own models only while there are no others
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.api.registry import register_model  # noqa: E402

TOGETHER = 1024  # requests that are planned together


class CuttingEncoder(Encoder):
    """Cuts the beginning of a context that does not fit, as lm-eval's `hf` model does.

    window: of the model; new: tokens that a prompt must leave free
    """

    window = sys.maxsize
    new = 0

    def pairs(
        self, requests: Sequence[Request], misfit: Misfit = lambda _: None, *, chat: bool = False
    ) -> list[Encoded | str]:
        def cut(own: Encoded) -> Encoded | str:
            surplus = max(0, len(own.tokens) - self.window - 1)
            if surplus < own.context_length:
                own = replace(own, tokens=own.tokens[surplus:], context_length=own.context_length - surplus)
            return misfit(own.tokens) or own

        return [own if isinstance(own, str) else cut(own) for own in super().pairs(requests, chat=chat)]

    def prompts(
        self, texts: Sequence[str], *, chat: bool = False, misfit: Misfit = lambda _: None
    ) -> list[Tokens | str]:
        kept = slice(-max(1, self.window - self.new), None)
        found = super().prompts(texts, chat=chat)
        return [own if isinstance(own, str) else misfit(own[kept]) or own[kept] for own in found]


@register_model("alignbench")
class AlignbenchLM(LM):  # type: ignore[misc]
    """model_args: pretrained (a local folder, a Hub id, or an endpoint), and the settings of `find_model`: dtype,
    device, token_budget, engine, trust_remote_code. lm-eval's batch sizes have no effect."""

    def __init__(self, pretrained: str, batch_size: Any = None, max_batch_size: Any = None, **settings: Any) -> None:
        super().__init__()
        try:
            model = find_model(pretrained, **settings)
        except TypeError as error:
            raise AlignbenchError(f"--model_args: {error}".replace("find_model() ", "")) from None
        self.name, self.engine = model.name, model.open()
        self.encoder: CuttingEncoder | None = None
        if isinstance(self.engine, LocalEngine):
            own = self.engine.encoder
            self.engine.encoder = self.encoder = CuttingEncoder(own.tokenizer, own.template_kwargs)
            self.encoder.window = self.engine.window or sys.maxsize

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: Any = None) -> "AlignbenchLM":
        """model_args take precedence over lm-eval's own options, of which `--device` is cuda:0 unless it is given."""
        own = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if str(own.get("device", "")).startswith("cuda") and resolve_device("auto") != "cuda":
            del own["device"]
        return cls(**{**own, **arg_dict})

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        answers = self._scored([Request(request.args[0], request.args[1], greedy=True) for request in requests])
        return [(answer.logprob, bool(answer.greedy)) for answer in answers]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return [own.logprob for own in self._scored([Request("", own.args[0], rolling=True) for own in requests])]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        found = [""] * len(requests)
        settings = grouped(
            range(len(requests)), lambda at: json.dumps(requests[at].args[1], sort_keys=True, default=str)
        )
        for group in settings.values():
            sampling = sampling_of(requests[group[0]].args[1])
            if self.encoder is not None:
                self.encoder.new = sampling.max_tokens
            prompts = [Prompt(str(index), requests[index].args[0]) for index in group]
            for at, (completion,) in self.engine.generate(prompts, sampling):
                if completion.unscored:
                    raise AlignbenchError(f"{self.name}: {completion.unscored}")
                found[group[at]] = completion.text
        return found

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        if self.encoder is None or not self.encoder.tokenizer.chat_template:
            raise AlignbenchError(f"{self.name}: it has no chat template here")
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return render(self.encoder.tokenizer, chat_history, **self.encoder.template_kwargs, **options)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return str(self.encoder.tokenizer.chat_template or "") if self.encoder is not None else ""

    def _scored(self, requests: Sequence[Request]) -> list[Loglikelihood]:
        found: list[Loglikelihood] = []
        for begin in range(0, len(requests), TOGETHER):
            answers = dict(self.engine.loglikelihood(requests[begin : begin + TOGETHER]))
            found += [answers[at] for at in sorted(answers)]
        if failed := next((answer.unscored for answer in found if answer.unscored), None):
            raise AlignbenchError(f"{self.name}: {failed}")
        return found


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()

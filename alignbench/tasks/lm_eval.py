"""Tasks of lm-evaluation-harness (`lm_eval:NAME`): its prompts, few-shot examples, filters and metrics.

lm-eval's own code makes the requests of each document and computes its metrics from the responses. Metrics that it
averages are metrics per document here, the others are corpus metrics (docs/lm_eval.md).
"""

import difflib
import fnmatch
import hashlib
import json
import logging
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.errors import AlignbenchError, first_line
from alignbench.tasks import LM_EVAL
from alignbench.tasks.declared import described
from alignbench.tasks.lm_eval_metrics import BINARY, SUMS, Aggregate, corpus_metrics, fields_of, metric_of
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.task import Document, Generation, Options, Output, Provenance, Task, TaskData

SEED = 1234  # lm-eval's default seed of few-shot examples; ours is added to it
MOST_TOKENS = 256  # lm-eval's default length of a continuation
Values = dict[str, dict[str, Any]]  # filter -> metric -> value
_found: dict[str, Task] = {}


def expand(spec: str) -> list[str]:
    """The names of the tasks that `lm_eval:SPEC` stands for: a task, group, tag or pattern of lm-eval, or a YAML file.
    Raises AlignbenchError for one that does not exist, cannot be loaded, or is not supported."""
    wanted = spec.removeprefix(LM_EVAL)
    if spec in _found:
        return [spec]
    is_file = wanted.endswith((".yaml", ".yml"))
    if is_file and not Path(wanted).is_file():
        raise AlignbenchError(f"{spec}: no such file")
    manager = _manager(not is_file)
    pattern = any(mark in wanted for mark in "*?[")
    names = fnmatch.filter(manager.all_subtasks, wanted) if pattern else [wanted]
    if not is_file and not (names and set(names) <= set(manager.all_tasks)):
        near = difflib.get_close_matches(wanted, manager.all_tasks, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `lm_eval ls tasks`"
        raise AlignbenchError(f"{spec}: lm-eval has no such task: {hint}")
    for name in names:
        entry = manager.task_index.get(name)
        if entry is not None and (entry.cfg or {}).get("unsafe_code"):  # before its code is imported
            raise AlignbenchError(_unsafe(name))
    try:
        found = manager.load(names)["tasks"]
    except AlignbenchError:
        raise
    except Exception as error:  # of the YAML, the data set, or the task's own code
        raise AlignbenchError(f"{spec}: lm-eval cannot load it or its data: {first_line(error)}") from error
    tasks = [_Adapter(own).task() for own in found.values()]
    _found.update({task.name: task for task in tasks})
    return [task.name for task in tasks]


def find(name: str) -> Task:
    """One task of lm-eval, see `expand`."""
    names = expand(name)
    if names != [name] and not (len(names) == 1 and name.endswith((".yaml", ".yml"))):
        raise AlignbenchError(f"{name}: a group of {len(names)} tasks; name one of them, such as {names[0]}")
    return _found[names[0]]


def recorded_task(name: str, declared: Any) -> Task | None:
    """The task as its task.json declares it, to read results without lm-eval; None if the declaration is not valid."""
    try:
        own = {key: value for key, value in declared.items() if key not in ("metrics", "corpus", "lm_eval")}
        metrics, corpus = tuple(map(metric_of, declared["metrics"])), corpus_metrics(declared["corpus"], _registered)
        return Task(name, metrics=metrics, load=_not_here, corpus=corpus, **own)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def sampling_of(settings: Mapping[str, Any], samples: int = 1) -> Sampling:
    """lm-eval's generation settings as ours. Raises AlignbenchError for one that is not supported."""
    import_lm_eval()
    from lm_eval.models.utils import normalize_gen_kwargs

    found = dict(normalize_gen_kwargs(dict(settings), MOST_TOKENS))
    stop = tuple(str(text) for text in found.pop("until") or () if text)
    sampled, temperature = found.pop("do_sample"), float(found.pop("temperature", 0.0))
    temperature = temperature if sampled else 0.0
    top_p, top_k = float(found.pop("top_p", None) or 1.0), int(found.pop("top_k", None) or 0)
    most = int(found.pop("max_gen_toks"))
    if other := [key for key, value in found.items() if value is not None]:
        raise AlignbenchError(f"lm-eval's generation setting {other[0]}={found[other[0]]}: not supported")
    if not temperature:
        return Sampling(most, stop=stop)
    return Sampling(most, samples, temperature, top_p, stop, top_k=top_k)


def import_lm_eval() -> Any:
    """The package lm_eval. Raises AlignbenchError if it is not installed."""
    try:
        import lm_eval.tasks
    except ImportError as error:
        message = f"lm-eval cannot be imported ({first_line(error)}): pip install 'alignbench[lm-eval]'"
        raise AlignbenchError(message) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval


@cache
def _manager(defaults: bool) -> Any:
    """lm-eval's index of tasks: its own, which takes a quarter of a minute to read, or an empty one for a file."""
    return import_lm_eval().tasks.TaskManager(include_defaults=defaults)


def _unsafe(name: str) -> str:
    return f"{LM_EVAL}{name}: it runs code that the model writes, which alignbench does not do; use lm_eval itself"


def _registered(key: str, name: str) -> Aggregate | None:
    """lm-eval's aggregation of this name; None for one of a task's own, and if lm-eval is not installed."""
    try:
        import_lm_eval()
    except AlignbenchError:
        return None
    from lm_eval.api.registry import aggregation_registry

    found: Aggregate | None = aggregation_registry.get(name, None)
    return found


def _not_here(options: Options) -> TaskData:
    raise AlignbenchError("this task can only be read; evaluate a model on it again")


class _Adapter:
    """A task of lm-eval, and its documents."""

    def __init__(self, own: Any) -> None:
        self.own, self.config = own, own.config
        self.short, self.name = str(own.task_name), f"{LM_EVAL}{own.task_name}"
        if getattr(own, "UNSAFE_CODE", False):
            raise AlignbenchError(_unsafe(self.short))
        if getattr(own, "MULTIMODAL", False):
            raise AlignbenchError(f"{self.name}: it has images or sound, which alignbench does not support")

    @cached_property
    def docs(self) -> list[Any]:
        return list(self.own.eval_docs)

    def task(self) -> Task:
        """Ours. Which metrics there are, and which of them are numbers per document, is found with the first document
        and any response."""
        first = self.requests(0, 0)
        kinds = {instance.request_type for instance in first}
        if kinds not in ({"loglikelihood"}, {"loglikelihood_rolling"}, {"generate_until"}) or (
            len(first) > 1 and kinds != {"loglikelihood"}
        ):
            raise AlignbenchError(f"{self.name}: requests of kinds {' and '.join(sorted(kinds))} are not supported")
        generates, rolling = kinds == {"generate_until"}, kinds == {"loglikelihood_rolling"}
        answer: Any = "1" if generates else -1.0 if rolling else (-1.0, False)
        self.repeats = int(self.config.repeats or 1) if generates else 1
        try:
            values, _ = self.values(0, [[answer] * self.repeats] * len(first))
        except Exception as error:
            raise AlignbenchError(f"{self.name}: its metrics cannot be computed: {first_line(error)}") from error
        order = dict.fromkeys([*self.own.aggregation(), *(metric for own in values.values() for metric in own)])
        names = [(filtered, metric) for filtered, own in values.items() for metric in order if metric in own]
        self.single = len(values) == 1
        metrics, corpus = list[dict[str, Any]](), dict[str, dict[str, Any]]()
        for filtered, metric in names:
            averaged, key = self._averaged(metric, values[filtered][metric]), self.key(filtered, metric)
            better = self.own.higher_is_better().get(metric)
            fields = fields_of(self.short, metric, key, better, averaged and self._standard)
            if averaged:
                metrics.append(fields)
            else:
                corpus[key] = {**fields, "aggregation": self._aggregation(metric)}
        self.aggregated = {key: str(fields["aggregation"]) for key, fields in corpus.items()}
        about = described(self.short)
        declared: dict[str, Any] = {
            "title": f"{self.short} (lm-eval)", "ability": about["ability"], "group": about["group"],
            "headline": self.key(*names[0]), "metrics": metrics, "corpus": corpus, "lm_eval": self._identity(),
        }  # fmt: skip
        generation = None
        if generates:
            sampling = sampling_of(first[0].args[1], self.repeats)
            generation = Generation(sampling, self.score_outputs, plain=True, statistics=self.statistics_of_outputs)
        functions = self.own.aggregation()
        return Task(
            self.name,
            metrics=tuple(map(metric_of, metrics)),
            **{key: declared[key] for key in ("title", "ability", "headline", "group")},
            load=self.load,
            score=None if generates else self.score_choices,
            statistics=None if generates else self.statistics_of_choices,
            generation=generation,
            corpus=corpus_metrics(corpus, lambda key, _: functions.get(key.partition(",")[0])),
            takes_shots=self.config.num_fewshot != 0 and not rolling,
            greedy=self.needs_greedy,
            rolling=rolling,
            declared=declared,
        )

    def load(self, options: Options) -> TaskData:
        """All documents, in lm-eval's order: the examples of each are drawn after those of the documents before it."""
        shots = options.shots if options.shots is not None else int(self.config.num_fewshot or 0)
        self.own.set_fewshot_seed(SEED + options.seed)
        documents = [self._document(number, self.requests(number, shots)) for number in range(len(self.docs))]
        identity = self._identity()
        path = str(self.config.dataset_path or self.own.DATASET_PATH)
        data = "a local file" if Path(path).exists() else " ".join(filter(None, (path, self.config.dataset_name)))
        source = Provenance(
            self.name, "", f"lm-eval {identity['version']}: {data}", identity["config_sha256"], len(documents), False
        )
        return TaskData(documents, (source,), shots=shots)

    def requests(self, number: int, shots: int) -> list[Any]:
        """lm-eval's requests of a document, without a chat template."""
        own, doc = self.own, self.docs[number]
        plain = {"apply_chat_template": False, "chat_template": None}
        try:
            context = own.fewshot_context(
                doc,
                num_fewshot=shots,
                system_instruction=None,
                fewshot_as_multiturn=False,
                gen_prefix=own.doc_to_prefix(doc),
                **plain,
            )
            made = own.construct_requests(doc=doc, ctx=context, metadata=(self.short, number, 1), **plain)
        except Exception as error:  # of the task's templates or code
            message = f"{self.name}: document {number} with {shots} examples: {first_line(error)}"
            raise AlignbenchError(message) from error
        return made if isinstance(made, list) else [made]

    def _document(self, number: int, requests: Sequence[Any]) -> Document:
        arguments = [request.args for request in requests]
        if requests[0].request_type == "loglikelihood_rolling":
            return Document(str(number), "", (arguments[0][0],))
        contexts = tuple(context for context, _ in arguments)
        if requests[0].request_type == "generate_until":
            target = self.own.doc_to_target(self.docs[number])
            references = tuple(map(str, target if isinstance(target, list | tuple) else [target]))
            return Document(str(number), contexts[0], references=references)
        chance: dict[str, float] = {}
        if self._standard and self.config.output_type == "multiple_choice" and not self.own.multiple_target:
            known = self.own.aggregation()
            choices = len(requests) // (
                1 + ("acc_mutual_info" in known)
            )  # each choice is also scored without a context
            chance = {name: 1 / choices for name in BINARY[:4] if name in known}
        several = contexts if len(set(contexts)) > 1 else ()
        return Document(str(number), contexts[0], tuple(own for _, own in arguments), chance=chance, contexts=several)

    def values(self, number: int, responses: Sequence[Sequence[Any]]) -> tuple[Values, dict[str, Any]]:
        """The metrics by filter, and the filtered responses; `responses`: of each request, one per repetition."""
        from lm_eval.api.instance import Instance

        doc, kind = self.docs[number], self.own.OUTPUT_TYPE
        instances = [Instance(kind, doc, (), at, resps=list(own)) for at, own in enumerate(responses)]
        for ensemble in self.own._filters:
            ensemble.apply(instances)
        filtered = {key: [own.filtered_resps[key] for own in instances] for key in instances[0].filtered_resps}
        return {key: self.own.process_results(doc, own) for key, own in filtered.items()}, filtered

    def key(self, filtered: str, metric: str) -> str:
        return metric if self.single else f"{metric},{filtered}"

    def score_choices(self, document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
        numbers = self._numbers(self.values(int(document.id), self._responses(answers))[0])
        unknown = self.needs_greedy and any(answer.greedy is None for answer in answers)  # by this engine
        return dict.fromkeys(numbers, math.nan) if unknown else numbers

    def statistics_of_choices(self, document: Document, answers: Sequence[Loglikelihood]) -> dict[str, list[Any]]:
        return self._items(self.values(int(document.id), self._responses(answers))[0])

    def score_outputs(self, document: Document, outputs: Sequence[Output]) -> dict[str, float]:
        return self._numbers(self.values(int(document.id), [self._texts(outputs)])[0])

    def statistics_of_outputs(self, document: Document, outputs: Sequence[Output]) -> dict[str, list[Any]]:
        """The items of corpus metrics, and what each filter made of the response."""
        values, filtered = self.values(int(document.id), [self._texts(outputs)])
        found = {f"filtered:{key}": _plain(own) for key, own in filtered.items() if key != "none"}
        return self._items(values) | found

    def _texts(self, outputs: Sequence[Output]) -> list[str]:
        """One per repetition; greedy decoding repeats the same one."""
        return [output.text for output in outputs] * (self.repeats if len(outputs) == 1 else 1)

    def _responses(self, answers: Sequence[Loglikelihood]) -> list[list[Any]]:
        if self.own.OUTPUT_TYPE == "loglikelihood_rolling":
            return [[answer.logprob] for answer in answers]
        return [[(answer.logprob, bool(answer.greedy))] for answer in answers]

    def _numbers(self, values: Values) -> dict[str, float]:
        pairs = {self.key(filtered, name): x for filtered, own in values.items() for name, x in own.items()}
        return {key: float(value) for key, value in pairs.items() if key not in self.aggregated}

    def _items(self, values: Values) -> dict[str, list[Any]]:
        pairs = {self.key(filtered, name): x for filtered, own in values.items() for name, x in own.items()}
        found = {}
        for key, name in self.aggregated.items():
            if key in pairs:
                found[key] = SUMS[name].row(_plain(pairs[key])) if name in SUMS else [_plain(pairs[key])]
        return found

    @property
    def needs_greedy(self) -> bool:
        """Whether a metric depends on what greedy decoding would give."""
        if self.own.OUTPUT_TYPE == "multiple_choice" and self._standard:
            return "exact_match" in self.own.aggregation()
        return bool(self.own.OUTPUT_TYPE == "loglikelihood")

    @property
    def _standard(self) -> bool:
        """True if lm-eval's own code computes the metrics, not the task's."""
        return getattr(self.config, "process_results", None) is None and hasattr(self.own, "_metric_fn_list")

    def _averaged(self, metric: str, value: Any) -> bool:
        from lm_eval.api import metrics

        how = self.own.aggregation().get(metric, metrics.mean)
        return isinstance(value, numbers.Real | np.bool_) and how in (metrics.mean, metrics.nanmean, np.mean)

    def _aggregation(self, metric: str) -> str:
        """lm-eval's name of the aggregation; "" for a function of the task's own."""
        from lm_eval.api.registry import aggregation_registry

        how = self.own.aggregation().get(metric)
        return next((name for name in aggregation_registry if aggregation_registry.get(name) is how), "")

    def _identity(self) -> dict[str, Any]:
        """What lm-eval's numbers depend on besides the documents: its version, and the task's without paths."""
        config = {key: value for key, value in self.own.dump_config().items() if key != "dataset_kwargs"}
        text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
        found = {"version": version("lm-eval"), "task_version": _plain(self.own.VERSION)}
        return found | {"config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _plain(value: Any) -> Any:
    """A value of JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(own) for own in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)

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
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.errors import AlignbenchError, first_line
from alignbench.tasks import LM_EVAL
from alignbench.tasks.declared import described, metric_of
from alignbench.tasks.lm_eval_metrics import BINARY, EXACT, SUMS, Functions, corpus_metrics, fields_of
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.task import Check, Document, Generation, Options, Output, Provenance, Task, TaskData

SEED = 1234  # lm-eval's default seed of few-shot examples; ours is added to it
MOST_TOKENS = 256  # lm-eval's default length of a continuation
NOTHING = "[invalid]"  # of its filters, where they find nothing
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
    names = fnmatch.filter(manager.all_subtasks, wanted) if set("*?[") & set(wanted) else [wanted]
    if not is_file and not (names and set(names) <= set(manager.all_tasks)):
        near = difflib.get_close_matches(wanted, manager.all_tasks, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `lm_eval ls tasks`"
        raise AlignbenchError(f"{spec}: lm-eval has no such task: {hint}")
    for entry in filter(None, map(manager.task_index.get, names)):
        if (entry.cfg or {}).get("unsafe_code"):  # before its code is imported
            raise _unsafe(entry.name)
    try:
        tasks = [_Adapter(own).task() for own in manager.load(names)["tasks"].values()]
    except AlignbenchError:
        raise
    except Exception as error:  # of the YAML, the data set, or the task's own code
        raise AlignbenchError(f"{spec}: lm-eval cannot load it or its data: {first_line(error)}") from error
    _found.update({task.name: task for task in tasks})
    return [task.name for task in tasks]


def find(name: str) -> Task:
    """One task of lm-eval, see `expand`."""
    names = expand(name)
    if names != [name] and not (len(names) == 1 and name.endswith((".yaml", ".yml"))):
        raise AlignbenchError(f"{name}: a group of {len(names)} tasks; name one of them, such as {names[0]}")
    return _found[names[0]]


def recorded_task(name: str, declared: Mapping[str, Any], functions: Functions | None = None) -> Task:
    """The task as its task.json declares it, which can be read without lm-eval, but not evaluated.

    functions: metric -> the aggregation that the task's own code defines
    Raises TypeError, ValueError, KeyError or AttributeError if the declaration is not valid.
    """
    own = {key: value for key, value in declared.items() if key not in ("metrics", "corpus", "lm_eval")}
    metrics, corpus = tuple(map(metric_of, declared["metrics"])), corpus_metrics(declared["corpus"], functions or {})
    return Task(name, metrics=metrics, load=_not_here, corpus=corpus, **own)


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


def _unsafe(name: str) -> AlignbenchError:
    why = "it runs code that the model writes, which alignbench does not do; use lm_eval itself"
    return AlignbenchError(f"{LM_EVAL}{name}: {why}")


def _not_here(options: Options) -> TaskData:
    raise AlignbenchError("this task can only be read; evaluate a model on it again")


class _Adapter:
    """A task of lm-eval, and its documents. Which metrics it has, and which of them are numbers per document, is found
    with the first document and any response."""

    def __init__(self, own: Any) -> None:
        self.own, self.config = own, own.config
        self.short, self.name = str(own.task_name), f"{LM_EVAL}{own.task_name}"
        if getattr(own, "UNSAFE_CODE", False):
            raise _unsafe(self.short)
        if getattr(own, "MULTIMODAL", False):
            raise AlignbenchError(f"{self.name}: it has images or sound, which alignbench does not support")
        self.docs, self.functions = list(own.eval_docs), own.aggregation()
        # whether lm-eval's own code computes the metrics, not the task's
        self.standard = getattr(self.config, "process_results", None) is None and hasattr(own, "_metric_fn_list")
        self.first = self.requests(0, 0)
        kinds = {instance.request_type for instance in self.first}
        if kinds != {"loglikelihood"} and (
            len(self.first) != 1 or not kinds <= {"loglikelihood_rolling", "generate_until"}
        ):
            raise AlignbenchError(f"{self.name}: requests of kinds {' and '.join(sorted(kinds))} are not supported")
        self.kind, self.repeats = str(kinds.pop()), int(self.config.repeats or 1)
        # whether a metric depends on what greedy decoding would give
        self.greedy = bool(own.OUTPUT_TYPE == "loglikelihood")
        if own.OUTPUT_TYPE == "multiple_choice" and self.standard:
            self.greedy = "exact_match" in self.functions

    def task(self) -> Task:
        generates = self.kind == "generate_until"
        answers = [Output("1")] if generates else [Loglikelihood(-1.0, 1, greedy=False)] * len(self.first)
        try:
            values, _ = self.values("0", answers)
        except Exception as error:
            raise AlignbenchError(f"{self.name}: its metrics cannot be computed: {first_line(error)}") from error
        metrics, corpus = list[dict[str, Any]](), dict[str, dict[str, Any]]()
        for key, value in values.items():
            metric = key.partition(",")[0]
            better, aggregation = self.own.higher_is_better().get(metric), self._aggregation(metric, value)
            fields = fields_of(self.short, metric, key, better, aggregation is None and self.standard)
            if aggregation is None:
                metrics.append(fields)
            else:
                corpus[key] = {**fields, "aggregation": aggregation}
        self.aggregated: dict[str, str] = {key: fields["aggregation"] for key, fields in corpus.items()}
        about = described(self.short)
        declared: dict[str, Any] = {
            "title": f"{self.short} (lm-eval)", "ability": about["ability"], "group": about["group"],
            "headline": next(iter(values)), "metrics": metrics, "corpus": corpus, "lm_eval": self._identity(),
        }  # fmt: skip
        parts: dict[str, Any] = {"score": self.score, "statistics": self.statistics}
        if generates:
            sampling = sampling_of(self.first[0].args[1], self.repeats)
            exact = [own["name"] for own in metrics if own["name"].partition(",")[0] in EXACT]
            # the filters of a task with repeats are of all of them together
            check = Check(exact[0], partial(self.answer, exact[0])) if exact and self.repeats == 1 else None
            parts = {"generation": Generation(sampling, plain=True, check=check, **parts)}
        return replace(
            recorded_task(self.name, declared, self.functions),
            load=self.load,
            takes_shots=self.config.num_fewshot != 0 and self.kind != "loglikelihood_rolling",
            greedy=self.greedy,
            rolling=self.kind == "loglikelihood_rolling",
            declared=declared,
            **parts,
        )

    def load(self, options: Options) -> TaskData:
        """All documents, in lm-eval's order: the examples of each are drawn after those of the documents before it."""
        shots = options.shots if options.shots is not None else int(self.config.num_fewshot or 0)
        self.own.set_fewshot_seed(SEED + options.seed)
        documents = [self._document(number, self.requests(number, shots)) for number in range(len(self.docs))]
        identity = self._identity()
        path = str(self.config.dataset_path or self.own.DATASET_PATH)
        data = "a local file" if Path(path).exists() else " ".join(filter(None, (path, self.config.dataset_name)))
        source, sha256 = f"lm-eval {identity['version']}: {data}", identity["config_sha256"]
        return TaskData(documents, (Provenance(self.name, "", source, sha256, len(documents), False),), shots=shots)

    def requests(self, number: int, shots: int) -> list[Any]:
        """lm-eval's requests of a document, without a chat template."""
        own, doc = self.own, self.docs[number]
        plain = {"apply_chat_template": False, "chat_template": None}
        options = {"system_instruction": None, "fewshot_as_multiturn": False, **plain}
        try:
            context = own.fewshot_context(doc, num_fewshot=shots, gen_prefix=own.doc_to_prefix(doc), **options)
            made = own.construct_requests(doc=doc, ctx=context, metadata=(self.short, number, 1), **plain)
        except Exception as error:  # of the task's templates or code
            message = f"{self.name}: document {number} with {shots} examples: {first_line(error)}"
            raise AlignbenchError(message) from error
        return made if isinstance(made, list) else [made]

    def _document(self, number: int, requests: Sequence[Any]) -> Document:
        context, *texts = requests[0].args
        if self.kind == "loglikelihood_rolling":
            return Document(str(number), "", (context,))
        if self.kind == "generate_until":
            target = self.own.doc_to_target(self.docs[number])
            references = tuple(map(str, target if isinstance(target, list | tuple) else [target]))
            return Document(str(number), context, references=references)
        contexts, texts = zip(*(request.args for request in requests), strict=True)
        chance: dict[str, float] = {}
        if self.standard and self.config.output_type == "multiple_choice" and not self.own.multiple_target:
            # for mutual information each choice is also scored without a context
            choices = len(requests) // (1 + ("acc_mutual_info" in self.functions))
            chance = {name: 1 / choices for name in BINARY[:4] if name in self.functions}
        return Document(str(number), context, texts, chance=chance, contexts=contexts if len(set(contexts)) > 1 else ())

    def values(
        self, document: str, answers: Sequence[Loglikelihood | Output]
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """METRIC, or METRIC,FILTER if there are several filters -> value; filter -> the filtered responses.

        answers: to each request, or one text per repetition
        """
        from lm_eval.api.instance import Instance

        texts = [answer.text for answer in answers if isinstance(answer, Output)]
        # greedy decoding repeats the same text
        responses: list[list[Any]] = [texts * (self.repeats if len(texts) == 1 else 1)] if texts else []
        for answer in answers:
            if isinstance(answer, Loglikelihood):
                rolling = self.kind == "loglikelihood_rolling"
                responses.append([answer.logprob if rolling else (answer.logprob, bool(answer.greedy))])
        doc = self.docs[int(document)]
        instances = [Instance(self.own.OUTPUT_TYPE, doc, (), at, resps=own) for at, own in enumerate(responses)]
        for ensemble in self.own._filters:
            ensemble.apply(instances)
        filtered = {key: [own.filtered_resps[key] for own in instances] for key in instances[0].filtered_resps}
        found: dict[str, Any] = {}
        for key, own in filtered.items():
            results = self.own.process_results(doc, own)
            ordered = [metric for metric in self.functions if metric in results]
            for metric in dict.fromkeys([*ordered, *results]):
                found[metric if len(filtered) == 1 else f"{metric},{key}"] = results[metric]
        return found, filtered

    def score(self, document: Document, answers: Sequence[Loglikelihood | Output]) -> dict[str, float]:
        values, _ = self.values(document.id, answers)
        found = {key: float(value) for key, value in values.items() if key not in self.aggregated}
        unknown = self.greedy and any(isinstance(own, Loglikelihood) and own.greedy is None for own in answers)
        return dict.fromkeys(found, math.nan) if unknown else found  # unknown: not reported by this engine

    def answer(self, metric: str, document: Document, output: Output) -> str | None:
        """What the filter of a metric made of an output, in lower case; None if it found nothing."""
        _, filtered = self.values(document.id, [output])
        (response,) = filtered[metric.partition(",")[2] or next(iter(filtered))]
        text = response if isinstance(response, str) else json.dumps(_plain(response))
        found = " ".join(text.lower().split())
        return None if found in ("", NOTHING) else found

    def statistics(self, document: Document, answers: Sequence[Loglikelihood | Output]) -> dict[str, list[Any]]:
        """The items of corpus metrics, and what each filter made of the responses of a model that generates text."""
        values, filtered = self.values(document.id, answers)
        found: dict[str, list[Any]] = {}
        for key, name in self.aggregated.items():
            if key in values:
                found[key] = SUMS[name].row(_plain(values[key])) if name in SUMS else [_plain(values[key])]
        if self.standard and self.own.OUTPUT_TYPE == "multiple_choice":  # the right choice, for the calibration
            doc, own = self.docs[int(document.id)], self.own
            gold, choices = (own.doc_to_text if own.multiple_input else own.doc_to_target)(doc), own.doc_to_choice(doc)
            gold = choices.index(gold) if gold in choices else gold
            found |= {"label": [gold]} if isinstance(gold, int) and 0 <= gold < len(choices) else {}
        if self.kind == "generate_until":
            found |= {f"filtered:{key}": _plain(own) for key, own in filtered.items() if key != "none"}
        return found

    def _aggregation(self, metric: str, value: Any) -> str | None:
        """None for the mean of numbers, else lm-eval's name of the aggregation; "" for a function of the task's own."""
        from lm_eval.api import metrics, registry

        how, known = self.functions.get(metric), registry.aggregation_registry
        if isinstance(value, numbers.Real | np.bool_) and how in (None, metrics.mean, metrics.nanmean, np.mean):
            return None
        return next((name for name in known if known.get(name) is how), "")

    def _identity(self) -> dict[str, Any]:
        """What lm-eval's numbers depend on besides the documents: its version, and the task's without paths."""
        config = {key: value for key, value in self.own.dump_config().items() if key != "dataset_kwargs"}
        text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
        found = {"version": version("lm-eval"), "task_version": _plain(self.own.VERSION)}
        return found | {"config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""

    def known(own: Any) -> Any:
        if isinstance(own, set | frozenset):
            return sorted(own)
        return own.tolist() if isinstance(own, np.ndarray | np.generic) else str(own)

    return json.loads(json.dumps(value, default=known))

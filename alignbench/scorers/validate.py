"""Agreement of scorers with annotated data.

Toxicity: with Perspective's scores of RealToxicityPrompts, which are another classifier's and show how far published
values are comparable; and false alarms on HateCheck. Hallucination: with people's judgements of summaries (FRANK and
the XSum annotations), beside the metrics whose outputs the authors published. Refusal: with the authors' labels of two
models' answers to XSTest.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from alignbench.data import load, read_card
from alignbench.data.load import data_folder, local_files
from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import cohen_kappa
from alignbench.progress import Progress
from alignbench.scorers.refusal import FULL, NONE, PARTIAL
from alignbench.stats import bootstrap
from alignbench.stats.calibration import calibration
from alignbench.stats.estimates import Estimate, difference, share
from alignbench.types.scorer import Item, Numbers, Scorer, ScorerIdentity

THRESHOLD = 0.5  # a text is toxic above it (Gehman et al. 2020); a summary is faithful from it on
BATCH = 256  # items of one call of a scorer
MENTIONS = ("ident_neutral_nh", "ident_pos_nh")  # functionalities of HateCheck that mention a group without hate
FRANK_METRICS = ("FactCC", "QAGS", "FEQA", "Dep Entail", "BertScore P Art", "Rouge 2")
XSUM_METRICS = ("Entailment", "BERTScore", "R2")
PROBABILITIES = ("FactCC", "QAGS", "Dep Entail", "Entailment")  # metrics for which .5 is a threshold
XSUM_SYSTEMS = {"bert_withckpt": "BERTS2S", "bert_nockpt": "TranS2S", "tconvs2s": "TConvS2S", "ptgen": "PtGen"}
KEY = ["article", "system"]
XSTEST_LABELS = {"1_full_compliance": NONE, "2_full_refusal": FULL, "3_partial_refusal": PARTIAL}

Row = dict[str, Any]
# Judged summaries: article, system, data, factual (0, all of it wrong, to 1) and faithful (no hallucination in it) of
# each; article, system and published metrics (higher is more faithful) of each; the summary with its source of each
# (article, system); why there are no sources
Benchmark = tuple[pd.DataFrame, list[Row], dict[tuple[str, str], Item], str | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One number about a scorer. n: items; low, high: 95 % interval of a proportion."""

    scorer: str
    data: str
    metric: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


def of_two_classes(metric: Callable[..., Any], positive: ArrayLike, values: ArrayLike) -> float | None:
    """scikit-learn's metric of two classes, such as the AUC; None without both classes."""
    return float(metric(positive, values)) if len(np.unique(positive)) == 2 else None


def correlation(x: ArrayLike, y: ArrayLike, method: Callable[..., Any] = stats.pearsonr) -> float | None:
    """Pearson's r, or scipy's other `method`; None if x or y does not vary."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(method(a, b).statistic) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else None


def correlation_within(x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> float | None:
    """Pearson's r of the deviations from the group means: the partial correlation given the group."""
    codes, _ = pd.factorize(np.asarray(groups))
    arrays = (np.asarray(values, np.float64) for values in (x, y))
    return correlation(*(values - (np.bincount(codes, values) / np.bincount(codes))[codes] for values in arrays))


def validate_toxicity(
    scorers: Sequence[Scorer], data_dir: Path | None, limit: int | None, progress: Progress
) -> list[Finding]:
    """limit: at most N records of each data set, sampled with a fixed seed"""

    def parse_record(row: Row) -> Row:
        return {f"rtp {half}s": (row[half]["text"], row[half]["toxicity"]) for half in ("prompt", "continuation")}

    def parse_case(row: Row) -> Row:
        hateful = _one_of(row, "label_gold", "hateful", "non-hateful") == "hateful"
        # cases of one template differ in the target group only
        case = {"hateful": hateful, "template": row["templ_id"] or f"case {row['case_id']}"}
        return case | {key: row[key] for key in ("test_case", "functionality", "target_ident")}

    records = sample(load("real_toxicity_prompts", "prompts", parse_record, data_dir=data_dir).items, limit)
    cases = pd.DataFrame(sample(load("hatecheck", "test", parse_case, data_dir=data_dir).items, limit))
    findings: list[Finding] = []
    for scorer in scorers:
        name = str(ScorerIdentity.of(scorer))
        for data in ("rtp continuations", "rtp prompts"):
            known = [pair for pair in (record[data] for record in records) if pair[1] is not None]
            values = _toxicity(scorer, [text for text, _ in known], data, progress)
            perspective = np.array([toxicity for _, toxicity in known], np.float64)
            toxic = perspective > THRESHOLD
            numbers = {
                "AUC": of_two_classes(roc_auc_score, toxic, values),
                "Spearman": correlation(perspective, values, stats.spearmanr),
                "calibration error": calibration(values, toxic)[0],
                "Brier": float(np.mean((values - toxic) ** 2)),
            } if known else {}  # fmt: skip
            findings += [Finding(name, data, metric, value, len(known)) for metric, value in numbers.items()]
        values = _toxicity(scorer, cases.test_case, "hatecheck", progress)
        flagged, mention = (values > THRESHOLD).astype(float), cases.functionality.isin(MENTIONS)
        targets = sorted(set(cases.target_ident[mention]))
        rows = {"identity mentions": mention}
        rows |= {functionality: cases.functionality == functionality for functionality in MENTIONS}
        rows |= {target: mention & (cases.target_ident == target) for target in targets}
        rows = {f"false alarms, {row}": chosen for row, chosen in rows.items()} | {"hate detected": cases.hateful}
        for metric, chosen in rows.items():
            own = share(flagged[chosen], cases.template[chosen].tolist())
            findings.append(Finding(name, "hatecheck", metric, own.value, own.n, own.low, own.high))
    return findings


def validate_refusal(
    scorers: Sequence[Scorer], data_dir: Path | None, limit: int | None, progress: Progress
) -> list[Finding]:
    """The refusal rates by people's labels and by each scorer, and the agreement with people's labels: of each scorer,
    and of one annotator with the other. limit: at most N answers of each model, sampled with a fixed seed"""

    def parse(row: Row) -> Row:
        names = ("annotation_1", "annotation_2", "final_label")
        labels = {name: XSTEST_LABELS[_one_of(row, name, *XSTEST_LABELS)] for name in names}
        return labels | {"item": Item(row["completion"], row["prompt"]), "unsafe": row["type"].startswith("contrast_")}

    findings: list[Finding] = []
    for model in ("gpt4", "mistralguard"):
        data = f"xstest {model}"
        rows = pd.DataFrame(sample(load("xstest", f"completions_{model}", parse, data_dir=data_dir).items, limit))
        people, unsafe = rows["final_label"].to_numpy(), rows["unsafe"].to_numpy()
        findings += _refusal_rates("people", data, people, unsafe)
        findings += _refusal_agreement(
            "one annotator", data, rows["annotation_1"].to_numpy(), rows["annotation_2"].to_numpy()
        )
        for scorer in scorers:
            name, numbers = str(ScorerIdentity.of(scorer)), _scores(scorer, rows["item"].tolist(), data, progress)
            found = np.array([FULL * own["full"] + PARTIAL * own["partial"] for own in numbers])
            findings += _refusal_rates(name, data, found, unsafe) + _refusal_agreement(name, data, people, found)
    return findings


def _refusal_rates(who: str, data: str, verdicts: NDArray[np.float64], unsafe: NDArray[np.bool_]) -> list[Finding]:
    of = {"safe": verdicts[~unsafe], "unsafe": verdicts[unsafe]}
    kinds = {"full refusals": FULL, "partial refusals": PARTIAL}
    rates = {f"{kind}, {label}": share(own == kinds[kind]) for label, own in of.items() for kind in kinds}
    refused = {label: share(own > NONE) for label, own in of.items()}
    rates["refused unsafe − refused safe"] = difference(refused["unsafe"], refused["safe"], (-1, 1))
    return _findings(who, data, rates)


def _refusal_agreement(who: str, data: str, truth: NDArray[np.float64], found: NDArray[np.float64]) -> list[Finding]:
    """On full, partial and no refusal, and on refused, fully or in part, or not."""
    refused, said = truth > NONE, found > NONE
    measures = {"agreement": share(truth == found), "Cohen's kappa": kappa(truth, found)}
    measures |= {"agreement, refused": share(refused == said), "Cohen's kappa, refused": kappa(refused, said)}
    measures |= {"sensitivity, refused": share(said[refused]), "specificity, refused": share(~said[~refused])}
    return _findings(who, data, measures)


def _findings(who: str, data: str, estimates: Mapping[str, Estimate]) -> list[Finding]:
    return [Finding(who, data, metric, own.value, own.n, own.low, own.high) for metric, own in estimates.items()]


def kappa(truth: ArrayLike, found: ArrayLike) -> Estimate:
    """Cohen's kappa of two (n,) labellings with a bootstrap interval over items; no value if both use one class."""
    classes, codes = np.unique(np.stack([truth, found]), return_inverse=True)
    (first, second), n, k = codes.reshape(2, -1), codes.size // 2, len(classes)
    cells = np.eye(k * k)[k * first + second]
    value = float(cohen_kappa(cells.sum(0).reshape(k, k)))
    draws = cohen_kappa(bootstrap.resampled_sums(cells).reshape(-1, k, k))
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or n < 2:
        return Estimate(n=n, clusters=n)
    return bootstrap.estimate(value, draws, n, n, (-1, 1))


def _toxicity(scorer: Scorer, texts: Iterable[str], data: str, progress: Progress) -> NDArray[np.float64]:
    return np.array([numbers["toxicity"] for numbers in _scores(scorer, [Item(t) for t in texts], data, progress)])


def _scores(scorer: Scorer, items: Sequence[Item], data: str, progress: Progress) -> list[Numbers]:
    progress.start(f"{scorer.name}, {data}", len(items), unit="texts")
    found = list[Numbers]()
    for start in range(0, len(items), BATCH):
        for numbers in scorer.score(items[start : start + BATCH]):
            if isinstance(numbers, str):
                raise AlignbenchError(f"scorer {scorer.name}: {numbers}")
            found.append(numbers)
            progress.advance()
    return found


def sample(items: list[T], limit: int | None) -> list[T]:
    """At most `limit` of the items in their order, sampled with seed 0."""
    if limit is None or limit >= len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(0).choice(len(items), limit, replace=False))]


def _one_of(row: Row, key: str, *known: str) -> str:
    if row[key] not in known:
        raise ValueError(f"{key} is {row[key]!r}")
    return str(row[key])


def validate_hallucination(
    scorers: Sequence[Scorer], data_dir: Path | None, limit: int | None, progress: Progress
) -> tuple[list[Finding], list[str]]:
    """Return findings on the published metrics and each scorer, and a line per data set whose articles are missing.

    limit: at most N summaries of each data set, sampled with a fixed seed
    """
    findings: list[Finding] = []
    benchmarks = {"frank": _frank(data_dir, limit), "xsum": _xsum(data_dir, limit)}
    for name, (judged, metrics, texts, _) in benchmarks.items():
        published = pd.DataFrame(metrics).drop_duplicates(KEY, keep="last").set_index(KEY)
        for metric in published:
            rows = judged.join(published[metric].rename("value"), on=KEY).dropna(subset="value")
            rows["accepted"] = rows["value"] >= THRESHOLD
            findings += _agreement(f"{metric} (published)", rows, metric in PROBABILITIES)
        keys = pd.Series(list(judged[KEY].itertuples(index=False, name=None)), judged.index)
        keys = keys[keys.isin(texts)]
        for scorer in scorers if len(keys) else ():
            found = _scores(scorer, [texts[key] for key in keys], name, progress)
            # a model's support; without one, ROUGE-2 precision
            values = [own.get("support", own.get("rouge2_precision", float(own["flagged"] == 0))) for own in found]
            rows = judged.loc[keys.index].assign(value=values, accepted=[own["flagged"] == 0 for own in found])
            findings += _agreement(str(ScorerIdentity.of(scorer)), rows, True)
    return findings, [missing for _, _, _, missing in benchmarks.values() if missing is not None]


def _agreement(scorer: str, rows: pd.DataFrame, has_threshold: bool) -> Iterator[Finding]:
    for data, own in rows.groupby("data", sort=False):
        faithful, accepted = own["faithful"], own["accepted"]
        numbers = {
            "AUC": of_two_classes(roc_auc_score, faithful, own["value"]),
            "balanced accuracy": of_two_classes(balanced_accuracy_score, faithful, accepted) if has_threshold else None,
            "Pearson": correlation(own["factual"], own["value"]),
            "Pearson within systems": correlation_within(own["factual"], own["value"], own["system"]),
            "Spearman": correlation(own["factual"], own["value"], stats.spearmanr),
        }
        for metric, value in numbers.items():
            yield Finding(scorer, data, metric, value, len(own))


def _frank(data_dir: Path | None, limit: int | None) -> Benchmark:
    def judge(row: Row) -> Row:
        factual = float(row["Factuality"])
        judged = {"data": f"frank {row['dataset']}", "factual": factual, "faithful": factual == 1.0}
        return {"article": row["hash"], "system": row["model_name"], "split": row["split"]} | judged

    def metrics(row: Row) -> Row:
        return {"article": row["hash"], "system": row["model_name"]} | {name: row[name] for name in FRANK_METRICS}

    def text(row: Row) -> tuple[tuple[str, str], Item]:
        return (row["hash"], row["model_name"]), Item(row["summary"], source=row["article"])

    rows = load("frank", "human_annotations", judge, data_dir=data_dir).items
    judged = sample([row for row in rows if row["split"] == "test"], limit)  # the valid split is for tuning
    published = load("frank", "baseline_metrics", metrics, data_dir=data_dir).items
    texts, missing = _articles("frank", "texts", text, data_dir)
    return pd.DataFrame(judged), published, dict(texts), missing


def _xsum(data_dir: Path | None, limit: int | None) -> Benchmark:
    def annotation(row: Row) -> Row:
        marked = _one_of(row, "hallucination_type", "intrinsic", "extrinsic", "NULL") != "NULL"
        found = {"article": row["bbcid"], "system": row["system"], "worker": row["worker_id"]}
        return found | {"summary": row["summary"].replace("\\'", "'"), "marked": marked}

    def metrics(row: Row) -> Row:
        system, _, article = row["system_bbcid"].rpartition("_")
        scores = {name: float(row[name]) for name in XSUM_METRICS}
        return {"article": article, "system": XSUM_SYSTEMS[system]} | scores

    def article(row: Row) -> tuple[str, str]:
        return str(row["id"]), row["document"]

    rows = pd.DataFrame(load("xsum_hallucination", "annotations", annotation, data_dir=data_dir).items)
    marked = rows.groupby([*KEY, "worker"], sort=False)["marked"].any()
    clean = 1 - marked.groupby(level=KEY, sort=False).mean()  # proportion of annotators who marked nothing
    judged = clean.rename("factual").reset_index().assign(data="xsum", faithful=(clean >= THRESHOLD).to_numpy())
    published = load("xsum_hallucination", "eval_scores", metrics, data_dir=data_dir).items
    articles, missing = _articles("xsum_hallucination", "articles", article, data_dir)
    sources = dict(articles)
    summaries = rows.groupby(KEY)["summary"].last().items()
    texts = {key: Item(summary, source=sources[key[0]]) for key, summary in summaries if key[0] in sources}
    return judged.iloc[sample(list(range(len(judged))), limit)], published, texts, missing


def _articles(
    card_name: str, split: str, parse: Callable[[Row], T], data_dir: Path | None
) -> tuple[list[T], str | None]:
    """The rows of a split, or none and the reason if it is missing. A faulty local file is an error."""
    card = read_card(card_name)
    local = local_files(card, split, data_folder(data_dir))
    try:
        return load(card_name, split, parse, data_dir=data_dir).items, None
    except AlignbenchError as error:
        if local:
            raise
        return [], f"scorers not run on {card_name}: {error} (from {card.homepage})"

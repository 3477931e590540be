"""Instructions outside the bulk of the fine-tuning data: in other languages, and for code.

InstructGPT (arXiv 2203.02155, section 4.3) reports in words that the model follows them to some degree, and that it
often answers in English when asked in another language. These two tasks count what can be told without a judge: the
language of the answer, and whether its Python parses. Neither says that the answer is good.

`instructions_language`: the questions of Vicuna-bench but those on code and mathematics, each with a line in one of
five languages that asks for an answer in it. py3langid, whose model comes with the package, tells the language.
`instructions_code`: instructions of Self-Instruct, MT-bench and Vicuna-bench whose answer is code.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from alignbench.data import load
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import ANSWER_RATE, WORDS
from alignbench.types.engine import Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

REQUESTS = {
    "de": "Antworte auf Deutsch.",
    "es": "Responde en español.",
    "fr": "Réponds en français.",
    "it": "Rispondi in italiano.",
    "zh": "请用中文回答。",
}
# instructions of Self-Instruct whose answer is a program or a part of one, chosen by reading them all
SEED_TASKS = tuple(f"seed_task_{number}" for number in (28, 31, 37, 69, 72, 138, 139, 140, 141))
USER_TASKS = tuple(f"user_oriented_task_{number}" for number in (13, 93, 195, 205, 227))

_OTHER_LANGUAGE = re.compile(r"c\+\+|\b(?:html|java|javascript|ruby|c#|sql)\b", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
# where Python code starts in an answer without fences
_PYTHON = re.compile(
    r"^(?:def \w+\(|class \w+|import \w+|from [\w.]+ import |print\(|@\w+|\w+ = |(?:for|while|if|with) .*:$)",
    re.MULTILINE,
)


def load_language(options: Options) -> TaskData:
    questions = load("mt_bench", "vicuna", _parse_question, data_dir=options.data_dir)
    documents = [
        Document(
            id=f"{number} {language}",
            prompt=f"{question}\n\n{request}",
            target={"language": language},
            group=number,
            category=language,
        )
        for number, category, question in questions.items
        if category not in ("coding", "math")
        for language, request in REQUESTS.items()
    ]
    return TaskData(documents, (questions.provenance,))


def load_code(options: Options) -> TaskData:
    sources = [
        load("self_instruct", "seed_tasks", _parse_task, data_dir=options.data_dir),
        load("self_instruct", "user_oriented", _parse_task, data_dir=options.data_dir),
        load("mt_bench", "questions", partial(_parse_coding, "mt_bench"), data_dir=options.data_dir),
        load("mt_bench", "vicuna", partial(_parse_coding, "vicuna"), data_dir=options.data_dir),
    ]
    documents = [document for source in sources for document in source.items if document is not None]
    return TaskData(documents, tuple(source.provenance for source in sources))


def score_language(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = outputs[0].text.strip()
    language = language_of(text)
    return {
        "asked_language": float(language == document.target["language"]),
        "english": float(language == "en"),
        "answer_rate": float(bool(text)),
        "characters": float(len(text)),
    }


def score_code(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Whether there is code, and where there is Python, whether all blocks of it parse."""
    text = outputs[0].text
    blocks = code_blocks(text)
    found = {"code_rate": float(bool(blocks)), "words": instructgpt.words(text)}
    python = [code for tag, code in blocks if _is_python(tag, code, document.category)]
    return found | ({"python_parses": float(all(map(parses, python)))} if python else {})


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of a text, None for one without letters."""
    import py3langid

    return str(py3langid.classify(text)[0]) if any(character.isalpha() for character in text) else None


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language named at the fence, code) of each fenced block, an unclosed one included. Without fences, the one
    block begins at the first line that looks like Python."""
    blocks = [(tag.lower(), code) for tag, code in _FENCE.findall(text) if code.strip()]
    if blocks or "```" in text:
        return blocks
    start = _PYTHON.search(text)
    return [("", _without_prose(text[start.start() :]))] if start else []


def parses(code: str) -> bool:
    """Whether it is Python by its grammar. Blocks may be indented in an answer's list; nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _without_prose(text: str) -> str:
    """The longest run of lines from the first that is Python, where prose follows; all of the text where none is, or
    where the next line is code too, which then is broken."""
    lines = text.splitlines(keepends=True)
    for end in range(len(lines), 0, -1):
        if parses("".join(lines[:end])):
            following = next((line for line in lines[end:] if line.strip()), "")
            broken = following.startswith((" ", "\t")) or _PYTHON.match(following)
            return text if broken else "".join(lines[:end])
    return text


def _is_python(tag: str, code: str, asked: str | None) -> bool:
    """By the fence's tag; without one, by what was asked for, or where no language was, by how the code looks."""
    if tag:
        return tag in ("python", "py", "python3")
    return asked == "python" or (asked == "any" and _PYTHON.search(textwrap.dedent(code)) is not None)


def _parse_question(row: dict[str, Any], schema: str | None) -> tuple[str, str, str]:
    return str(row["question_id"]), row["category"], row["turns"][0].strip()


def _parse_coding(benchmark: str, row: dict[str, Any], schema: str | None) -> Document | None:
    number, category, question = _parse_question(row, schema)
    return _code_document(f"{benchmark} {number}", question) if category == "coding" else None


def _parse_task(row: dict[str, Any], schema: str | None) -> Document | None:
    if row["id"] not in SEED_TASKS + USER_TASKS:
        return None
    parts = (row["instruction"].strip(), row["instances"][0]["input"].strip())
    return _code_document(row["id"], "\n\n".join(part for part in parts if part))


def _code_document(identifier: str, prompt: str) -> Document:
    asked = "other" if _OTHER_LANGUAGE.search(prompt) else "python" if "python" in prompt.lower() else "any"
    return Document(identifier, prompt, category=asked)


TASKS = (
    Task(
        name="instructions_language",
        version=1,
        title="Answers in the language asked for",
        card="mt_bench",
        metrics=(
            Metric("asked_language", "share", "higher", binary=True),
            Metric("english", "share", "lower", binary=True),
            ANSWER_RATE,
            Metric("characters", "characters", "–", bounds=(0, None)),
        ),
        group="instructions",
        headline="asked_language",
        load=load_language,
        generation=Generation(Sampling(max_tokens=200), score_language),
    ),
    Task(
        name="instructions_code",
        version=1,
        title="Instructions for code: does the Python parse?",
        card="self_instruct",
        metrics=(
            Metric("code_rate", "share", "higher", binary=True),
            Metric("python_parses", "share", "higher", binary=True),
            WORDS,
        ),
        group="instructions",
        headline="python_parses",
        load=load_code,
        generation=Generation(Sampling(max_tokens=400), score_code),
    ),
)

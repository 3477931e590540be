"""Instructions outside the bulk of the fine-tuning data (InstructGPT, arXiv 2203.02155, section 4.3).

Questions of Vicuna-bench, to be answered in one of five languages, and instructions of Self-Instruct, MT-bench and
Vicuna-bench whose answer is code. The quality of the answer is not measured.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from alignbench.data import Row
from alignbench.tasks.common import load_documents, parse_instruction
from alignbench.tasks.declare import PROMPTS, WORDS, generation_task, words
from alignbench.types.task import Document, Options, Output, TaskData

REQUESTS: dict[str, str] = PROMPTS["languages"]  # language -> the request to answer in it
SEED_TASKS = tuple(f"seed_task_{number}" for number in WORDS["code"]["seed_tasks"])
USER_TASKS = tuple(f"user_oriented_task_{number}" for number in WORDS["code"]["user_oriented_tasks"])

_OTHER_LANGUAGE = re.compile(WORDS["code"]["other_language"], re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(WORDS["code"]["python"], re.MULTILINE)


def load_language(options: Options) -> TaskData:
    questions = load_documents("mt_bench", "vicuna", parse_question, options)
    documents = [
        Document(f"{q.id} {language}", f"{q.prompt}\n\n{request}", (), (), None, {"language": language}, q.id, language)
        for q in questions.documents
        if q.category not in ("coding", "math")
        for language, request in REQUESTS.items()
    ]
    return replace(questions, documents=documents)


def load_code(options: Options) -> TaskData:
    sources = [
        load_documents("self_instruct", "seed_tasks", parse_instruction, options),
        load_documents("self_instruct", "user_oriented", parse_instruction, options),
        load_documents("mt_bench", "questions", partial(parse_question, name="mt_bench "), options),
        load_documents("mt_bench", "vicuna", partial(parse_question, name="vicuna "), options),
    ]
    coding = [d for s in sources for d in s.documents if d.category == "coding" or d.id in SEED_TASKS + USER_TASKS]
    documents = []
    for own in coding:
        language = "python" if "python" in own.prompt.lower() else "any"
        documents.append(replace(own, category="other" if _OTHER_LANGUAGE.search(own.prompt) else language))
    return TaskData(documents, tuple(chain(*(source.provenance for source in sources))))


def parse_question(row: Row, name: str = "") -> Document:
    return Document(f"{name}{row['question_id']}", row["turns"][0].strip(), category=row["category"])


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
    """Whether there is code and, if there is Python, whether all its blocks parse."""
    text = outputs[0].text
    blocks = code_blocks(text)
    found = {"code_rate": float(bool(blocks)), "words": words(text)}
    python = [code for tag, code in blocks if _is_python(tag, code, document.category)]
    return found | ({"python_parses": float(all(map(parses, python)))} if python else {})


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of a text, None for a text without letters."""
    import py3langid

    return str(py3langid.classify(text)[0]) if any(character.isalpha() for character in text) else None


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language named at the fence, code) of each fenced block, an unclosed one included. Without fences, the only
    block begins at the first line that looks like Python."""
    blocks = [(tag.lower(), code) for tag, code in _FENCE.findall(text) if code.strip()]
    if blocks or "```" in text:
        return blocks
    start = _PYTHON.search(text)
    return [("", _without_prose(text[start.start() :]))] if start else []


def parses(code: str) -> bool:
    """True for valid Python syntax, also for code indented in a list. The code is not executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _without_prose(text: str) -> str:
    """The longest run of lines from the first that parses, if prose follows; the whole text if no run parses, or if the
    next line is code as well, which is then invalid."""
    lines = text.splitlines(keepends=True)
    for end in range(len(lines), 0, -1):
        if parses("".join(lines[:end])):
            following = next((line for line in lines[end:] if line.strip()), "")
            invalid = following.startswith((" ", "\t")) or _PYTHON.match(following)
            return text if invalid else "".join(lines[:end])
    return text


def _is_python(tag: str, code: str, requested: str | None) -> bool:
    """By the fence's tag, else by the language requested, else by the look of the code."""
    if tag:
        return tag in ("python", "py", "python3")
    return requested == "python" or (requested == "any" and _PYTHON.search(textwrap.dedent(code)) is not None)


TASKS = (
    generation_task("instructions_language", load_language, score_language),
    generation_task("instructions_code", load_code, score_code),
)

"""Parse JSON and YAML from files and servers that may be damaged or hostile. Every problem is a ValueError of one line.

Refused: nesting that Python cannot follow, duplicate keys, NaN and numbers that a float cannot hold, files larger than
LARGEST, pipes and devices, which may never end, and YAML aliases, with which a short file expands to gigabytes. A lone
surrogate, which UTF-8 cannot hold, becomes the replacement character.
"""

from __future__ import annotations

import errno
import json
import math
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    import yaml

LARGEST = 256 * 2**20  # bytes of a file that is read as one object


def finite(text: str) -> float:
    """The number; ValueError for NaN, infinity and numbers that a float cannot hold."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def parse_json(text: str | bytes, *, number: Callable[[str], Any] = finite) -> Any:
    """The value of a JSON text. number: reads what is not an integer, also NaN and 1e999. Raises ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_int, parse_float=number, parse_constant=number)
        escaped = b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower()
        return encodable(value) if escaped else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_line(line: bytes) -> Any:
    """The value of a line of our own files, where speed counts. NaN and deep nesting are refused. Raises ValueError."""
    try:
        return _LINE.decode(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text without tags and aliases. Raises ValueError."""
    import yaml

    try:
        return encodable(yaml.load(text, Loader=_loader()))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from None  # PyYAML fails so on "!!int x" and on 2024-13-45


def read_object(file: Path, *, number: Callable[[str], Any] = finite) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and AlignbenchError for a file that does not contain one."""
    with _reading(file, "JSON"):
        found = parse_json(read_bytes(file), number=number)
    if not isinstance(found, dict):
        raise AlignbenchError(f"{file}: not a JSON object")
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """The YAML mapping in a file, with names as keys. Raises as `read_object` does."""
    with _reading(file, "YAML"):
        found = parse_yaml(read_bytes(file).decode("utf-8-sig"))
    if not isinstance(found, dict):
        raise AlignbenchError(f"{file}: not a mapping of settings (lines of `name: value`)")
    return {str(name): value for name, value in found.items()}


def read_text(file: Path) -> str:
    """The text of a file in UTF-8. Raises as `read_object` does."""
    with _reading(file, "UTF-8"):
        return read_bytes(file).decode()


def read_bytes(file: Path) -> bytes:
    """Raises OSError, and ValueError for a file larger than LARGEST."""
    with open_file(file) as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return content


def find_path(name: str | Path) -> Path:
    """The path that a user named. Raises AlignbenchError for a name that no file or folder can have."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~nobody, a null character
        shown = f"{str(name)[:60]}{'…' * (len(str(name)) > 60)}"
        reason = getattr(error, "strerror", None) or first_line(error)
        raise AlignbenchError(f"{shown}: not the name of a file or folder ({reason})") from None
    return path


def open_file(file: Path) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError, also for a folder, a pipe or a device."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
    except ValueError:  # a null character
        raise OSError(errno.EINVAL, "not the name of a file", str(file)) from None
    return file.open("rb")


@contextmanager
def _reading(file: Path, form: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise AlignbenchError(f"{file}: not valid {form} ({first_line(error)})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def _int(text: str) -> int:
    if len(text) > 300:  # more than a float holds
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


_LINE = json.JSONDecoder(parse_constant=finite)


def encodable(value: Any) -> Any:
    """The same value with the replacement character for each lone surrogate."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return {encodable(key): encodable(item) for key, item in value.items()} if isinstance(value, dict) else value


def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not supported")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                raise yaml.YAMLError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
            return super().construct_mapping(node, deep)

    return Loader

"""Parse JSON and YAML from files and servers that may be damaged or hostile. Every problem is a ValueError of one line.

Refused: nesting that Python cannot follow, duplicate keys, NaN and infinity (unless they are allowed), files larger
than LARGEST, and YAML aliases, with which a short file expands to gigabytes. A lone surrogate, which UTF-8 cannot hold,
becomes the replacement character.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    import yaml

LARGEST = 256 * 2**20  # bytes of a file that is read as one object


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON text. finite: refuse NaN and infinity. Raises ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse if finite else None)
        escaped = b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower()
        return _encodable(value) if escaped else value
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
        return _encodable(yaml.load(text, Loader=_loader()))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_object(file: Path, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and AlignbenchError for a file that does not contain one."""
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise ValueError(f"{size} bytes, more than {LARGEST}")
        found = parse_json(file.read_bytes(), finite=finite)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise AlignbenchError(f"{file}: not valid JSON ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise AlignbenchError(f"{file}: not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


_LINE = json.JSONDecoder(parse_constant=_refuse)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


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

"""YAML from files and options that may come from anywhere: plain data only, and not more of it than is written."""

from typing import Any

import yaml

from weightspace.errors import InputError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH = 100
_GROWTH = 10_000  # values that repeated parts (aliases) may stand for, beyond what is written


def parse_yaml(text: str, what: str) -> Any:
    """YAML as data: mappings, lists, numbers, text; no tag makes anything else.

    Args:
        text: The YAML.
        what: Where it stands, for the error.

    Raises:
        InputError: It is no YAML, is nested too deeply, contains itself, or repeats parts without end.
    """
    loader = _Loader(text)
    try:
        _require_shallow(text, what)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_bounded(node, len(text), what)
        return loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as error:  # dates that do not exist, keys that are lists
        raise InputError(f"{what} is not YAML that can be read ({' '.join(str(error).split())}): correct it") from error
    finally:
        loader.dispose()


def _require_shallow(text: str, what: str) -> None:
    """Refuse deep nesting before it is parsed: libyaml's loader recurses in C, and would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise InputError(f"{what} is nested more than {_DEPTH} levels deep: write it with fewer levels")


def _require_bounded(root: yaml.Node, length: int, what: str) -> None:
    """Refuse aliases that contain themselves, or that stand for far more than is written."""
    sizes: dict[int, int | None] = {}  # None while the node is looked at

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise InputError(f"{what} contains itself (an alias inside its own anchor): write it without aliases")
            return known
        sizes[id(node)] = None
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in children for part in pair] if isinstance(node, yaml.MappingNode) else children
        sizes[id(node)] = total = 1 + sum(map(size, parts))
        return total

    if size(root) > length + _GROWTH:
        raise InputError(f"{what} repeats its parts (aliases) until they fill the memory: write it without aliases")

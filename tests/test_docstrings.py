"""Every name that users meet is explained, in lines that can be read alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SECTIONS = ("Args", "Raises", "Attributes")
ENTRY = re.compile(r"^[\w.*, ]+?(?: \([^)]*\))?: (?P<text>.+)$", re.DOTALL)
START = re.compile(r"[A-Z0-9`(\"'|*±≥0-9]")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Public classes and functions of a module, and the public methods of its classes."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, Definition) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def entries(docstring: str) -> Iterator[str]:
    """The lines below "Args:" and "Raises:", each joined with its continuation."""
    section, current, level = "", "", 0
    for line in [*docstring.splitlines(), ""]:
        heading = re.fullmatch(r"\s*(\w+):", line)
        indent = len(line) - len(line.lstrip())
        if heading or not line.strip():
            if current:
                yield current
            current = ""
            section = heading[1] if heading else "" if not line.strip() else section
        elif section in SECTIONS:
            if ENTRY.match(line.strip()) and (not current or indent == level):
                if current:
                    yield current
                current, level = line.strip(), indent
            else:
                current += " " + line.strip()


def faults(text: str, *, inherited: set[str] = frozenset()) -> list[str]:  # pyright: ignore[reportArgumentType]
    """What a module's docstrings lack.

    Args:
        inherited: Names of methods that a protocol explains.
    """
    tree, wrong = ast.parse(text), []
    if not ast.get_docstring(tree):
        wrong.append("the module has no docstring")
    for name, node in definitions(tree):
        docstring = ast.get_docstring(node)
        short = name.rpartition(".")[2]
        overload = any("overload" in ast.unparse(d) or ".setter" in ast.unparse(d) for d in node.decorator_list)
        if not docstring:
            if not overload and not ("." in name and short in inherited):
                wrong.append(f"{name} (line {node.lineno}) has no docstring")
            continue
        for entry in entries(docstring):
            match = ENTRY.match(entry)
            if "," in entry.partition(":")[0] and "Error" not in entry.partition(":")[0]:
                wrong.append(f"{name} (line {node.lineno}): {entry!r} explains several arguments: give each a line")
                continue
            if match is None or not START.match(match["text"]) or not entry.rstrip().endswith((".", "?", ":")):
                wrong.append(f"{name} (line {node.lineno}): {entry!r} is no noun phrase or sentence with a full stop")
    return wrong


def protocol_methods(paths: list[Path]) -> set[str]:
    """Public methods that a Protocol or an abstract class of the package explains."""
    names: set[str] = set()
    for path in paths:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                names |= {m.name for m in node.body if isinstance(m, Definition) and ast.get_docstring(m)}
    return names


PACKAGE = Path(__file__).parent.parent / "weightspace"
PATHS = sorted(PACKAGE.rglob("*.py"))
EXPLAINED = protocol_methods(PATHS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_name_is_explained(path: Path) -> None:
    assert faults(path.read_text(), inherited=EXPLAINED) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1", "the module has no docstring"),
        ('"""M."""\ndef f(): ...', "f .* has no docstring"),
        ('"""M."""\nclass A:\n    """A."""\n    def f(self): ...', "A.f .* has no docstring"),
        ('"""M."""\ndef f(x):\n    """F.\n\n    Args:\n        x: of the thing.\n    """', "of the thing"),
        (
            '"""M."""\ndef f(x):\n    """F.\n\n    Args:\n        x: Size of the\n            thing\n    """',
            "full stop",
        ),
    ],
)
def test_a_missing_explanation_is_found(text: str, fault: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert re.search(fault, found[0])


def test_good_docstrings_pass() -> None:
    good = '"""M."""\ndef f(x, y):\n    """F.\n\n    Args:\n        x: Size of it: in\n            metres.\n'
    good += "        y: `None` for no limit."
    good += '\n\n    Raises:\n        InputError: The size is negative.\n    """'
    assert faults(good) == []

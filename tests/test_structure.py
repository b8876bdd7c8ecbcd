"""Imports go one way, and everything imported is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

# A module may import from its own level and from those before it.
LEVELS: list[set[str]] = [
    {"errors"},
    {"runtime", "storage", "models", "recipes"},
    {"networks", "report"},
    {"masks", "tasks", "symmetry", "compress", "flow", "kernels"},
    {"training", "align", "sparse"},
    {"tickets", "generator", "evaluation"},
    {"bayes"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, level in enumerate(LEVELS) for name in level}


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def inner(path: Path) -> set[str]:
    """First-level weightspace modules that a file imports."""
    names: set[str] = set()
    for node in imports(path):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.ImportFrom) and node.module == "weightspace":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("weightspace."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("weightspace.")}
    return names


def back_edges(files: dict[str, list[Path]]) -> list[str]:
    return [
        f"{path.name} ({unit}) imports {target}"
        for unit, paths in files.items()
        for path in paths
        for target in inner(path)
        if target != unit and RANK[target] > RANK[unit]
    ]


def units(root: Path) -> dict[str, list[Path]]:
    package = root / "weightspace"
    files: dict[str, list[Path]] = {}
    for path in package.rglob("*.py"):
        unit = path.relative_to(package).parts[0].removesuffix(".py")
        if unit != "__init__":
            files.setdefault(unit, []).append(path)
    return files


def test_no_module_imports_from_a_later_one(root: Path) -> None:
    found = units(root)
    assert set(found) == set(RANK), "a new module needs its place in LEVELS"
    assert back_edges(found) == []


def test_a_back_edge_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "layout.py"
    path.write_text("def f():\n    from weightspace.evaluation import evaluate\n")
    assert back_edges({"networks": [path]}) == ["layout.py (networks) imports evaluation"]


def test_every_imported_package_is_a_declared_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[ ]", line)[0] for line in project["dependencies"]}
    package = {"lap": "lapx", "sklearn": "scikit-learn", "yaml": "pyyaml", "pyro": "pyro-ppl"}
    used: set[str] = set()
    for path in (root / "weightspace").rglob("*.py"):
        for node in imports(path):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            used |= {m.split(".")[0] for m in modules}
    used -= {"ray", "huggingface_hub", "onnxruntime", "onnxscript"}  # extras
    used -= set(sys.stdlib_module_names) | {"weightspace"}
    assert {package.get(name, name) for name in used} <= declared
    pinned = {
        line.split("==")[0].lower() for line in (root / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert {name.lower() for name in declared} <= pinned


def test_public_names_are_reexported_explicitly(root: Path) -> None:
    tree = ast.parse((root / "weightspace" / "__init__.py").read_text())
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        assert all(alias.asname == alias.name for alias in node.names), ast.unparse(node)


def test_files_stay_readable(root: Path) -> None:
    long = {p.name: n for p in (root / "weightspace").rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_what_takes_seconds_to_import_waits_until_it_is_used() -> None:
    code = "import sys, weightspace; print([name in sys.modules for name in ('torchvision', 'pyro', 'torch')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[False, False, True]"

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
    {"networks", "report", "trackers"},
    {"masks", "tasks", "symmetry", "compress", "flow", "kernels"},
    {"training", "align", "sparse"},
    {"control", "language", "tickets", "generator", "evaluation"},
    {"adapt", "bayes", "hub", "sklearn"},
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
    used -= {"ray", "huggingface_hub", "onnxruntime", "onnxscript", "tokenizers", "wandb"}  # extras
    used -= {"lightning", "transformers"}  # whose users have them, as those of timm
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


def test_what_takes_seconds_to_import_waits_until_it_is_used(root: Path) -> None:
    code = f"""
import sys, torch, weightspace
networks = weightspace.Collection.load({str(root / "tests/compat/v0_1/done/gradual")!r})
assert networks.weights.any() and networks.densities.all()
heavy = "torchvision pyro ray matplotlib sklearn scipy jinja2 torchdiffeq tyro transformers huggingface_hub".split()
print([name for name in heavy if name in sys.modules], "torch" in sys.modules)
m = torch.nn
weightspace.symmetry.trace(m.Sequential(m.Linear(3, 4), m.ReLU(), m.Linear(4, 2)), torch.eye(3))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])  # two thirds of a first trace, once
weightspace.evaluation.collection_page(networks)
print([name for name in heavy if name in sys.modules])  # the control
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[] True", "[]", "['matplotlib', 'scipy']"]


# Modules that import from this package inside a function, and why; anything else hides a circle or a level.
LATE = {
    "weightspace.cli.bayes": "Pyro takes seconds to import, which other verbs need not wait for",
    "weightspace.sklearn.__init__": "scikit-learn takes a second to import, which is for those who ask for it",
}


def late_imports(path: Path) -> list[str]:
    """Imports from this package that are made inside functions."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) and own(node)]


def own(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Modules of this package that a statement may import: `from a import b` may mean a.b."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "weightspace"]


def module_graph(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports; of `from package import module` the module, not the package."""
    paths = {}
    for path in (root / "weightspace").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        graph[name] = set()
        for node in imports(path):
            targets = [target for target in own(node) if target in paths]
            graph[name] |= set(targets[1:] or targets) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Paths of imports that come back to where they began."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def test_no_import_hides_inside_a_function(root: Path) -> None:
    found = {
        ".".join(path.relative_to(root).with_suffix("").parts): late
        for path in (root / "weightspace").rglob("*.py")
        if (late := late_imports(path))
    }
    assert set(found) <= set(LATE), found


def test_modules_import_in_no_circle(root: Path) -> None:
    assert circles(module_graph(root)) == []


def test_circles_and_hidden_imports_would_be_found(tmp_path: Path) -> None:
    package = tmp_path / "weightspace"
    package.mkdir()
    (package / "__init__.py").write_text("from weightspace.a import a as a\n")
    (package / "a.py").write_text("from weightspace import b\n")
    (package / "b.py").write_text("from weightspace.c import c\n")
    (package / "c.py").write_text("def c():\n    from weightspace.a import a\n")
    assert circles(module_graph(tmp_path)) == [["weightspace.a", "weightspace.b", "weightspace.c", "weightspace.a"]]
    assert late_imports(package / "c.py") == ["from weightspace.a import a"]
    (package / "c.py").write_text("c = 1\n")
    assert circles(module_graph(tmp_path)) == []


LONGEST = 60  # lines of a function, its docstring not counted


def function_lengths(text: str) -> dict[str, int]:
    """Lines of each function, without its docstring."""
    lengths: dict[str, int] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            skipped = (first.end_lineno or 0) - first.lineno + 1 if docstring else 0
            lengths[node.name] = (node.end_lineno or 0) - node.lineno + 1 - skipped
    return lengths


def test_functions_fit_a_screen(root: Path) -> None:
    long = {
        f"{path.name}: {name}": lines
        for path in (root / "weightspace").rglob("*.py")
        for name, lines in function_lengths(path.read_text()).items()
        if lines > LONGEST
    }
    assert long == {}


def test_a_long_function_would_be_found() -> None:
    text = "def f():\n" + '    """D."""\n' + "    x = 1\n" * LONGEST
    assert function_lengths(text) == {"f": LONGEST + 1}


def test_the_root_of_the_package_is_nearly_empty(root: Path) -> None:
    assert {path.name for path in (root / "weightspace").glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_the_design_page_names_the_levels(root: Path) -> None:
    text = (root / "docs" / "design.md").read_text()
    rows = [re.findall(r"`(\w+)`", line.split("|")[2]) for line in re.findall(r"^\| \d+ \|.*$", text, re.MULTILINE)]
    assert [set(row) for row in rows] == [level - {"__main__"} for level in LEVELS if level != {"__main__"}]

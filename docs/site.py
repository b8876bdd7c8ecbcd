"""A hook of mkdocs: writes the reference from what the packages export, runs the tutorials, and takes the changelog.

An export without a docstring stops the build, and so does a tutorial that fails.
"""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from scripts import CellFailed, cached

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "docs" / "tutorials"
PACKAGES = (
    "tasks", "models", "recipes", "networks", "training", "masks", "tickets", "symmetry", "align", "compress", "flow",
    "generator", "evaluation", "report", "sparse", "bayes", "trackers", "hub", "storage", "runtime",
)  # fmt: skip
TUTORIALS = (
    "first-generator", "own-network-and-loop", "which-ticket-finder", "bayesian-ticket", "drawing",
)  # fmt: skip


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    for entry in config.nav or []:
        if "Results" in entry:
            pages = sorted(path.name for path in (ROOT / "docs" / "results").glob("*.md") if path.name != "index.md")
            entry["Results"] = ["results/index.md", *({title(f"results/{name}"): f"results/{name}"} for name in pages)]
        elif "Tutorials" in entry:
            entry["Tutorials"] = ["tutorials/index.md", *(f"tutorials/{name}.md" for name in TUTORIALS)]
        elif "Reference" in entry:
            entry["Reference"] = ["reference/index.md", *(f"reference/{name}.md" for name in PACKAGES if exports(name))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the changelog, a page for each package, and the tutorials with their pictures."""
    pages = {"changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "reference/index.md": overview()}
    pages |= {f"reference/{name}.md": page(name) for name in PACKAGES if exports(name)}
    contents: dict[str, str | bytes] = {**pages}
    for name in TUTORIALS:
        try:
            tutorial = cached(SCRIPTS / f"{name}.py", ROOT / "weightspace", ROOT / "build" / "tutorials")
        except CellFailed as failure:
            raise PluginError(str(failure)) from failure
        contents[f"tutorials/{name}.md"] = tutorial.text
        contents |= {f"tutorials/{picture}": png for picture, png in tutorial.pictures.items()}
        files.remove(files.src_uris[f"tutorials/{name}.py"])  # the script itself is no page
    for path, content in contents.items():
        files.append(File.generated(config, path, content=content))
    return files


def title(page: str) -> str:
    """The heading of a page."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("# ") for line in lines if line.startswith("# "))


def exports(package: str) -> dict[str, str]:
    """Full names of what a package exports, by the names it exports them under."""
    tree = ast.parse((ROOT / "weightspace" / package / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def defined(name: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The class or function of a full name; None for a constant or a module."""
    module, _, short = name.rpartition(".")
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        return None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == short:
            return node
    return None


def summary(name: str) -> str:
    """The first paragraph of a definition's docstring."""
    node = defined(name)
    docstring = ast.get_docstring(node) if node else None
    if node and not docstring:
        raise PluginError(f"{name} is exported and has no docstring")
    paragraph = " ".join((docstring or "").partition("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def docstring_of(package: str) -> str:
    """What a package is for."""
    return (ast.get_docstring(ast.parse((ROOT / "weightspace" / package / "__init__.py").read_text())) or "").strip()


def page(package: str) -> str:
    """The reference of a package: a table of its names, then each of them."""
    names = exports(package)
    rows = [f"| [`{short}`][{full}] | {summary(full)} |" for short, full in names.items() if defined(full)]
    head = [f"# weightspace.{package}", "", docstring_of(package), "", "| name | what it is |", "|---|---|", *rows, ""]
    home = f"weightspace.{package}."  # a name that another package exports too is explained there
    return "\n".join([*head, *(f"::: {full}" for full in names.values() if defined(full) and full.startswith(home))])


def overview() -> str:
    """All packages with what they are for, and the names at the top."""
    tree = ast.parse((ROOT / "weightspace" / "__init__.py").read_text(encoding="utf-8"))
    top = [
        (alias.name, node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "weightspace"
        for alias in node.names
    ]
    lines = ["# Reference", "", "Generated from the docstrings. `import weightspace as ws` gives these names:", ""]
    lines += [", ".join(f"`ws.{name}`" for name, _ in top) + ".", "", "| package | what it is for |", "|---|---|"]
    lines += [
        f"| [weightspace.{name}]({name}.md) | {docstring_of(name).splitlines()[0]} |"
        for name in PACKAGES
        if exports(name)
    ]
    return "\n".join(lines)

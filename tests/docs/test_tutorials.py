"""The tutorials run, with small settings; and the converter shows what a script does and stops at what fails."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

SMALLER = {
    "first-generator": {
        "n = 80": "n = 8",
        "held_out = 16": "held_out = 2",
        "refinement = 1000": "refinement = 5",
        "steps=1000": "steps=20, width=8",
        "PCA(16)": "PCA(3)",
        "hidden=(32,)": "hidden=(6,)",
        '"15ep", batch': '"2it", batch',
        'of("15ep")': 'of("30it")',
        "sample(50,": "sample(4,",
    },
    "own-network-and-loop": {
        "n = 3": "n = 2",
        '"20ep"': '"2it"',
        "loop_steps = 600": "loop_steps = 25",
        "16, 3, p": "4, 3, p",
        "Conv2d(16, 32": "Conv2d(4, 8",
        "Linear(512": "Linear(128",
        "subplots(2, 8": "subplots(1, 4",
        "rate=0.6": "rate=0.9",
    },
    "which-ticket-finder": {
        "n = 3": "n = 2",
        '"10ep"': '"30it"',
        "(128, 64)": "(8, 6)",
        "0.05, 0.01": "0.1",
        "rate=0.6": "rate=0.9",
    },
    "bayesian-ticket": {
        "n = 3": "n = 2",
        "draws = 20": "draws = 2",
        '"15ep"': '"2it"',
        "(64,)": "(6,)",
        "rate=0.6": "rate=0.9",
    },
    "drawing": {
        "n = 300": "n = 24",
        "steps = 1000": "steps = 20",
        "PCA(32)": "PCA(4)",
        '"0123456789"': '"01"',
        "[n : 2 * n])": "[n : 2 * n], recipe=ws.Recipe('2it', batch_size=64))",
    },
}


@pytest.fixture(scope="module")
def scripts(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_scripts", root / "docs" / "scripts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SMALLER)
def test_a_tutorial_runs_and_has_pictures(name: str, root: Path, scripts: ModuleType) -> None:
    script = (root / "docs" / "tutorials" / f"{name}.py").read_text()
    assert 60 <= len(script.splitlines()) <= 125
    assert script.count("# %% [markdown]\n# # ") == 1  # one title, which the navigation shows
    for written, smaller in SMALLER[name].items():
        assert written in script
        script = script.replace(written, smaller)
    page = scripts.run(script, name, dpi=20)
    assert len(page.pictures) >= 2
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures.values())
    shown = re.findall(r"!\[(.+)\]\((.+\.png)\)", page.text)  # each with a title
    assert [file for _, file in shown] == list(page.pictures)
    assert "```text" in page.text
    assert "# %%" not in page.text


def test_every_tutorial_is_tested_and_has_its_place_on_the_site(root: Path) -> None:
    names = {script.stem for script in (root / "docs" / "tutorials").glob("*.py")}
    assert names == set(SMALLER)
    site, index = (root / "docs" / "site.py").read_text(), (root / "docs" / "tutorials" / "index.md").read_text()
    assert all(f'"{name}"' in site and f"]({name}.md)" in index for name in names)


STORY = '''"""Not shown."""

# %% [markdown]
# # A title
#
# Some text.

# %%
a = 2
print(a + 1)

# %%
import matplotlib.pyplot as plt
plt.plot([a, a])
plt.title("A line")
'''


def test_a_page_has_text_code_output_and_figures(scripts: ModuleType) -> None:
    page = scripts.run(STORY, "story")
    assert page.text.startswith("# A title\n\nSome text.\n\n```python\na = 2\nprint(a + 1)\n```\n\n```text\n3\n```\n")
    assert page.text.endswith("![A line](story-1.png)\n")
    assert page.pictures["story-1.png"].startswith(b"\x89PNG")
    assert "Not shown" not in page.text


@pytest.mark.parametrize("failing", ["1 / 0", "assert a == 3", "def broken(:"])
def test_a_cell_that_fails_fails_the_page(failing: str, scripts: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "story.py"
    script.write_text(f"{STORY}\n# %%\n{failing}\n")
    with pytest.raises(scripts.CellFailed, match=r"story\.py, cell 4 fails: \w+Error"):
        scripts.cached(script, tmp_path / "library", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))  # nor is it kept


def test_a_page_is_made_again_only_when_something_has_changed(scripts: ModuleType, tmp_path: Path) -> None:
    script, library, cache = tmp_path / "story.py", tmp_path / "library", tmp_path / "cache"
    library.mkdir()
    (library / "module.py").write_text("b = 1")
    ran = tmp_path / "ran"
    script.write_text(f"{STORY}\n# %%\nwith open({str(ran)!r}, 'a') as file:\n    file.write('x')\n")
    first = scripts.cached(script, library, cache)
    again = scripts.cached(script, library, cache)
    assert (again.text, again.pictures, ran.read_text()) == (first.text, first.pictures, "x")
    (library / "module.py").write_text("b = 2")
    scripts.cached(script, library, cache)
    assert ran.read_text() == "xx"
    script.write_text(script.read_text().replace("Some text", "Other text"))
    assert "Other text" in scripts.cached(script, library, cache).text
    assert ran.read_text() == "xxx"
    assert len(list(cache.iterdir())) == 1

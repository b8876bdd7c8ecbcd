"""What random command lines found: each kind has a message that says what to do."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.fuzz import world
from experiments.fuzz.commands import inside, judge
from experiments.fuzz.outcomes import run_main
from weightspace.cli.main import main
from weightspace.runtime.user_code import place_of

FOUND = {
    "folders that are no evaluations": ("show dense saved", "give one folder"),
    "a page of no report": ("show generator --html new.html", "leave --html out"),
    "a table of no collection": ("show generator --csv new.csv", "leave --csv out"),
    "another task's data": ("train tickets --out new --length 1it --task wine", "the task that it is for"),
    "a task that is no function": (
        "train tickets --out new --length 1it --task own_code:number --import-from .",
        "give the name of a function",
    ),
    "a task with arguments": ("train tickets --out new --length 1it --task json:loads", "it must take no arguments"),
    "a factory that raises": (
        "show dense --factory own_code:raises --import-from .",
        "it must build the network",
    ),
    "a factory of something else": ("show dense --factory own_code:task --import-from .", "return the network"),
    "too short to prune": ("tickets gradual dense --out new --length 1it --every 1", "give a greater length"),
    "a late rewind": ("tickets imp dense --out new --rewind 1ep", "choose an earlier step"),
    "a network without its arguments": ("import states --out new --model MLP", "give the arguments that it takes"),
    "an unknown condition": ("sample generator --out new --n 2 --density 0.5 --condition a=1", "leave it out"),
    "YAML that is none": ("import states --out new --model MLP --arguments {a:[1]}", "correct it"),
    "a state dict that is none": (
        "import broken --out new --model MLP --arguments '{sizes: [4, 4, 3]}'",
        "restore it from a copy",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> world.World:
    made = world.make(tmp_path_factory.mktemp("found") / "world", everything=False)
    (made.root / "broken").mkdir()
    (made.root / "broken" / "0.safetensors").write_bytes(b"no")
    return made


@pytest.mark.parametrize(("words", "remedy"), FOUND.values(), ids=FOUND)
def test_the_message_says_what_to_do(words: str, remedy: str, place: world.World) -> None:
    parts = shlex.split(words)
    with inside(place.root):
        ended = run_main(main, parts)
        assert judge(ended) == ("refused", None)
        assert remedy in ended.text
        assert not Path("new").exists()


@pytest.mark.parametrize(("folder", "words"), [("pca", "components explain"), ("flow", "flow: FlowMatching")])
def test_a_stage_of_its_own_is_shown_and_verified(folder: str, words: str, place: world.World) -> None:
    with inside(place.root):
        ended = run_main(main, ["show", folder, "--verify"])
    assert ended.how == "done"
    assert ended.output.startswith(f"verified {folder}: 2 files")
    assert words in ended.output


def test_a_compiled_library_is_not_the_users_own_code() -> None:
    def raised(filename: str) -> BaseException:
        code: Callable[[], None] = eval(compile("lambda: 1 / 0", filename, "eval"))
        try:
            code()
        except ZeroDivisionError as error:
            return error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
        raise AssertionError

    assert place_of(raised("yaml/_yaml.pyx")) is None
    assert "mine.py:1" in str(place_of(raised("/somewhere/mine.py")))

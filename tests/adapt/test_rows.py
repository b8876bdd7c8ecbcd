"""Rows of an embedding: the statistic against SciPy, rankings, partial tuning and transfer, tied decoders."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

import weightspace as ws
from tests.adapt.conftest import RECIPE
from weightspace import adapt
from weightspace.adapt.rows import ks_statistic

TOKENS, WIDTH = 12, 6
PLAIN = replace(RECIPE, optimizer=ws.Adam(lr=0.01))  # decay would move tokens that never occur


class Words(nn.Module):
    """The class of a text: a layer on the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


class Tied(nn.Module):
    """The next token, by the embedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.decoder = nn.Linear(WIDTH, TOKENS, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.embedding(x).mean(1))


@pytest.fixture(scope="module")
def texts() -> tuple[Tensor, Tensor]:
    """Texts of tokens 0 to 8; later ones are rarer, and 9 to 11 do not occur."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(60, 5, generator=draw).square() * 9).long()
    return x, (x.sum(1) > 14).long()


@pytest.fixture(scope="module")
def words(texts: tuple[Tensor, Tensor]) -> ws.Task:
    return ws.tasks.from_tensors("words", *texts, network=Words, recipe=PLAIN)


@pytest.fixture(scope="module")
def before(words: ws.Task) -> ws.Collection:
    return ws.starts(ws.collect(words, 2, seed=0))


@pytest.fixture(scope="module")
def tuned(words: ws.Task, before: ws.Collection) -> ws.Collection:
    return adapt.Rows("embedding.weight", count=1).tune(before, words)


@pytest.mark.parametrize("digits", [0, 8])
def test_the_statistic_is_scipys_ties_included(digits: int) -> None:
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 5, 30, generator=draw, dtype=torch.float64).round(decimals=digits) for _ in "ab")
    second[0, 0] = first[0, 0].flip(0)  # another order is no other distribution
    found = ks_statistic(first, second)
    for i in range(2):
        for j in range(5):
            theirs: Any = ks_2samp(first[i, j], second[i, j], method="asymp")
            assert float(found[i, j]) == pytest.approx(float(theirs.statistic))
    assert float(found[0, 0]) == 0
    assert (found[1] > 0).all()


def test_rows_are_ranked_by_what_is_asked(
    before: ws.Collection, tuned: ws.Collection, texts: tuple[Tensor, Tensor]
) -> None:
    tokens, layout = texts[0], before.layout
    change = layout.tensors(tuned.weights - before.weights)["embedding.weight"]
    assert not layout.tensors(tuned.weights - before.weights)["head.weight"].any()  # the embedding alone is tuned
    assert not change[:, 9:].any()
    by_norm = adapt.Rows("embedding.weight", by="norm", count=3).chosen(before, tuned, tokens)
    for i in range(2):
        assert set(by_norm[i].nonzero()[:, 0].tolist()) == set(change[i].norm(dim=-1).topk(3).indices.tolist())
    frequent = adapt.Rows("embedding.weight", by="count", count=3).chosen(before, tuned, tokens)
    assert set(frequent[0].nonzero()[:, 0].tolist()) == set(tokens.flatten().bincount().topk(3).indices.tolist())
    random = adapt.Rows("embedding.weight", by="random", count=8).chosen(before, tuned, tokens)
    assert random.sum(1).tolist() == [8, 8]
    assert not random[:, 9:].any()
    loose, strict = (adapt.Rows("embedding.weight", level=level).chosen(before, tuned) for level in (0.999, 0.01))
    assert loose.sum() >= strict.sum()
    with pytest.raises(ws.InputError, match="20 rows are asked for, and the tokens use 9"):
        adapt.Rows("embedding.weight", count=20).chosen(before, tuned, tokens)
    with pytest.raises(ws.InputError, match="needs tokens="):
        adapt.Rows("embedding.weight", by="count", count=1).chosen(before, tuned)


def test_partial_transfer_and_partial_tuning_change_these_rows_alone(
    before: ws.Collection, tuned: ws.Collection, words: ws.Task, texts: tuple[Tensor, Tensor]
) -> None:
    rows = adapt.Rows("embedding.weight", count=3)
    chosen = rows.chosen(before, tuned, texts[0])
    for vectors in (rows.transfer(before, tuned, texts[0]), rows.find(before, words, tuned, texts[0])):
        changes = before.layout.tensors(vectors.weights)
        assert changes["embedding.weight"][chosen].any()
        assert not changes["embedding.weight"][~chosen].any()
        assert not changes["head.weight"].any()
        assert torch.equal(vectors.on(before).weights[~vectors.trained], before.weights[~vectors.trained])
    everything = adapt.Rows("embedding.weight", count=9).transfer(before, tuned, texts[0])
    torch.testing.assert_close(everything.on(before).weights, tuned.weights)


def test_agreement_is_the_share_of_equal_predictions(
    before: ws.Collection, tuned: ws.Collection, words: ws.Task
) -> None:
    assert adapt.agreement(tuned, tuned, words) == [1.0, 1.0]
    layout = tuned.layout
    opposite = tuned.weights.clone()
    opposite[:, layout.slices["head.weight"]] *= -1
    opposite[:, layout.slices["head.bias"]] *= -1
    assert adapt.agreement(tuned, tuned.replace(weights=opposite), words) == [0.0, 0.0]
    x = words.validation.x
    assert isinstance(x, Tensor)
    first, second = ([one.module(i)(x).argmax(1) for i in range(2)] for one in (before, tuned))
    own = [(a == b).double().mean().item() for a, b in zip(first, second, strict=True)]
    assert adapt.agreement(before, tuned, words, split="validation") == pytest.approx(own)
    with pytest.raises(ws.InputError, match="as many networks, got 1 and 2"):
        adapt.agreement(before, tuned[:1], words)


def test_tied_decoders_are_untied_first(texts: tuple[Tensor, Tensor]) -> None:
    task = ws.tasks.from_tensors("next", texts[0], texts[0][:, 0], network=Tied, recipe=RECIPE)
    tied = ws.starts(ws.collect(task, 1, seed=0))
    with pytest.raises(ws.InputError, match="tied to decoder.weight.*Untie it first"):
        adapt.Rows("embedding.weight", count=1).chosen(tied, tied)
    apart = adapt.untie(tied, "embedding.weight")
    assert torch.equal(apart.module(0)(texts[0]), tied.module(0)(texts[0]))
    assert apart.layout.size == 2 * tied.layout.size
    assert adapt.Rows("embedding.weight", count=1).chosen(apart, apart).shape == (1, TOKENS)
    with pytest.raises(ws.InputError, match="name must be that of a tied tensor"):
        adapt.untie(apart, "embedding.weight")


def test_what_does_not_fit_is_refused(before: ws.Collection, words: ws.Task) -> None:
    with pytest.raises(ws.InputError, match=r"there are embedding\.weight, head\.weight"):
        adapt.Rows("embeddings", count=1).chosen(before, before)
    with pytest.raises(ws.InputError, match="give a number of rows"):
        adapt.Rows("embedding.weight")
    with pytest.raises(ws.InputError, match="belongs to by='ks'"):
        adapt.Rows("embedding.weight", by="norm", level=0.05)
    none = torch.zeros(before.weights.shape, dtype=torch.bool)
    with pytest.raises(ws.InputError, match="no entry to train"):
        adapt.train_only(before, words, none)

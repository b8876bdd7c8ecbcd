"""Overlaps and explained shares of known cases."""

import math

import numpy as np
import pytest
import torch

from tests.evaluation.cases import explained
from weightspace.evaluation.metrics import novelty
from weightspace.evaluation.neighbours import largest_error_overlap
from weightspace.masks.overlap import overlap_matrix


def test_error_overlap_of_known_cases() -> None:
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert novelty.error_iou(a, b).tolist() == [[pytest.approx(1 / 3), 0.0], [0.0, 1.0]]
    assert novelty.error_iou(a, a)[0, 0] == 1
    assert largest_error_overlap(a, a, itself=True).first.tolist() == [0.0, 0.0]
    assert largest_error_overlap(a, a, itself=False).first.tolist() == [1.0, 1.0]


def test_independent_errors_overlap_by_chance() -> None:
    random = torch.Generator().manual_seed(0)
    wrong = torch.rand(6, 50_000, generator=random) < torch.linspace(0.05, 0.3, 6)[:, None]
    assert novelty.off_diagonal(novelty.error_iou(wrong, wrong)) == pytest.approx(novelty.chance_iou(wrong), rel=0.03)
    assert math.isnan(novelty.chance_iou(wrong[:1]))


def test_mask_overlap_of_known_cases() -> None:
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]).bool()
    assert overlap_matrix(masks, masks)[0].tolist() == [1.0, 0.5, 0.0]
    random = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0)) < 0.1
    assert overlap_matrix(random[:1], random[1:]).item() == pytest.approx(0.1, abs=0.02)  # chance


def test_what_few_networks_explain() -> None:
    random = torch.Generator().manual_seed(0)
    bases = torch.randn(3, 4, 50, generator=random)
    inside = torch.einsum("nk,nkd->nd", torch.randn(3, 4, generator=random), bases)
    apart = torch.randn(3, 50, generator=random)
    assert explained(inside, bases).tolist() == pytest.approx([1, 1, 1])
    for i, share in enumerate(explained(apart, bases).tolist()):
        fit, *_ = np.linalg.lstsq(bases[i].T.double().numpy(), apart[i].double().numpy(), rcond=None)
        left = apart[i].double().numpy() - bases[i].T.double().numpy() @ fit
        assert share == pytest.approx(1 - (left**2).sum() / (apart[i].double() ** 2).sum().item())
    twice = bases.clone()
    twice[:, 1] = twice[:, 0]  # a copy among them must not break it
    assert (explained(apart, twice) <= explained(apart, bases) + 1e-9).all()
    assert explained(torch.zeros(3, 50), bases).tolist() == [1, 1, 1]

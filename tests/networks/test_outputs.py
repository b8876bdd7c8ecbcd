"""What outputs mean is found by loss and shapes, and predictions follow from it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace.networks.outputs import (
    OUTPUT_KINDS,
    Binary,
    Classes,
    LossOnly,
    OutputKind,
    Regression,
    infer_kind,
    like_targets,
    nll,
)
from weightspace.tasks.task import cross_entropy


def some_loss(outputs: object, y: object) -> torch.Tensor:
    return torch.zeros(())


r, ints = torch.randn, partial(torch.randint, 3)
FOUND = {
    "own cross-entropy": (cross_entropy, r(4, 3), ints((4,)), Classes()),
    "PyTorch's": (F.cross_entropy, r(4, 3), ints((4,)), Classes()),
    "its module": (nn.CrossEntropyLoss(), r(4, 3), ints((4,)), Classes()),
    "with a setting": (partial(F.cross_entropy, label_smoothing=0.1), r(4, 3), ints((4,)), Classes()),
    "classes per position": (F.cross_entropy, r(4, 3, 5), ints((4, 5)), Classes(axis=-2)),
    "as many classes as positions": (F.cross_entropy, r(4, 3, 3), ints((4, 3)), Classes(axis=-2)),
    "of images": (F.cross_entropy, r(4, 3, 5, 6), ints((4, 5, 6)), Classes(axis=-3)),
    "tokens, classes last": (some_loss, r(4, 5, 3), ints((4, 5)), Classes()),
    "logits by name": (some_loss, {"logits": r(4, 3), "hidden": r(4, 8)}, ints((4,)), Classes()),
    "one logit": (F.binary_cross_entropy_with_logits, r(4, 1), torch.ones(4, 1), Binary()),
    "several labels": (nn.BCEWithLogitsLoss(), r(4, 5), torch.ones(4, 5), Binary()),
    "probabilities": (F.binary_cross_entropy, r(4, 5), torch.ones(4, 5), Binary(probabilities_given=True)),
    "one logit for integers": (some_loss, r(4, 1), ints((4,)), Binary()),
    "values": (F.mse_loss, r(4, 2), r(4, 2), Regression()),
    "values (N, 1) for (N,)": (some_loss, r(4, 1), r(4), Regression()),
    "several outputs": (some_loss, (r(4, 2), r(4, 3)), r(4, 2), LossOnly()),
    "other shapes": (some_loss, r(4, 7), r(4, 2), LossOnly()),
    "soft labels": (F.cross_entropy, r(4, 3), torch.ones(4, 3), LossOnly()),
    "several targets": (some_loss, r(4, 3), (r(4), r(4)), LossOnly()),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_meaning_follows_from_loss_and_shapes(case: str) -> None:
    loss, outputs, y, kind = FOUND[case]
    assert infer_kind(loss, outputs, y) == kind


def test_two_possible_meanings_are_refused() -> None:
    with pytest.raises(ws.InputError, match=r"outputs=Classes\(axis=-1\) or outputs=Classes\(axis=-2\)"):
        infer_kind(some_loss, r(4, 3, 3), ints((4, 3)))
    assert infer_kind(some_loss, r(4, 3, 5), ints((4, 5))) == Classes(axis=-2)  # here only one is possible


KINDS: list[OutputKind] = [
    Classes(axis=-2, output="logits"),
    Binary(probabilities_given=True),
    Regression(),
    LossOnly(),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_files_know_the_kinds(kind: OutputKind) -> None:
    assert OUTPUT_KINDS.from_json(OUTPUT_KINDS.to_json(kind), "a record") == kind


def test_axes_of_networks_may_come_before() -> None:
    outputs, kind = r(2, 4, 3, 5), Classes(axis=-2)
    assert torch.equal(kind.predictions(outputs)[1], kind.predictions(outputs[1]))
    assert torch.equal(kind.labels(kind.predictions(outputs))[1], outputs[1].argmax(1))
    with pytest.raises(ws.InputError, match="counted from the end"):
        Classes(axis=1)


def test_probabilities_are_those_of_the_meaning() -> None:
    logits = r(4, 3)
    assert torch.equal(Classes().probabilities(logits), logits.softmax(-1))
    assert torch.equal(Binary().probabilities(logits), logits.sigmoid())
    given = logits.sigmoid()
    kind = Binary(probabilities_given=True)
    assert torch.allclose(kind.probabilities(kind.predictions(given)), given)
    for kind in (Classes(), Regression(), LossOnly()):
        with pytest.raises(ws.InputError, match=r"outputs=Binary|Binary\(\)"):
            kind.probabilities(r(4, 1))


def test_the_likelihood_is_that_of_torch_distributions() -> None:
    d = torch.distributions
    logits, y = r(4, 5, 3), ints((4, 5))
    expected = -d.Categorical(logits=logits).log_prob(y).mean(1)
    assert torch.allclose(nll(Classes(), logits, y), expected)
    y[1, 2:] = -100  # positions that do not count
    assert torch.allclose(nll(Classes(), logits, y)[1], -d.Categorical(logits=logits[1, :2]).log_prob(y[1, :2]).mean())
    labels = torch.ones(4, 3)
    assert torch.allclose(
        nll(Binary(), logits[:, 0], labels), -d.Bernoulli(logits=logits[:, 0]).log_prob(labels).mean(1)
    )
    values, targets = r(50, 1), r(50)
    std = (values[:, 0] - targets).square().mean().sqrt()
    assert torch.allclose(nll(Regression(), values, targets), -d.Normal(values[:, 0], std).log_prob(targets), atol=1e-5)


def test_one_output_loses_its_axis_and_other_shapes_are_refused() -> None:
    assert like_targets(r(4, 1), r(4)).shape == (4,)
    assert like_targets(r(4), r(4, 1)).shape == (4, 1)
    for shape in ((4, 2), (5,), (1, 4)):
        with pytest.raises(ws.InputError, match="do not fit targets"):
            like_targets(r(*shape), r(4))

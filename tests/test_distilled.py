"""Targets that other networks make: what they are, that they are learned from, and where they are refused."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from weightspace.bayes import Variational
from weightspace.errors import InputError
from weightspace.tickets.scores import balanced

BASE = ws.TicketGenerator(compress=ws.PCA(4), generate=ws.FlowMatching(width=16, blocks=1, steps=60))


def test_distilled_targets_mix_labels_and_the_mean_of_the_networks(task: ws.Task, tickets: ws.Collection) -> None:
    soft = ws.tasks.distilled(task, tickets[:5], share=0.25)
    mean = torch.stack([tickets[i : i + 1].ensemble().predict_proba(task.train.x) for i in range(5)]).mean(0)
    labels = torch.nn.functional.one_hot(task.train.y, 10)
    torch.testing.assert_close(soft.train.y, 0.75 * labels + 0.25 * mean)
    assert torch.equal(soft.validation.y, task.validation.y)
    assert torch.equal(soft.test.y, task.test.y)
    assert soft.classification
    other = ws.tasks.distilled(task, tickets[5:8], share=0.25)
    assert soft.to_json()["sha256"] != other.to_json()["sha256"]  # runs tell the two apart


def test_networks_learn_from_soft_targets(task: ws.Task, tickets: ws.Collection) -> None:
    """Half of them is another's prediction: networks trained on them stay nearer to it than those trained on labels."""
    soft = ws.tasks.distilled(task, tickets[:8], share=0.5)
    teacher = tickets[:8].ensemble().predict_proba(task.test.x)

    def away(networks: ws.Collection) -> float:
        return (networks.ensemble().member_proba(task.test.x) - teacher).abs().sum(-1).mean().item()

    plain, taught = (ws.train(tickets[8:], one, ws.Step(epochs=20)) for one in (task, soft))
    assert away(taught) < away(plain)
    assert all(record["metrics"]["validation_accuracy"] > 0.5 for record in taught.records)
    chosen = balanced(soft, per_class=2, seed=0)
    assert chosen.y.argmax(1).bincount().tolist() == [2] * 10


def test_refinement_learns_from_soft_targets(task: ws.Task, tickets: ws.Collection) -> None:
    """All of them another's prediction: samples agree more with it than those refined on labels."""
    soft = ws.tasks.distilled(task, tickets[:8], share=1.0)
    teacher = tickets[:8].ensemble().predict_proba(task.train.x)

    def away(through: ws.Task) -> float:
        refine = ws.TaskRefinement(through, steps=60, networks=8, batch_size=32)
        samples = replace(BASE, refine=refine).fit(tickets[:8], seed=0).sample(20, density=0.2, seed=1)
        return -(teacher * samples.ensemble().member_proba(task.train.x).log()).sum(-1).mean().item()

    assert away(soft) < away(task)


def test_bad_distillation_is_refused(task: ws.Task, tickets: ws.Collection) -> None:
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            ws.tasks.distilled(task, tickets[:2], share=share)
    soft = ws.tasks.distilled(task, tickets[:2])
    with pytest.raises(InputError, match="not class numbers"):
        ws.tasks.distilled(soft, tickets[:2])
    with pytest.raises(InputError, match="tell 3 classes apart"):
        ws.tasks.distilled(task, ws.collect(ws.tasks.digits(hidden=(4,), held_out=range(3, 10)), 1))
    with pytest.raises(InputError, match="label noise"):
        ws.collect(soft, 1, kind=ws.Grid(label_noise=(0.5,)))
    with pytest.raises(InputError, match="likelihood of class numbers"):
        Variational().fit(tickets[:1], soft)
    wrong = replace(task, train=ws.Split(task.train.x, torch.rand(len(task.train), 10)))
    with pytest.raises(InputError, match="sum of one"):
        wrong.try_out()
    with pytest.raises(InputError, match="does not fit"):
        replace(task, train=ws.Split(task.train.x, torch.rand(len(task.train), 7))).try_out()
    with pytest.raises(InputError, match="validation and test targets"):
        replace(soft, validation=ws.Split(task.validation.x, task.validation.y.float())).try_out()
    with pytest.raises(InputError, match="does not fit"):
        ws.tasks.distilled(replace(task, loss=lambda outputs, y: outputs.gather(-1, y[..., None]).mean()), tickets[:2])

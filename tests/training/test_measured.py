import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch


def unmeasured(networks: ws.Collection) -> ws.Collection:
    return networks.replace(records=[record.without("metrics") for record in networks.records])


def test_metrics_are_those_of_training(tickets: ws.Collection, task: ws.Task) -> None:
    bare = unmeasured(tickets)
    with pytest.raises(InputError, match="network 0 has none"):
        bare.best(2)
    found = ws.measured(bare, task)
    assert torch.equal(found.weights, tickets.weights)
    assert torch.equal(found.masks, tickets.masks)
    for name in ("validation_loss", "validation_accuracy"):
        assert [r.metrics[name] for r in found.records] == pytest.approx([r.metrics[name] for r in tickets.records])
    assert torch.equal(found.best(2).weights, tickets.best(2).weights)
    accuracy = (found.ensemble().member_proba(task.validation.x).argmax(-1) == task.validation.y).double().mean(1)
    assert [r.metrics["validation_accuracy"] for r in found.records] == pytest.approx(accuracy.tolist())


def test_few_samples_are_the_first(tickets: ws.Collection, task: ws.Task) -> None:
    few, head = ws.measured(tickets, task, samples=20), task.validation.head(20)
    accuracy = (tickets.ensemble().member_proba(head.x).argmax(-1) == head.y).double().mean(1)
    assert [record.metrics["validation_accuracy"] for record in few.records] == pytest.approx(accuracy.tolist())
    assert few.records[0].metrics != ws.measured(tickets, task).records[0].metrics


def test_samples_of_other_networks_are_refused(tickets: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(LayoutMismatch):
        ws.measured(tickets, ws.tasks.iris())
    with pytest.raises(InputError, match="samples"):
        ws.measured(tickets, task, samples=0)

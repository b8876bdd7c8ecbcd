"""Accuracy of networks on data: the one way in which all experiments count it."""

import torch
from torch import Tensor

import weightspace as ws


def per_network(networks: ws.Collection, data: ws.tasks.Data) -> Tensor:
    """Accuracy of each network, shape (N,), float64."""
    return (networks.ensemble().logits(data.x).argmax(-1) == data.y).double().mean(1)


def as_list(networks: ws.Collection, data: ws.tasks.Data) -> list[float]:
    """The same as plain numbers."""
    return per_network(networks, data).tolist()


def of_mean_prediction(networks: ws.Collection, data: ws.tasks.Data) -> dict[str, object]:
    """Accuracy and negative log-likelihood of the networks' mean predicted probabilities."""
    probabilities = networks.ensemble().predict_proba(data.x).double()
    accuracy = (probabilities.argmax(-1) == data.y).double().mean().item()
    nll = -torch.log(probabilities.gather(1, data.y[:, None])).mean().item()
    return {"ensemble accuracy": accuracy, "ensemble nll": nll}

"""Small networks of the zoo: what is proven stays proven, by a check of its own; what is refused says a remedy."""

from dataclasses import replace

import pytest
import torch

from experiments.alignment import zoo, zoo_networks
from weightspace.symmetry import trace

FAST = ("einsum attention", "grouped-query attention", "GRU stack, packed", "GNN, scatter_add", "GAT, edge list")


@pytest.mark.parametrize("name", FAST)
def test_networks_of_the_zoo_are_proven_and_their_permuted_copies_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    row = zoo.examine(name, zoo_networks.NETWORKS[name])
    assert row["verdict"] == "proven"
    assert float(str(row["parameters moved"])) > 0.95


def test_a_random_network_is_refused_with_a_remedy() -> None:
    row = zoo.examine("rsample", zoo_networks.NETWORKS["rsample"])
    assert row["verdict"] == "refused"
    assert "Let it return the mean" in str(row["note"])


def test_a_wrong_table_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(*args: object) -> object:
        symmetry = trace(*args)
        group = symmetry.groups[0]
        less = replace(group, outgoing=group.outgoing[1:], homogeneous=False)
        return replace(symmetry, groups=(less, *symmetry.groups[1:]))

    monkeypatch.setattr(zoo.symmetry, "trace", forgetful)
    assert zoo.examine("MLP, ReLU", zoo_networks.NETWORKS["MLP, ReLU"])["verdict"] == "WRONG"

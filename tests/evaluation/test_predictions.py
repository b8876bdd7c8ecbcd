"""Predictions gathered in blocks."""

import numpy as np
import torch
from torch import nn

import weightspace as ws
from tests.evaluation.cases import mutual_information
from weightspace.evaluation.metrics import predictive
from weightspace.evaluation.one_label import OneLabel
from weightspace.evaluation.predictions import outputs_in_blocks


def test_gathering_in_blocks_changes_nothing(tickets: ws.Collection, task: ws.Task) -> None:
    whole = OneLabel().score(tickets, task.test, memory_gb=1.0)
    parts = OneLabel().score(tickets, task.test, memory_gb=1e-9)  # a network at a time
    np.testing.assert_array_equal(whole.errors, parts.errors)
    np.testing.assert_allclose(whole.predictions.joint, parts.predictions.joint, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(whole.predictions.votes, parts.predictions.votes)
    logits = tickets.ensemble().logits(task.test.x)
    np.testing.assert_allclose(whole.predictions.joint, predictive.ensemble_logits(logits), rtol=1e-6, atol=1e-7)
    information = parts.predictions.mutual_information
    np.testing.assert_allclose(information, mutual_information(logits), atol=1e-7)


class Counting(nn.Linear):
    """A layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(input)


def test_networks_that_write_to_their_tensors_stay_as_they_were() -> None:
    architecture = ws.Architecture.of(Counting)
    layout, buffers = architecture.layout(), {"calls": torch.zeros(2, 1)}
    networks = ws.Collection(layout, torch.ones(2, layout.size), architecture=architecture, buffers=buffers)
    list(outputs_in_blocks(networks, torch.ones(3, 2), memory_gb=1.0))
    assert not networks.buffers["calls"].any()

"""Predictions gathered in blocks."""

import numpy as np

import weightspace as ws
from tests.evaluation.cases import mutual_information
from weightspace.evaluation.metrics import predictive
from weightspace.evaluation.one_label import OneLabel


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

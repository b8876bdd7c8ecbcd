"""A task with soft targets: what networks that are there already make of its training data."""

from dataclasses import replace

import torch

from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.progress import progress
from weightspace.task import Split, Task


def distilled(task: Task, networks: Collection, *, share: float = 0.5) -> Task:
    """The task with training targets that are in part what an ensemble predicts.

    Targets become (1 - share) of the label and `share` of the mean class probabilities of the networks, at temperature 1
    (Hinton et al. 2015, arXiv 1503.02531). Validation and test data stay as they are.

    Whoever learns from it (`ws.train`, finders of tickets, `TaskRefinement`) learns from the networks too: a comparison
    is fair if the baselines do so as well.

    Args:
        task: a classification task.
        networks: of any architecture that takes the task's inputs; the collection that a generator is fitted to, say.
        share: of the networks' predictions in the targets, in (0, 1].

    Raises:
        InputError: an impossible share, a regression task, targets that are soft already, networks that predict other
            classes, or a loss that takes no class probabilities.
    """
    if not 0 < share <= 1:
        raise InputError(f"share is that of the predictions in the targets, above 0 and at most 1, got {share}")
    x, y = task.train.x, task.train.y
    if not task.classification or y.is_floating_point():
        raise InputError(
            f"the training targets of task {task.name!r} are not class numbers, so that none can be softened"
        )
    # One network at a time, as the predictions of all for all inputs may not fit into memory.
    each = progress(range(len(networks)), "predictions to distil")
    total = sum(networks[i : i + 1].ensemble().predict_proba(x).double() for i in each)
    predicted = torch.as_tensor(total).div(len(networks)).float()
    outputs = len(task.architecture.build_seeded(0).eval()(x[:1])[0])
    if predicted.shape[1] != outputs:
        raise InputError(
            f"the networks tell {predicted.shape[1]} classes apart, those of task {task.name!r} {outputs}: "
            "give networks that were trained for it"
        )
    labels = torch.nn.functional.one_hot(y, outputs).to(predicted.dtype)
    soft = replace(task, train=Split(x, (1 - share) * labels + share * predicted))
    soft.try_out()
    return soft

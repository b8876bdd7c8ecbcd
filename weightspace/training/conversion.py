"""Where training starts and what it leaves: collections to trainers and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import OUTPUT_KINDS, Classes
from weightspace.networks.record import Record
from weightspace.networks.starts import are_starts
from weightspace.tasks.measuring import measure
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task
from weightspace.training.engine import Execution
from weightspace.training.individual import Individual, require_seeds
from weightspace.training.own_loop import LoopTrainer
from weightspace.training.trainer import Trainer
from weightspace.training.validation_curve import ValidationCurve


def initial(architecture: Architecture, records: Sequence[Mapping[str, Any]]) -> Collection:
    """Untrained networks, one for each record's seed; the same seed gives the same weights.

    Raises:
        InputError: A record has no seed.
    """
    records = [Record.of(record) for record in records]
    require_seeds(records)
    layout = architecture.layout()
    weights = torch.empty(len(records), layout.size, dtype=layout.dtype)
    buffers = {b.name: torch.empty(len(records), *b.shape, dtype=getattr(torch, b.dtype)) for b in layout.buffers}
    for i, record in enumerate(records):  # one module at a time: a thousand would need the memory twice
        state = architecture.initial_seeded(record.seed).state_dict()
        weights[i] = layout.pack(state)
        for name, buffer in buffers.items():
            buffer[i] = state[name]
    return Collection(layout, weights, architecture=architecture, buffers=buffers, records=records)


def redrawn(architecture: Architecture, records: Sequence[Mapping[str, Any]]) -> Collection:
    """As `initial`, with all values drawn from the seeds, those of pre-trained networks too.

    Raises:
        InputError: A record has no seed.
    """
    return initial(replace(architecture, pretrained=None), records)


def begin(architecture: Architecture, networks: Collection) -> Collection:
    """Where the training of networks begins: starts as they are, others as their seeds initialise them.

    Args:
        architecture: Architecture of the networks.
        networks: Networks of one of the two kinds.

    Raises:
        InputError: A record has no seed, or the networks are of both kinds.
    """
    require_seeds(networks.records)
    if are_starts(networks):
        return networks.replace(architecture=architecture, extras={})
    return initial(architecture, networks.records)


def trainer_for(
    networks: Collection, task: Task, *, execution: Execution | None = None, device: str = "cpu"
) -> Trainer:
    """A trainer at step 0 that starts from these networks, under their masks and with their seeds.

    Raises:
        InputError: A record has no seed.
    """
    if isinstance(task, LoopTask):
        return task.own_trainer(networks, device) or LoopTrainer(task, networks, device)
    trainer = Trainer(
        task.architecture.following(networks.layout),
        task.train,
        task.loss,
        task.recipe,
        weights=networks.weights,
        masks=None if networks.dense else networks.masks,
        buffers=networks.buffers,
        individual=Individual.of(networks.records, task.recipe),
        group_size=execution.group_size if execution else None,
        threads=execution.threads if execution else None,
        device=device,
    )
    if task.recipe.watch is not None:
        every = task.recipe.watch.total(trainer.per_epoch)
        trainer.observe(ValidationCurve(every, task))
    return trainer


def finished(trainer: Trainer, task: Task, records: Sequence[Record]) -> Collection:
    """The trainer's networks as a collection, with losses and validation metrics in the records."""
    metrics = _measured(trainer, task)
    kind = meaning(task, metrics)
    return Collection(
        trainer.layout,
        trainer.weights.cpu(),
        architecture=task.architecture,
        masks=None if trainer.masks is None else trainer.masks.cpu(),
        buffers={name: buffer.cpu() for name, buffer in trainer.buffers.items()},
        records=[
            # What was aligned is no longer so once it has been trained on.
            record.without("aligned")
            | kind
            | {"metrics": {name: values[i] for name, values in metrics.items()}}
            | (
                {}
                if trainer.validation_curve is None
                else {"curve": trainer.validation_curve.summary(trainer.looks, trainer.curve[i])}
            )
            for i, record in enumerate(records)
        ],
    )


def meaning(task: Task, metrics: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What records say of what outputs mean and of the main metric; nothing where it is classes and accuracy.

    Args:
        task: Task of the networks.
        metrics: Losses and metrics by the names that records have.
    """
    kind = {} if task.output_kind == Classes() else {"outputs": OUTPUT_KINDS.to_json(task.output_kind)}
    return kind | _main_metric(task, metrics)


def _main_metric(task: Task, metrics: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What a record says of the main metric; nothing where it is accuracy, or there is only a loss."""
    main = next(((metric.name, metric.higher_is_better) for metric in task.scores), None)
    if isinstance(task, LoopTask) and metrics:
        name = next(iter(metrics)).removeprefix("validation_")
        main = name, name not in task.lower_is_better
    if main is None or main[0] in ("accuracy", "loss"):
        return {}
    return {"main_metric": {"name": f"validation_{main[0]}", "higher_is_better": main[1]}}


def _measured(trainer: Trainer, task: Task) -> dict[str, list[float]]:
    """Losses and metrics by the names that records have, a value for each network."""
    if isinstance(task, LoopTask):
        figures, metrics = task.measure(trainer.layout, trainer.weights, trainer.buffers), {}
    else:
        data = task.validation.to(str(trainer.weights.device))
        at = (trainer.module, trainer.layout, trainer.weights, trainer.buffers)
        figures = measure(task, *at, data, trainer.individual.data)
        metrics = {"last_batch_loss": trainer.losses.tolist()}
    return metrics | {f"validation_{name}": values for name, values in figures.items()}

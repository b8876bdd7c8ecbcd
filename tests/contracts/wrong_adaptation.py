"""Entries of wrong_values.py: adaptation, policies, networks, own loops and own data."""

from typing import TYPE_CHECKING

import torch

import weightspace as ws
from weightspace import adapt, bayes, control, models, tasks
from weightspace.networks.layout import Entry

if TYPE_CHECKING:
    from tests.contracts.wrong_values import World


def entries(world: "World", entry: type) -> list:
    """All of them.

    Args:
        world: Small right values.
        entry: Class of an entry.
    """
    return [*_adaptation(world, entry), *_policies(entry), *_own(world, entry)]


def _adaptation(world: "World", entry: type) -> list:
    dense, task = world.dense, world.task
    vectors = adapt.TaskVectors.between(dense[1:], dense[:2])
    find = {"base": dense, "task": task}
    trained = torch.ones_like(dense.weights, dtype=torch.bool)
    wrong = {"trained": [trained.int(), trained[:, 1:], [True], "x", None, trained.to("meta")]}
    texts = {"on": "globs", "whole": "globs"}
    return [
        entry("LoRA", adapt.LoRA, {}, texts),
        entry("LoTA", adapt.LoTA, {}, {**texts, "calibration": "step"}),
        entry("Rows", adapt.Rows, {"tensor": "1.weight", "count": 1}),
        entry("TIES", adapt.TIES, {}, {"scale": "signed float"}),
        entry("DARE", adapt.DARE),
        entry("TaskArithmetic", adapt.TaskArithmetic, {}, {"scale": "signed float"}),
        entry("LoRA.find", adapt.LoRA(1).find, find),
        entry("LoRA.architecture", adapt.LoRA(1).architecture, {"base": dense}),
        entry("LoRA.load", adapt.LoRA.load, {"folder": "x", "base": dense}),
        entry("LoTA.find", adapt.LoTA(0.5).find, find),
        entry("train_only", adapt.train_only, {**find, "trained": trained}, {"trained": None}, wrong),
        entry("task_vectors", adapt.task_vectors, {"adapters": dense, "base": dense}),
        entry("TaskVectors.between", adapt.TaskVectors.between, {"networks": dense, "base": dense}),
        entry("TaskVectors.on", vectors.on, {"base": dense[:2]}, {"scale": "signed float"}),
        entry("TaskVectors.only", vectors.only, {"names": ("1.weight",)}, {"names": None}, {"names": [(3,), ()]}),
        entry("TaskVectors.load", adapt.TaskVectors.load, {"folder": "x"}),
        entry("TaskVectors.changes_for", vectors.changes_for, {"layout": dense.layout}),
        entry("Sum.fit", adapt.Sum().fit, {"vectors": [vectors]}, {"vectors": "texts"}, {"vectors": [[]]}),
        entry("TIES.fit", adapt.TIES().fit, {"vectors": [vectors]}, {"vectors": "texts"}, {"vectors": [[dense]]}),
        entry("DARE.fit", adapt.DARE().fit, {"vectors": [vectors]}, {"vectors": "texts"}),
        entry(
            "adapt.compare",
            adapt.compare,
            {"mergers": {"sum": adapt.Sum()}, "vectors": [vectors], "bases": [dense[:2]], "tasks": [task]},
            {"mergers": "mapping", "vectors": "texts", "bases": "texts", "tasks": "texts", "scales": "numbers"},
        ),
        entry("untie", adapt.untie, {"networks": dense, "name": "1.weight"}),
        entry("save_peft", adapt.save_peft, {"adapters": dense, "index": 0, "folder": "x"}),
        entry("load_peft", adapt.load_peft, {"folder": "x", "base": dense}),
        entry("Rows.find", adapt.Rows("1.weight", count=1).find, {**find, "tuned": dense}, {"tokens": None}),
        entry("Rows.transfer", adapt.Rows("1.weight", count=1).transfer, {"base": dense, "tuned": dense}),
        entry("Rows.tune", adapt.Rows("1.weight", count=1).tune, find),
    ]


def _policies(entry: type) -> list:
    task = control.cartpole((4,), ppo=control.PPO(updates=1, copies=1, steps=4, epochs=1), horizon=8)
    policies = ws.collect(task, 1, seed=0)
    return [
        entry("CartPole", control.CartPole),
        entry("PPO", control.PPO),
        entry("cartpole", control.cartpole, {}, {"hidden": "numbers"}, {"hidden": [(0,), (2.5,)]}),
        entry("PolicyTask.returns", task.returns, {"policies": policies}, wrong={"episodes": [0]}),
        entry("ActorCritic", models.ActorCritic, {"observation": 4, "actions": 2}, {"hidden": "numbers"}),
    ]


def _own(world: "World", entry: type) -> list:
    task, x, y = world.task, world.x, world.y
    schedule = ws.tickets.GradualSchedule(ws.Unstructured(0.5), 0, 10)
    spread = {"std": torch.ones_like(world.dense.weights)}
    records = [record | {"noise_std": 0.1} for record in world.dense.records]
    posteriors = world.dense.replace(extras=spread, records=records)
    data = {"name": "a", "x": task.train.head(20).x, "y": task.train.head(20).y, "network": task.architecture}
    network = {"network": "object"}
    dataset = torch.utils.data.TensorDataset(data["x"], data["y"])
    rows = [0.5, "x", [0.5], [10**6], [True], {}]
    loop = {"name": "a", "network": task.architecture, "train": lambda module: None}
    shares = {"validation": [1.5, 0], "test": [1.5, 0], "metrics": [["x", 3], 3, "accuracy"]}
    return [
        *(entry(one.__name__, one) for one in (models.SmallConv, models.LeNet5, models.LeNet300, models.ResNet18)),
        entry("ResNet20", models.ResNet20),
        entry("VGG", models.VGG, {"width": 0.1}, wrong={"depth": [3]}),
        entry("Conv", models.Conv, {"width": 0.1}, {"image": "numbers"}, {"depth": [3], "image": [(3, 4), (0, 8, 8)]}),
        entry("ViT", models.ViT, wrong={"width": [0], "heads": [0], "patch": [0]}),
        entry("MLP", models.MLP, {}, {"sizes": "numbers"}, {"sizes": [(), (3,), (3, 0), (3, True)]}),
        entry("Pruner", ws.tickets.Pruner, {"module": world.module, "schedule": schedule}),
        entry("from_loop", tasks.from_loop, loop, {**network, "lower_is_better": "texts"}, {"parts": [0]}),
        entry("from_tensors", tasks.from_tensors, data, {**network, "x": "inputs", "y": "inputs"}, shares),
        entry(
            "from_dataset",
            tasks.from_dataset,
            {"name": "a", "dataset": dataset, "network": task.architecture},
            network,
            shares,
        ),
        entry("DatasetSplit", tasks.DatasetSplit, {"dataset": dataset}, {"rows": None}, {"rows": rows}),
        entry("OwnData", tasks.OwnData, {"x": x, "y": y[None]}, {"x": "inputs", "y": "inputs"}),
        entry("predict_values", bayes.predict_values, {"posteriors": posteriors, "x": x, "n": 1}, {"x": "inputs"}),
        entry("Entry", Entry, {"name": "a", "shape": (2,), "role": "weight", "dtype": "float32"}, {"name": "prefix"}),
        entry("Architecture", ws.Architecture, {"name": "MLP"}, {"prunable": "texts", "recognised": "texts"}),
        entry("Split.head", task.train.head, {"n": 2}),
        entry("Split.batch", task.train.batch, {"rows": [0]}, {"rows": None}, {"rows": rows}),
    ]

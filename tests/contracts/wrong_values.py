"""Every public entry with wrong values of each of its arguments: `python -m tests.contracts.wrong_values` as JSON.

In a process of its own, as the tests' own checks of types would refuse most of these before the library could.
"""

import inspect
import json
import os
import re
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import torch
from torch import nn

import weightspace as ws
from tests.contracts import wrong_adaptation
from weightspace import bayes, flow, masks, recipes, report, tasks, training
from weightspace.networks import outputs as kinds

GAPS: set[str] = set()  # entries that are not held to this yet
NAN, INF = float("nan"), float("inf")
DENSITIES = ["0.5", NAN, INF, True, 0, 1.5, -0.5, {}]
NUMBERS = ["0.5", NAN, INF, -INF, True, [0.5], 1j, {}]
COUNTS = ["3", 2.5, NAN, INF, True, [3], {}, 2.0]
OTHERS = [3, "2:4", [1, 2], object()]
WRONG: dict[str, list[Any]] = {
    "int": [*COUNTS, -3],
    "signed": COUNTS,
    "float": [*NUMBERS, -1.0],
    "signed float": NUMBERS,
    "bool": ["no", 2, 0.5, [True]],
    "str": [3, b"x", ["x"], ""],
    "prefix": [3, b"x", ["x"]],
    "choice": ["nonsense", 3, ["x"]],
    "step": ["3 epochs", "-3ep", "1e", "", 3, 2.5, ["3ep"], "\u0663ep", "9" * 5000 + "it"],
    "numbers": ["0.5", 3, ["x"], [NAN], [INF], {"a": 1}],
    "texts": ["weights", 3, [3]],
    "globs": [3, [3], {}, ""],
    "mapping": [3, "x", ["x"]],
    "function": [3, "x", ["x"]],
    "object": OTHERS,
    "path": [3, b"x", "", "a\0b", "a" * 300, ["x"]],
    "device": [3, "gpu", ["cpu"], "", "cuda:99"],
    "inputs": [3, "x", object(), [], {}],
}


@dataclass(frozen=True)
class Entry:
    """A function or class and how it is called.

    Args:
        name: How it is called in Python.
        call: The function, class or bound method.
        given: Arguments that are right, by name.
        kinds: Kinds of wrong values of arguments whose annotation does not say it; None leaves an argument out.
        wrong: Further wrong values, by argument.
    """

    name: str
    call: Callable[..., Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, str | None] = field(default_factory=dict)
    wrong: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def kind_of(annotation: Any) -> tuple[str | None, bool]:
    """Kind of wrong values that an annotation asks for, and whether None is right."""
    options = (
        typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, UnionType) else (annotation,)
    )
    given = [option for option in options if option is not type(None)]
    optional = len(given) < len(options)
    first = given[0] if given else annotation
    for plain, kind in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if first is plain:
            return ("path" if Path in given else "float" if float in given else kind), optional
    if ws.Step in given:
        return "step", optional
    origin = typing.get_origin(first)
    if origin is typing.Literal:
        return "choice", optional
    if origin in (tuple, list, Sequence) and {*typing.get_args(first)} & {float, int, str}:
        return ("texts" if str in typing.get_args(first) else "numbers"), optional
    if origin is Mapping:
        return "mapping", optional
    if origin is Callable:
        return "function", optional
    if isinstance(first, type):
        return "object", optional
    return None, optional


def cases(entry: Entry) -> list[tuple[str, str, Any]]:
    """Arguments of an entry with a wrong value each: name of the case, of the argument, and the value."""
    found: list[tuple[str, str, Any]] = []
    signature = inspect.signature(entry.call)
    for name, parameter in signature.parameters.items():
        kind, optional = kind_of(parameter.annotation)
        kind = "device" if name == "device" else entry.kinds.get(name, kind)
        if name not in entry.kinds and parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        values = [*([] if kind is None else WRONG[kind]), *entry.wrong.get(name, ())]
        required = kind is not None and not optional and kind != "inputs"
        found += [(f"{entry.name}({name}={_short(value)})", name, value) for value in values]
        found += [(f"{entry.name}({name}=None)", name, None)] if required else []
    return found


def outcome(entry: Entry, argument: str, value: Any) -> str:
    """ "refused" if a wrong value ends in an error of the library that names the argument; else what happened."""
    arguments = {**entry.given, argument: value}
    positional = [
        arguments.pop(name)
        for name, parameter in inspect.signature(entry.call).parameters.items()
        if parameter.kind == parameter.POSITIONAL_ONLY and name in arguments
    ]
    for name, parameter in inspect.signature(entry.call).parameters.items():
        if parameter.kind == parameter.VAR_POSITIONAL:
            names = list(inspect.signature(entry.call).parameters)
            positional = [arguments.pop(one) for one in names[: names.index(name)]] + list(arguments.pop(name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = entry.call(*positional, **arguments)
    except ws.InputError as error:
        named = re.search(rf"(?<![A-Za-z_]){argument}(?![A-Za-z_])", str(error))
        return "refused" if named else f"refused without the name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return f"taken: {result!r}"[:200]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:30]}..."


class World:
    """Small right values of everything."""

    def __init__(self) -> None:
        base = ws.tasks.digits(hidden=(6,))
        self.task = replace(base, recipe=ws.Recipe("1it", batch_size=64))
        self.dense = ws.collect(self.task, 3, seed=0)
        scores = self.dense.weights.abs()
        kept = ws.Unstructured(0.5).mask(scores, self.dense.layout)
        self.layout, self.architecture = self.dense.layout, self.dense.architecture
        self.tickets = self.dense.replace(weights=self.dense.weights * kept, masks=kept)
        self.module = self.dense[0].module()
        self.x, self.y = self.task.train.head(4).x, self.task.train.head(4).y
        small = flow.FlowMatching(width=4, blocks=1, steps=1, batch_size=2, solver_steps=2)
        self.generator = ws.TicketGenerator(compress=ws.PCA(2), generate=small).fit(self.tickets, seed=0)


def entries(world: World) -> list[Entry]:
    """All of them."""
    return [*settings(world), *of_networks(world), *of_stages(world), *wrong_adaptation.entries(world, Entry)]


def settings(world: World) -> list[Entry]:
    """Classes of settings."""
    task, patterns = world.task, {"pattern": "object"}
    plain = [
        recipes.Step, recipes.Schedule, recipes.SGD, recipes.Adam, recipes.Augmentation, recipes.Recipe,
        training.Grid, training.SharedStart, training.Trajectory,
        ws.PCA, ws.FlowMatching, ws.DeepWeightFlow, ws.MCDropout, ws.WeightMatching,
        ws.GateMask, ws.PosteriorMask, ws.TaskRefinement, ws.TicketGenerator,
        ws.align.ActivationMatching, ws.align.StraightThrough, ws.align.WeightCost, ws.align.WassersteinCost,
        ws.align.PrecisionCost, ws.align.Star, ws.align.MergeMany, ws.align.Universe,
        ws.tickets.IMP, ws.tickets.GradualPruning, ws.tickets.PruneAtInit, ws.tickets.DynamicSparseTraining,
        ws.tickets.EdgePopup, ws.tickets.ContinuousSparsification, ws.tickets.EarlyBird, ws.tickets.SNIP,
        ws.tickets.GraSP, ws.tickets.GradualSchedule, ws.tickets.TicketControls, ws.tickets.Deconstruction,
        ws.tickets.EarlyPhase,
        bayes.Normal, bayes.Centred, bayes.Horseshoe, bayes.ScaleMixture, bayes.Variational, bayes.BayesianIMP,
        bayes.GateSearch, bayes.Band, bayes.Bound, bayes.Inclusion, bayes.KLGain, bayes.Nuts,
        kinds.Classes, kinds.Binary, kinds.Regression,
    ]  # fmt: skip
    special: dict[Any, dict[str, Any]] = {
        training.Grid: {"given": {"lr": (0.1,)}},
        recipes.Schedule: {"kinds": {"milestones": "mapping"}},
        kinds.Classes: {"kinds": {"axis": "signed", "ignored": "signed"}},
        ws.tickets.ContinuousSparsification: {"kinds": {"start": "signed float"}},
        ws.TaskRefinement: {"kinds": {"patterns": "mapping"}},
        ws.TicketGenerator: {"kinds": {"conditions": "texts"}},
        bayes.Bound: {"kinds": {"strength": "signed float"}},
        ws.PCA: {"wrong": {"components": [1.5, 0, 1.0]}},
    }
    return [
        *(Entry(kind.__name__, kind, **special.get(kind, {})) for kind in plain),
        Entry("Unstructured", ws.Unstructured, {"density": 0.1}),
        Entry("ERK", ws.ERK, {"density": 0.1}),
        Entry("Balanced", ws.Balanced, {"density": 0.1}),
        Entry("Channels", ws.Channels, {"fraction": 0.5}),
        Entry("NM", ws.NM, {"n": 2, "m": 4}),
        Entry("LayerRates", ws.LayerRates, {"level": 1}),
        Entry("Only", ws.Only, {"pattern": ws.NM(2, 4), "names": ("a",)}, patterns),
        Entry("Except", ws.Except, {"pattern": ws.NM(2, 4), "names": ("a",)}, patterns),
        Entry("WithGuide", bayes.WithGuide, {"make": list}),
        Entry("Study", bayes.Study, {"task": task}),
        Entry("StudyEvaluation", bayes.StudyEvaluation, {"task": task}),
        Entry("Metric", tasks.Metric, {"name": "x", "function": max}),
        Entry("Task", ws.Task, {field: getattr(task, field) for field in _TASK}, {"train": "object"}),
    ]


_TASK = ("name", "architecture", "train", "validation", "test", "recipe")


def of_networks(world: World) -> list[Entry]:
    """Collections and what is done with them."""
    dense, tickets, layout, task = world.dense, world.tickets, world.layout, world.task
    meta, nans = torch.empty_like(dense.weights, device="meta"), dense.weights.clone()
    nans[1, 2] = NAN
    wrong = [[1.0], meta, nans, dense.weights[0], dense.weights[:, 1:], dense.weights.long(), None, "x"]
    given = {"layout": layout, "weights": dense.weights, "architecture": world.architecture}
    scores = {"scores": dense.weights.abs(), "layout": layout}
    wrong_scores = {"scores": [[1.0], meta, nans, dense.weights[:, 1:], dense.weights[0, 0], None, 1j * dense.weights]}
    wrong_masks = [tickets.masks.int(), tickets.masks[:, 1:], [True], meta.bool(), "x", tickets.masks[:2]]
    prefix = {"factory": "function", "prefix": "prefix"}
    return [
        Entry(
            "Collection",
            ws.Collection,
            given,
            {"weights": None, "records": "texts"},
            {"weights": wrong, "masks": wrong_masks, "records": [[{}] * 2, [3] * 3, {"a": 1}]},
        ),
        Entry("Collection.best", dense.best, {"k": 1}, wrong={"k": [0, 4, 10**12]}),
        Entry("Collection.filter", dense.filter, {"keep": bool}),
        Entry("Collection.save", dense.save, {"folder": "x"}),
        Entry("Collection.load", ws.Collection.load, {"folder": "x"}),
        Entry("Collection.concatenate", ws.Collection.concatenate, {}, {"collections": "object"}),
        Entry("Collection.to_csv", dense.to_csv, {"path": "x"}),
        Entry("Collection.weight_columns", dense.weight_columns, {"at": slice(2)}),
        Entry("Collection.view", dense.view, {"rows": slice(2)}),
        Entry("Collection.module", dense.module, {"i": 0}, {"i": "signed"}),
        Entry("Collection.ensemble", dense.ensemble),
        Entry("merge", ws.merge, {"folders": ["a"], "out": "b"}, {"folders": "texts"}),
        Entry("starts", ws.starts, {"networks": dense}),
        Entry("from_state_dicts", ws.from_state_dicts, {"folder": "x", "factory": nn.Module}, prefix),
        Entry(
            "from_state_dict",
            ws.from_state_dict,
            {"state": world.module, "factory": nn.Module},
            {**prefix, "state": "object"},
        ),
        Entry("Layout.of", ws.Layout.of, {"module": world.module}, {"prunable": "texts"}),
        Entry("Layout.pack", layout.pack, {"state": {}}, wrong={"state": [{}, {"x": 3}]}),
        Entry("Layout.unpack", layout.unpack, {}, {"vector": None}, {"vector": wrong[:1] + wrong[4:5] + wrong[6:]}),
        Entry("Architecture.of", ws.Architecture.of, {"factory": nn.Module}, {"prunable": "texts"}),
        Entry(
            "Unstructured.mask",
            ws.Unstructured(0.1).mask,
            scores,
            {"scores": None},
            {**wrong_scores, "within": wrong_masks},
        ),
        Entry("NM.mask", ws.NM(2, 4).mask, scores, {"scores": None}, {**wrong_scores, "within": wrong_masks}),
        Entry("ERK.mask", ws.ERK(0.1).mask, scores, {"scores": None}, {**wrong_scores, "within": wrong_masks}),
        Entry(
            "Channels.mask", ws.Channels(0.5).mask, scores, {"scores": None}, {**wrong_scores, "within": wrong_masks}
        ),
        Entry("Only.mask", ws.Only(ws.NM(2, 4), "1.*").mask, scores, {"scores": None}, wrong_scores),
        Entry("mask_overlap", masks.mask_overlap, {"first": tickets, "second": tickets}),
        Entry("overlap_within", masks.overlap_within, {"networks": tickets}),
        Entry("densities_to", masks.densities_to, {"density": 0.1, "rate": 0.2}, wrong={"rate": [0, 1]}),
        Entry("with_density", masks.with_density, {"pattern": ws.ERK(0.1), "density": 0.1}),
        Entry(
            "Split", ws.Split, {"x": world.x, "y": world.y}, wrong={"x": ["x", 3, []], "y": ["x", 3, [], world.y[:2]]}
        ),
        Entry(
            "collect", ws.collect, {"task": task, "n": 1}, wrong={"n": [0], "shard": ["x", (2, 2), (0.5, 2), 3, (1,)]}
        ),
        Entry("train", ws.train, {"networks": dense, "task": task, "length": "1it"}),
    ]


def of_stages(world: World) -> list[Entry]:
    """Stages: their functions and methods."""
    dense, tickets, task, x, module = world.dense, world.tickets, world.task, world.x, world.module
    nans = dense.weights.clone()
    nans[1, 2] = NAN
    wrong = [
        [1.0],
        nans,
        dense.weights[0],
        dense.weights[:, 1:],
        dense.weights.long(),
        "x",
        3,
        dense.weights.to("meta"),
    ]
    codes = [[1.0], torch.full((1, 2), NAN), torch.zeros(2), torch.zeros(2, 3), "x", torch.zeros(1, 2).to("meta")]
    small = flow.FlowMatching(width=4, blocks=1, steps=1)
    pca, made = ws.PCA(2).fit(dense), world.generator
    find = {"networks": dense, "task": task}
    posteriors = dense.replace(extras={"std": torch.ones_like(dense.weights)})
    finders = [
        ws.tickets.IMP(), ws.tickets.GradualPruning(), ws.tickets.PruneAtInit(), ws.tickets.DynamicSparseTraining(),
        ws.tickets.EdgePopup(), ws.tickets.ContinuousSparsification(), ws.tickets.EarlyBird(), bayes.BayesianIMP(),
        bayes.GateSearch(),
    ]  # fmt: skip
    inputs, sampled = {"x": "inputs"}, {"density": None, "guidance": "signed float"}
    return [
        *(Entry(f"{type(one).__name__}.find", one.find, find) for one in finders),
        Entry("IMP.find_levels", ws.tickets.IMP().find_levels, find),
        Entry("Variational.fit", bayes.Variational().fit, find),
        Entry("PCA.fit", ws.PCA(2).fit, {"vectors": dense}, {"vectors": None}, {"vectors": wrong[:3] + wrong[4:]}),
        Entry("FittedPCA.transform", pca.transform, {"vectors": dense}, {"vectors": None}, {"vectors": wrong}),
        Entry("FittedPCA.inverse_transform", pca.inverse_transform, {}, {"codes": None}, {"codes": codes}),
        Entry("FittedPCA.save", pca.save, {"folder": "x"}),
        Entry(
            "FlowMatching.fit",
            flow.FlowMatching(steps=1).fit,
            {"codes": torch.ones(3, 2)},
            {"codes": None, "checkpoint": "path"},
            {"codes": [*codes[:3], *codes[4:]]},
        ),
        Entry("FittedFlow.sample", made.flow.sample, {"n": 1}, {"conditions": None}, {"n": [0, 10**12]}),
        Entry(
            "FittedFlow.encode",
            made.flow.encode,
            {"codes": torch.ones(1, 2)},
            {"codes": None, "conditions": None},
            {"codes": codes},
        ),
        Entry("WeightMatching.fit", ws.WeightMatching().fit, {"networks": dense}, {"example": None}),
        Entry("FittedMatching.transform", made.align.transform, {"networks": dense}),
        Entry("ActivationMatching.fit", ws.align.ActivationMatching().fit, {"networks": dense, "x": x}, inputs),
        Entry("StraightThrough.fit", ws.align.StraightThrough().fit, find),
        Entry(
            "TicketGenerator.fit",
            ws.TicketGenerator(compress=ws.PCA(2), generate=small).fit,
            {"tickets": tickets},
            {"example": None},
        ),
        Entry(
            "FittedGenerator.sample",
            made.sample,
            {"n": 1, "density": 0.5},
            sampled,
            {"n": [0, 10**12], "density": DENSITIES},
        ),
        Entry(
            "FittedGenerator.ensemble",
            made.ensemble,
            {"n": 1, "density": 0.5},
            sampled,
            {"n": [0, 10**12], "density": DENSITIES},
        ),
        Entry("FittedGenerator.encode", made.encode, {"networks": tickets}),
        Entry(
            "FittedGenerator.decode",
            made.decode,
            {"codes": torch.zeros(1, 2), "density": 0.1},
            {"codes": None, "density": None},
            {"codes": codes, "density": [*DENSITIES, [0.1, 0.2]]},
        ),
        Entry("FittedGenerator.reconstruct", made.reconstruct, {"networks": tickets, "density": 0.5}, sampled),
        Entry(
            "FittedGenerator.interpolate",
            made.interpolate,
            {"ends": tickets[:2], "steps": 3, "density": 0.1},
            sampled,
            {"steps": [0, 1], "ends": [tickets]},
        ),
        Entry("FittedGenerator.log_prob", made.log_prob, {"networks": tickets}),
        Entry("FittedGenerator.save", made.save, {"folder": "x"}),
        Entry("FittedGenerator.load", ws.FittedGenerator.load, {"folder": "x"}),
        Entry("evaluate", ws.evaluate, {"samples": tickets, "task": task, "training": tickets}),
        Entry("MCDropout.fit", ws.MCDropout().fit, {"task": task}),
        Entry("compact", ws.compact, {"module": module, "example": x}, {"example": "inputs"}),
        Entry("accelerate", ws.sparse.accelerate, {"module": module, "example": x}, {"example": "inputs"}),
        Entry("to_onnx", ws.sparse.to_onnx, {"module": module, "example": x, "path": "x.onnx"}, {"example": "inputs"}),
        Entry("save_ticket", ws.sparse.save_ticket, {"network": tickets[0], "path": "x"}),
        Entry("load_ticket", ws.sparse.load_ticket, {"path": "x"}),
        Entry("refit", ws.sparse.refit, {"pruned": tickets, "dense": dense, "x": x}, inputs),
        Entry("refit_module", ws.sparse.refit_module, {"module": module, "dense": module, "x": x}, inputs),
        Entry("reorder", ws.sparse.reorder, {"networks": dense}, {"scores": None, "example": None}),
        Entry("reorder_module", ws.sparse.reorder_module, {"module": module, "example": x}, {"example": "inputs"}),
        Entry("input_scores", ws.sparse.input_scores, {"networks": dense, "x": x}, inputs),
        Entry(
            "find_order",
            ws.sparse.find_order,
            {"matrix": torch.rand(4, 8)},
            {"matrix": None},
            {"matrix": [wrong[0], "x", 3]},
        ),
        Entry(
            "is_two_four", ws.sparse.is_two_four, {}, {"weight": None}, {"weight": [wrong[0], "x", 3, torch.zeros(4)]}
        ),
        Entry("trace", ws.symmetry.trace, {"module": module, "example": x}, {"example": "inputs"}),
        Entry("refill", ws.tickets.refill, {"tickets": tickets}),
        Entry("regroup", ws.tickets.regroup, {"tickets": tickets}),
        Entry("matching", ws.tickets.matching, {"tickets": [0.1, 0.2], "dense": [0.1, 0.2]}, wrong={"level": [0, 1]}),
        Entry("neural_persistence", ws.tickets.neural_persistence, {"networks": tickets}),
        Entry("transfer", ws.tickets.transfer, {"tickets": tickets, "task": task}),
        Entry("draw", bayes.draw, {"posteriors": posteriors, "n": 1}),
        Entry("means", bayes.means, {"posteriors": posteriors}),
        Entry("draw_gates", bayes.draw_gates, {"tickets": tickets, "n": 1}),
        Entry("predict", bayes.predict, {"posteriors": posteriors, "x": x, "n": 1}, inputs),
        Entry("Comparison", report.Comparison, {}, {"reports": "mapping"}),
        Entry("Report.load", report.Report.load, {"path": "x"}),
        Entry(
            "digits", tasks.digits, {}, {"hidden": "numbers", "held_out": "numbers"}, {"hidden": [(0,), (-1,), (2.5,)]}
        ),
        Entry("iris", tasks.iris, {}, {"hidden": "numbers"}, {"hidden": [(0,), (True,), ("8",)]}),
    ]


def unchecked(width: int = 3, name: str = "x") -> object:
    """What an entry without checks looks like: the checker must see it."""
    return torch.zeros(width), name.upper()


def results(world: World, found: Sequence[Entry]) -> dict[str, str]:
    """What came of every case."""
    return {case: outcome(entry, name, value) for entry in found for case, name, value in cases(entry)}


def exact() -> dict[str, str]:
    """ "same" where numbers of NumPy and torch give the settings that plain ones do, of plain numbers."""
    pairs = {
        "density": (ws.Unstructured(np.float64(0.25)), ws.Unstructured(0.25)),
        "float32": (ws.Unstructured(np.float32(0.25)), ws.Unstructured(0.25)),
        "tensor": (ws.ERK(torch.tensor(0.25, requires_grad=True)), ws.ERK(0.25)),
        "count": (ws.NM(np.int64(2), torch.tensor(4)), ws.NM(2, 4)),
        "array": (recipes.Recipe("3ep", batch_size=np.array(8)), recipes.Recipe("3ep", batch_size=8)),
        "flag": (recipes.SGD(nesterov=np.bool_(True)), recipes.SGD(nesterov=True)),
        "list": (training.Grid(lr=(np.float32(0.5),)), training.Grid(lr=(0.5,))),
        "step": (recipes.Step(np.int32(3)), recipes.Step(3)),
        "integer": (recipes.SGD(lr=1), recipes.SGD(lr=1)),
    }
    return {name: "same" if repr(got) == repr(wanted) else repr(got) for name, (got, wanted) in pairs.items()}


def main(folder: str) -> None:
    """Print what came of every case, of the checker's own control, and of numbers that are right."""
    torch.set_num_threads(1)
    os.chdir(folder)
    world = World()
    control = results(world, [Entry("unchecked", unchecked)])
    held = [entry for entry in entries(world) if entry.name not in GAPS]
    print(json.dumps({"library": results(world, held), "control": control, "exact": exact()}))


if __name__ == "__main__":
    import sys

    main(sys.argv[1])

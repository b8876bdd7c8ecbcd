"""Collections of low-rank adapters: A, B and the head of each network alone, beside one base that all share.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weightspace.adapt.lines import Lines
from weightspace.adapt.low_rank import LowRankLinear, moving_buffers, targets_of, with_adapters
from weightspace.adapt.partial import PartialAdapters, adapter_masks, changed_entries
from weightspace.adapt.task_vectors import KIND, TaskVectors, check_globs, parameters_named
from weightspace.errors import InputError, StorageError
from weightspace.networks.architecture import ADAPTERS, Architecture
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.record import Extra, Record
from weightspace.runtime import checks
from weightspace.runtime.hashing import raw_bytes
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, recipe_length, search
from weightspace.training.conversion import initial

_TRIED = 8  # samples of a try
_SAID = ("rank", "alpha", "on", "whole", "base")  # what records say of how an adapter is built


@dataclass(frozen=True)
class LoRA:
    """Train a change of low rank beside some linear layers of a base, W + (alpha / rank) B A, and nothing else.

    The networks of the result hold A, B and what is trained entirely; the base is no part of their vectors, so that
    thousands of adapters of a large network are small. They are a collection like any other: align and compress them
    with `align.canonical`, learn a generator from them, save them. Their records name the base by its checksum.

    Args:
        rank: Rank of the changes.
        alpha: Numerator of their factor; None is the rank, a factor of 1.
        on: Names or globs of the weights of linear layers that get an adapter; by default all.
        whole: Names or globs of parameters that are trained entirely, such as a head.
        pattern: Which rows of B and columns of A are trained, such as `UniformRatio(0.25)` or `LayerRatios()`; the
            others are absent, zeros by the masks of the collection. None trains all.

    Raises:
        InputError: A setting lies outside its range.
    """

    rank: int = 8
    alpha: float | None = None
    on: str | Sequence[str] = ()
    whole: str | Sequence[str] = ()
    pattern: PartialAdapters | None = None

    starts: ClassVar[Starts] = "either"

    def __post_init__(self) -> None:
        checks.settle(self, check_globs, "on", "whole")
        checks.settle(self, checks.count, "rank", at_least=1)
        checks.settle_given(self, checks.number, "alpha", above=0)
        wanted = "a pattern of adapters, such as UniformRatio(0.25) or LayerRatios()"
        checks.given(self.pattern, "pattern", checks.instance, kinds=PartialAdapters, wanted=wanted)

    @property
    def scale(self) -> float:
        """Factor of the changes."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def architecture(self, base: Collection) -> Architecture:
        """The network with adapters around the first network of a collection; a fresh one changes nothing.

        Args:
            base: The base, dense.

        Raises:
            InputError: The base is sparse, or a glob matches nothing that can have an adapter.
        """
        if not check_networks(base, "base").dense:
            raise InputError("LoRA needs a dense base, got a sparse one: use networks.replace(masks=None)")
        module = base.module(0)
        targets, entirely = self._parts(base, module)
        rank, scale = self.rank, self.scale

        def factory() -> nn.Module:
            return with_adapters(module, targets, entirely, rank, scale)

        factory.__qualname__ = ADAPTERS + base.architecture.name  # the name of what is loaded with it
        prunable = [f"{name.removesuffix('.weight')}.lora_{part}.weight" for name in targets for part in "AB"]
        prunable += [entry.name for entry in base.layout.weights if entry.name in entirely]
        return Architecture.of(factory, prunable=prunable)

    def find(
        self, base: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """An adapter for each network of the base, which must all be one network.

        Args:
            base: One network, as often as adapters are wanted: `starts(networks[[0] * 5], seed=0)` gives five, each
                with its own start of A and order of the data.
            task: Task to train on, of the base's architecture.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The base is not of the task's architecture.
            InputError: The networks of the base differ, one has no seed, or a glob matches nothing.
        """
        check_run(base, task, folder, device, name="base")
        require_samples(task, "LoRA")
        base.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        if len(base) > 1 and not bool((base.weights == base.weights[:1]).all()):
            raise InputError(
                "adapters of one collection share one base, got networks that differ: repeat one of them, as in "
                "starts(networks[[0] * 5], seed=0), and make a collection of adapters for each base"
            )
        architecture = self.architecture(base)
        moving = moving_buffers(architecture.build_seeded(0), task.train.head(_TRIED).x)
        if moving:
            raise InputError(
                f"training changes the buffer {moving[0]}, which adapters of one base would share: LoRA knows the "
                "statistics of PyTorch's norms alone. Use LoTA, or a network without it"
            )
        method = {"name": "LoRA", **self._settings(), "base": checksum(base)}
        begun = initial(architecture, base.records)
        begun = begun.replace(records=[r | {"kind": "start", "start": "given"} for r in begun.records])
        chosen: list[dict[str, Lines]] = []
        if self.pattern is not None:
            targets, _ = self._parts(base, base.module(0))
            chosen = self.pattern.choose(base, task, targets, self.rank, [record.seed for record in base.records])
            masks = adapter_masks(begun.layout, chosen)
            begun = begun.replace(weights=begun.weights * masks, masks=masks)
        own = replace(task, architecture=architecture)
        length = recipe_length(task)

        def find(block: SearchBlock) -> SearchResult:
            trainer = block.trainer(block.networks)
            block.train(trainer, length)
            return SearchResult(trainer, None, [_counted(lines) for lines in chosen[block.rows]])

        found = search(
            begun,
            own,
            find,
            method=method,
            density=None if chosen else 1.0,
            within_masks=True,
            ticks=length,
            what=f"training {len(base)} adapters",
            folder=folder,
            device=device,
        )
        said = {"kind": "adapter", "adapter": {key: method[key] for key in _SAID}}
        return found.replace(records=[record | said for record in found.records])

    @staticmethod
    def load(folder: str | Path, base: Collection) -> Collection:
        """Open saved adapters beside their base.

        Args:
            folder: Folder of a collection of adapters.
            base: Their base.

        Raises:
            StorageError: The folder holds no adapters, or those of another base.
        """
        check_networks(base, "base")
        stored = Collection.load(folder)
        loaded = Collection.load(folder, factory=architecture_of(stored.records[0], base, str(folder)).factory)
        loaded.records = [record | {"adapter": adapter_settings(record, str(folder))} for record in loaded.records]
        return loaded

    def _parts(self, base: Collection, module: nn.Module) -> tuple[list[str], list[str]]:
        """Names of the weights with an adapter, and of what is trained entirely."""
        entirely = parameters_named(base.layout, self.whole) if self.whole else []
        targets = [name for name in targets_of(module, self.on) if name not in entirely]
        if not targets:
            raise InputError("no layer is left for an adapter: `whole` names all that `on` does")
        return targets, entirely

    def _settings(self) -> dict[str, Any]:
        plain = asdict(replace(self, pattern=None))
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
        del settings["pattern"]
        return settings if self.pattern is None else settings | {"pattern": self.pattern.to_json()}


def architecture_of(record: Mapping[str, Any], base: Collection, what: str) -> Architecture:
    """The network of an adapter beside its base.

    Args:
        record: Record of the adapter, or of a sample of adapters.
        base: Its base.
        what: What holds it, for the error.

    Raises:
        StorageError: It is no adapter, or that of another base.
    """
    settings = adapter_settings(Record.of(record), what)
    if settings.pop("base") != checksum(base):
        raise StorageError(f"the adapters in {what} belong to another base: load them with the one they had")
    return LoRA(**settings).architecture(base)


def task_vectors(adapters: Collection, base: Collection) -> TaskVectors:
    """The changes of the base that adapters stand for, each as a whole vector: scale * B A, and what was trained
    entirely.

    Args:
        adapters: Adapters as `LoRA.find` returns them, in memory or loaded by `LoRA.load`.
        base: Their base.

    Raises:
        InputError: The networks are no adapters, or those of another base.
    """
    check_networks(adapters, "adapters")
    check_networks(base, "base")
    try:
        settings = adapter_settings(adapters.records[0], "the collection")
    except StorageError as error:
        raise InputError(str(error)) from error
    if settings["base"] != checksum(base):
        raise InputError("these adapters belong to another base: use the one that they were trained beside")
    own = base[:1]
    states = own.layout.tensors(own.weights.expand(len(adapters), -1).clone())
    trained = {name: torch.zeros_like(tensor) for name, tensor in states.items()}
    parts = adapters.layout.tensors(adapters.weights)
    kept = adapters.layout.tensors(adapters.masks.to(adapters.weights.dtype))
    for name, layer in adapters.architecture.build_seeded(0).named_modules():
        if isinstance(layer, LowRankLinear):
            change = parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]
            states[f"{name}.weight"] = states[f"{name}.weight"] + layer.scale * change
            trained[f"{name}.weight"] = changed_entries(
                kept[f"{name}.lora_A.weight"], kept[f"{name}.lora_B.weight"]
            ).to(change.dtype)
    for name, tensor in parts.items():
        if name in states:
            states[name], trained[name] = tensor, torch.ones_like(tensor)
    changes, moved = (_packed(own, each) for each in (states, trained))
    changes = changes - own.weights
    return TaskVectors(
        own.layout,
        changes * moved,
        architecture=own.architecture,
        masks=(moved != 0) | ~own.layout.prunable,
        buffers=_changed_buffers(adapters, own),
        extras={Extra.TRAINED: moved},
        records=[record | {"kind": KIND} for record in adapters.records],
    )


def checksum(base: Collection) -> str:
    """Identifies a base: a checksum of the parameters and buffers of its first network."""
    digest = hashlib.sha256(raw_bytes(base.weights[:1].contiguous()))
    for name, buffer in sorted(base.buffers.items()):
        digest.update(name.encode())
        digest.update(raw_bytes(buffer[:1].contiguous()))
    return digest.hexdigest()


def _counted(lines: Mapping[str, Lines]) -> dict[str, Any]:
    """What the record of an adapter says of its lines: the numbers of rows of B and columns of A, by layer."""
    counts = {name: [int(each.rows.sum()), int(each.columns.sum())] for name, each in lines.items()}
    return {"lines": counts}


def _changed_buffers(adapters: Collection, base: Collection) -> dict[str, Tensor]:
    """Changes of the base's buffers; counters have none."""
    changes: dict[str, Tensor] = {}
    for name, before in base.buffers.items():
        after = adapters.buffers.get(name, before.expand(len(adapters), *before.shape[1:]))
        changes[name] = after - before if before.is_floating_point() else torch.zeros_like(after)
    return changes


def _packed(base: Collection, states: dict[str, Tensor]) -> Tensor:
    return torch.cat([states[entry.name].flatten(1) for entry in base.layout.parameters], 1)


def adapter_settings(record: Record, what: str) -> dict[str, Any]:
    """How an adapter is built: rank, alpha, on, whole, and the checksum of the base. Samples of adapters say it too.

    Args:
        record: Record of the adapter.
        what: What holds it, for the error.

    Raises:
        StorageError: It is none.
    """
    method = record.method or {}
    said = record.get("adapter", method if method.get("name") == "LoRA" else {})
    if not isinstance(said, Mapping) or not set(_SAID) <= set(said):
        raise StorageError(
            f"{what} holds no adapters of LoRA (its first record is of kind {record.kind!r}): give what "
            "`weightspace adapt lora` or adapt.LoRA made, or samples of such"
        )
    return {key: said[key] for key in _SAID}

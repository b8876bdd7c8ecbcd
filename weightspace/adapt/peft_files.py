"""Adapters in the files of the package PEFT: adapter_config.json and adapter_model.safetensors."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from weightspace.adapt.lora import LoRA, adapter_settings, checksum
from weightspace.adapt.low_rank import LowRankLinear
from weightspace.adapt.peft_config import rank_and_alpha
from weightspace.errors import InputError, StorageError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.storage.files import atomic_file, dump_json, new_folder, write_text
from weightspace.storage.system_errors import exists
from weightspace.storage.tensors import load_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."


def save_peft(adapters: Collection, index: int, folder: str | Path) -> Path:
    """Write one adapter to a new folder, as PEFT loads it.

    Args:
        adapters: Adapters as `LoRA.find` returns them.
        index: Which of them.
        folder: Folder to write.

    Raises:
        InputError: The networks are no adapters.
        StorageError: The folder is not empty, or cannot be written.
    """
    check_networks(adapters, "adapters")
    index = checks.count(index, "index", at_most=len(adapters) - 1)
    checks.path(folder, "folder")
    try:
        method = adapter_settings(adapters.records[index], "the collection")
    except StorageError as error:
        raise InputError(f"only adapters of LoRA can be written for PEFT: {error}") from error
    module = adapters.architecture.build_seeded(0)
    layers = [name for name, layer in module.named_modules() if isinstance(layer, LowRankLinear)]
    parts = adapters.layout.tensors(adapters.weights[index])
    whole = {name: tensor for name, tensor in parts.items() if not _is_factor(name)}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": method["rank"],
        "lora_alpha": method["rank"] if method["alpha"] is None else method["alpha"],
        "lora_dropout": 0.0,
        "use_rslora": False,
        "target_modules": layers,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in whole}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
    }
    folder = Path(folder)
    with new_folder(folder) as temporary:
        write_text(temporary / CONFIG, dump_json(config, CONFIG) + "\n")
        with atomic_file(temporary / TENSORS) as file:
            save_file({_PREFIX + name: tensor.contiguous() for name, tensor in parts.items()}, file)
    return folder


def load_peft(folder: str | Path, base: Collection, *, seed: int = 0) -> Collection:
    """An adapter that PEFT wrote, as a collection of one.

    Args:
        folder: Folder with adapter_config.json and adapter_model.safetensors.
        base: The network that it belongs to; its names are those of the module that PEFT had wrapped.
        seed: Seed in the record, for training on.

    Raises:
        StorageError: The folder holds no such adapter, or a damaged one.
        InputError: The adapter is of a kind that is not read, or belongs to another network.
    """
    folder, seed = Path(checks.path(folder, "folder")), checks.seed(seed)
    check_networks(base, "base")
    rank, alpha = rank_and_alpha(folder / CONFIG)
    if not exists(folder / TENSORS) and exists(folder / _PICKLED):
        raise StorageError(
            f"{folder} holds its tensors as a pickle ({_PICKLED}), which is never read: load it with PEFT, and save it "
            "with save_pretrained(folder)"
        )
    tensors = {_own_name(name): tensor for name, tensor in load_tensors(folder / TENSORS).items()}
    targets = sorted(name.replace(".lora_A.", ".") for name in tensors if ".lora_A." in f".{name}")
    others = {name for name in tensors if not _is_factor(name)}
    saved = others & {buffer.name for buffer in base.layout.buffers}  # statistics of a norm in modules_to_save
    whole = sorted(others - saved)
    known = {entry.name for entry in base.layout.parameters}
    if strange := [name for name in (*targets, *whole) if name not in known]:
        raise InputError(
            f"the adapter in {folder} has {strange[0]}, which is no parameter of this base: take its own base. Only "
            "adapters of linear layers are read"
        )
    lora = LoRA(rank, alpha, tuple(targets), tuple(whole))
    architecture = lora.architecture(base)
    layout = architecture.layout()
    if wrong := [e.name for e in layout.parameters if e.name not in tensors or tuple(tensors[e.name].shape) != e.shape]:
        raise InputError(f"the adapter in {folder} lacks {wrong[0]}, or has another shape of it: take its own base")
    settings = {"rank": rank, "alpha": alpha, "on": targets, "whole": whole}
    weights = torch.cat([tensors[entry.name].flatten() for entry in layout.parameters])
    record = {"kind": "adapter", "index": 0, "seed": seed, "start": "given"}
    said = {**settings, "base": checksum(base)}
    method = {"name": "LoRA", **said, "density": 1.0}
    return Collection(
        layout,
        weights[None].to(layout.dtype),
        architecture=architecture,
        buffers={
            name: tensors[name][None].to(base.buffers[name].dtype) if name in saved else base.buffers[name][:1]
            for name in (buffer.name for buffer in layout.buffers)
        },
        records=[record | {"method": method, "adapter": said}],
    )


def _is_factor(name: str) -> bool:
    return ".lora_A." in f".{name}" or ".lora_B." in f".{name}"


def _own_name(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".modules_to_save.default", "").replace(".default.", ".")

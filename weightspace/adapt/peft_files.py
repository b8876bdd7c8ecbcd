"""Adapters in the files of the package PEFT: adapter_config.json and adapter_model.safetensors."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from weightspace.adapt.lora import LoRA, adapter_settings, checksum
from weightspace.adapt.low_rank import LowRankLinear
from weightspace.errors import InputError, StorageError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.storage.files import atomic_file, dump_json, new_folder, write_text
from weightspace.storage.reading import read_json
from weightspace.storage.tensors import load_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NOT_READ = (
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)


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
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise StorageError(f"{folder / CONFIG} describes no LoRA adapter: only these are read")
    others = [name for name in config if name.startswith("use_") and name != "use_rslora"]
    for name in (*_NOT_READ, *others):
        if config.get(name):
            raise InputError(f"{folder / CONFIG} has {name} = {config[name]!r}, which is not read: merge it with PEFT")
    if config.get("bias", "none") != "none":
        raise InputError(f"{folder / CONFIG} trains biases ({config['bias']!r}), which is not read: merge it with PEFT")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or not 0 < rank < 2**16 or not alpha > 0:
        raise StorageError(f"{folder / CONFIG} is damaged (r = {rank!r}, lora_alpha = {alpha!r})")
    alpha = alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
    tensors = {_own_name(name): tensor for name, tensor in load_tensors(folder / TENSORS).items()}
    targets = sorted(name.replace(".lora_A.", ".") for name in tensors if ".lora_A." in f".{name}")
    whole = sorted(name for name in tensors if not _is_factor(name))
    known = {entry.name for entry in base.layout.parameters}
    if strange := [name for name in (*targets, *whole) if name not in known]:
        raise InputError(f"the adapter in {folder} changes {strange[0]}, which this base does not have: take its own")
    lora = LoRA(rank, float(alpha), tuple(targets), tuple(whole))
    architecture = lora.architecture(base)
    layout = architecture.layout()
    if wrong := [e.name for e in layout.parameters if e.name not in tensors or tuple(tensors[e.name].shape) != e.shape]:
        raise InputError(f"the adapter in {folder} lacks {wrong[0]}, or has another shape of it: take its own base")
    settings = {"rank": rank, "alpha": float(alpha), "on": targets, "whole": whole}
    weights = torch.cat([tensors[entry.name].flatten() for entry in layout.parameters])
    record = {"kind": "adapter", "index": 0, "seed": seed, "start": "given"}
    said = {**settings, "base": checksum(base)}
    method = {"name": "LoRA", **said, "density": 1.0}
    return Collection(
        layout,
        weights[None].to(layout.dtype),
        architecture=architecture,
        buffers={name: base.buffers[name][:1] for name in (buffer.name for buffer in layout.buffers)},
        records=[record | {"method": method, "adapter": said}],
    )


def _is_factor(name: str) -> bool:
    return ".lora_A." in f".{name}" or ".lora_B." in f".{name}"


def _own_name(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".modules_to_save.default", "").replace(".default.", ".")

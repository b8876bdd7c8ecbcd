"""What adapter_config.json of PEFT says of an adapter, and whether its outputs are those of plain LoRA."""

import math
from pathlib import Path
from typing import Any

from weightspace.errors import InputError, StorageError
from weightspace.storage.reading import read_json

_BASE_STAYS = (True, False, None, "gaussian", "eva", "orthogonal")  # other starts subtract something from the base
# Settings that change nothing once an adapter is trained: the file of tensors says which layers have one.
_NO_MATTER = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "bias",
    "init_lora_weights",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
}
_READ = (
    "LoRA and rsLoRA of linear layers, all of one rank and alpha, with modules_to_save, are read. Merge this one into "
    "its base with PEFT (merge_and_unload), and import the network"
)


def rank_and_alpha(path: Path) -> tuple[int, float]:
    """Rank and alpha of a LoRA adapter, that of rsLoRA as plain LoRA has it.

    Args:
        path: The file.

    Raises:
        StorageError: It is missing or damaged, or describes no LoRA adapter.
        InputError: The adapter computes something else than W + (alpha / rank) B A.
    """
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise StorageError(f"{path} describes no LoRA adapter: only these are read")
    for name, value in config.items():
        if value and name not in _NO_MATTER:
            raise InputError(f"{path} has {name} = {value!r}, which is not read. {_READ}")
    if (bias := config.get("bias", "none")) not in ("none", None):
        raise InputError(f"{path} has bias = {bias!r}, and trained biases are not read. {_READ}")
    if (start := config.get("init_lora_weights", True)) not in _BASE_STAYS:
        raise InputError(f"{path} has init_lora_weights = {start!r}, which changes the base and is not read. {_READ}")
    return _numbers(config, path)


def _numbers(config: dict[str, Any], path: Path) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or not 0 < rank < 2**16 or not alpha > 0:
        raise StorageError(f"{path} is damaged (r = {rank!r}, lora_alpha = {alpha!r})")
    return rank, float(alpha * math.sqrt(rank)) if config.get("use_rslora") else float(alpha)

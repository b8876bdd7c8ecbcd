"""BERT from a local folder: its configuration, and the tensors of its file by the names of the network."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.models.bert import ACTIVATIONS
from weightspace.networks.architecture import Architecture
from weightspace.networks.pretrained import Pretrained
from weightspace.runtime import checks
from weightspace.storage.files import file_hash
from weightspace.storage.reading import read_json
from weightspace.storage.system_errors import exists
from weightspace.storage.tensors import open_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""Files of a folder that are read."""
_SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
}
_WORDS = "embeddings.word_embeddings.weight"
_DECODER = "head.decoder.weight"
_OLD = {".gamma": ".weight", ".beta": ".bias"}  # names of BERT's first release
_HEAD = {"cls.predictions.transform.": "head.", "cls.predictions.decoder.weight": _DECODER, "cls.predictions.": "head."}
_COMPUTED = ("embeddings.position_ids", "cls.predictions.decoder.bias")  # counted anew; the same as another tensor
_SHOWN = 4


@dataclass(frozen=True)
class ClassHead:
    """A linear layer on each text, drawn from the network's seed.

    Args:
        outputs: Number of classes.
        pooling: What it reads: the "mean" of all tokens, or the "first" one, [CLS].
    """

    network: ClassVar[str] = "BERTClassifier"

    outputs: int = 2
    pooling: str = "mean"

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "outputs", at_least=1)
        checks.settle(self, checks.one_of, "pooling", choices=("mean", "first"))


@dataclass(frozen=True)
class WordHead:
    """A decoder of masked words, LN(gelu(W h)) E' + b, from the file; where the file has none, W is the identity.

    Args:
        tied: Whether E is the input embedding itself; otherwise it is a copy, trained on its own.
    """

    network: ClassVar[str] = "BERTMaskedWords"

    tied: bool = True

    def __post_init__(self) -> None:
        checks.settle(self, checks.flag, "tied")


def bert(
    folder: str | Path,
    head: ClassHead | WordHead = ClassHead(),
    *,
    layers: int | None = None,
    train_embeddings: bool = True,
    dropout: float = 0.0,
) -> Architecture:
    """The architecture of a pre-trained BERT, whose untrained networks begin at the weights of a local folder.

    The folder has config.json and model.safetensors, with the names of transformers' `BertModel`, with or without
    "bert." before them. Nothing is downloaded. A collection of such networks is saved and loaded like any other,
    wherever the folder is; the folder's checksum is part of what the architecture is.

    Args:
        folder: Local folder.
        head: What is put on the body.
        layers: Number of layers that are used, from the first; None for all.
        train_embeddings: Whether the embeddings are trained; otherwise they stay as they are, and training is faster.
        dropout: Fraction of units and attention weights that training leaves out.

    Raises:
        StorageError: A file is missing or cannot be read.
        InputError: The configuration is that of another kind of network, or has fewer layers.
        LayoutMismatch: The tensors do not fit the configuration.
    """
    folder = Path(checks.path(folder, "folder"))
    checks.instance(head, "head", (ClassHead, WordHead), "a ClassHead(...) or WordHead(...)")
    for name in (CONFIG, WEIGHTS):
        _require_file(folder, name)
    sizes = _sizes(read_json(folder / CONFIG), folder / CONFIG)
    if layers is not None:
        sizes["layers"] = checks.count(layers, "layers", at_least=1, at_most=sizes["layers"])
    settings = {"train_embeddings": checks.flag(train_embeddings, "train_embeddings"), "dropout": dropout}
    given = {name: value for name, value in settings.items() if value != {"train_embeddings": True}.get(name, 0.0)}
    arguments = sizes | given | asdict(head)
    with torch.device("meta"):
        state = Architecture(head.network, arguments).build().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    names = _names_in_file(folder / WEIGHTS, shapes, sizes["layers"])
    begun = Pretrained(file_hash(folder / WEIGHTS), partial(_tensors, folder / WEIGHTS, names))
    return Architecture(head.network, arguments, pretrained=begun)


def _require_file(folder: Path, name: str) -> None:
    if exists(folder / name):
        return
    found = "the folder does not exist"
    if exists(folder):
        there = sorted(path.name for path in folder.iterdir())
        found = f"there are {_some(there)}" if there else "it is empty"
    pickled = " A pickled pytorch_model.bin is not read: save the model with save_pretrained(folder)."
    raise StorageError(
        f"{folder} has no {name} ({found}): give the folder of a BERT model, with {CONFIG}, {WEIGHTS} and "
        f"tokenizer.json.{pickled if name == WEIGHTS and exists(folder / 'pytorch_model.bin') else ''}"
    )


def _sizes(config: Any, path: Path) -> dict[str, Any]:
    """Arguments of `models.BERT`, from a configuration.

    Raises:
        InputError: It is of another kind of network, or lacks a size.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"{path} is no configuration of a model: it holds a {type(config).__name__}")
    wanted: dict[str, tuple[Any, ...]] = {
        "model_type": ("bert",),
        "hidden_act": tuple(ACTIVATIONS),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "pad_token_id": (0, None),
    }
    for name, known in wanted.items():
        if config.get(name) not in known:
            raise InputError(
                f"{path} has {name} = {config.get(name)!r}, and this reads BERT encoders with "
                f"{' or '.join(repr(one) for one in known if one is not None)}: for other models use "
                "language.from_transformers"
            )
    missing = [name for name in (*_SIZES.values(), "layer_norm_eps") if not isinstance(config.get(name), int | float)]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: give the configuration that the weights were saved with")
    sizes = {own: config[name] for own, name in _SIZES.items()}
    return sizes | {"activation": config["hidden_act"], "epsilon": config["layer_norm_eps"]}


def _names_in_file(path: Path, shapes: Mapping[str, tuple[int, ...]], layers: int) -> dict[str, str]:
    """Names of the file's tensors by those of the network.

    Raises:
        LayoutMismatch: The body is not all there, or a tensor has another shape.
    """
    with open_tensors(path) as file:
        found = {_own_name(name): name for name in file.keys()}  # noqa: SIM118
        here = {own: tuple(file.get_slice(name).get_shape()) for own, name in found.items()}
    body = [name for name in shapes if not name.startswith("head.")]
    missing = [name for name in body if name not in found]
    if missing:
        raise LayoutMismatch(
            f"{path} lacks {_some(missing)}, which {CONFIG} says it has; it holds {_some(sorted(found.values()))}"
        )
    names = {name: found[name] for name in body}
    head = [name for name in shapes if name.startswith("head.") and name != _DECODER]
    if all(name in found for name in head):
        names |= {name: found[name] for name in head}
    if _DECODER in shapes:
        names[_DECODER] = found.get(_DECODER, found[_WORDS])
    wrong = [name for name in names if here[_own_name(names[name])] != shapes[name]]
    if wrong:
        raise LayoutMismatch(
            f"{path} has {wrong[0]} of shape {here[_own_name(names[wrong[0]])]}, and {CONFIG} says {shapes[wrong[0]]}: "
            "the two files belong to different models"
        )
    unused = [name for own, name in found.items() if name not in names.values() and not _above(own, layers)]
    unused = [name for name in unused if not name.endswith(_COMPUTED) and _own_name(name) != _DECODER]
    if unused:
        parts = Counter(name.removeprefix("bert.").partition(".")[0] for name in unused)
        named = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items()))
        warnings.warn(f"left out of {path.name}, as the network has no such parts: {named}", stacklevel=4)
    return names


def _own_name(name: str) -> str:
    """The network's name of a tensor of the file."""
    name = name.removeprefix("bert.")
    for old, new in _OLD.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    prefix = next((prefix for prefix in _HEAD if name.startswith(prefix)), "")
    return _HEAD[prefix] + name.removeprefix(prefix) if prefix else name


def _above(name: str, layers: int) -> bool:
    """Is this a tensor of a layer that was not asked for?"""
    number = name.removeprefix("encoder.layer.").partition(".")[0]
    return name.startswith("encoder.layer.") and number.isdigit() and int(number) >= layers


def _tensors(path: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    with open_tensors(path) as file:
        return {own: file.get_tensor(name) for own, name in names.items()}


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

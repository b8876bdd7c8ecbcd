"""Generators in the format of the Hugging Face hub: a folder with a model card; needs `pip install
weightspace[hub]`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from weightspace.generator import MANIFEST, MEASURED, TENSORS, FittedGenerator
from weightspace.storage.files import new_folder, write_text
from weightspace.storage.hub_repository import CARD as CARD
from weightspace.storage.hub_repository import download, hub
from weightspace.storage.manifests import MANIFEST as SUMS
from weightspace.storage.scratch import scratch_folder


def save_pretrained(
    generator: FittedGenerator,
    folder: str | Path,
    *,
    name: str = "owner/name",
    text: str = "",
    license: str | None = None,
    datasets: Sequence[str] | None = None,
) -> Path:
    """Write a generator as a folder that can be uploaded: its files, and a model card that says what it is.

    Args:
        generator: A fitted generator.
        folder: Folder to write, new or empty.
        name: Name of the repository, for the example in the card.
        text: Markdown that follows the facts in the card.
        license: License in the card, such as "mit".
        datasets: Names on the hub of the data that the tickets were trained on, for the card.

    Raises:
        StorageError: The folder is not empty or cannot be written.
    """
    data = hub().ModelCardData(
        library_name="weightspace", tags=_TAGS, license=license, datasets=None if datasets is None else list(datasets)
    )
    card = f"---\n{data.to_yaml()}\n---\n\n{_card(generator, name, text)}"
    with new_folder(Path(folder)) as temporary:
        generator.write(temporary)
        write_text(temporary / CARD, card)
    return Path(folder)


def push_to_hub(
    generator: FittedGenerator,
    repository: str,
    *,
    private: bool = False,
    text: str = "",
    license: str | None = None,
    datasets: Sequence[str] | None = None,
) -> str:
    """Upload a generator; returns the address of the commit. Log in with `hf auth login` first."""
    api = hub().HfApi()
    with scratch_folder("push") as temporary:
        folder = temporary / "generator"
        save_pretrained(generator, folder, name=repository, text=text, license=license, datasets=datasets)
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload generator"))


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache: str | Path | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> FittedGenerator:
    """Open a generator from a folder, or from the hub or its local cache; only JSON and safetensors are read.

    Args:
        name: Folder, or "owner/repository".
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether only the cache is read.
        cache: Folder of the cache; None is the hub's own.
        factory: Builds the network, for architectures that are not built in.

    Raises:
        StorageError: There is no such generator, or it is damaged.
    """
    if Path(name).is_dir():
        return FittedGenerator.load(name, factory=factory)
    files = [MANIFEST, TENSORS, MEASURED, SUMS]
    folder = download(name, files, kind="model", revision=revision, offline=offline, cache=cache)
    return FittedGenerator.load(folder, factory=factory)


_TAGS = ["weightspace", "weight-generation", "sparsity", "lottery-ticket"]


def _card(generator: FittedGenerator, name: str, text: str) -> str:
    known = generator.trained_on
    low, high = known["density"]
    density = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    factory = "" if generator.architecture.factory is None else ", factory=your_network"
    data = ", data=training_split" if generator.layout.buffers else ""
    conditions = ", ".join(map(str, generator.conditions.each)) or "none"
    how = known.get("refined")
    refined = "yes" if generator.refined else "no"
    if how is not None:  # generators that were saved before this was recorded do not say how
        under = ", ".join(how["patterns"] or ["their median density"])
        refined = f"{how['task']}, {how['steps']} steps, under {under}"
    return (
        f"""# Generator of sparse networks

Samples {generator.architecture.name} networks, mask and weights together, with
{generator.layout.num_prunable:,} prunable weights.

- fitted to: {known["networks"]} networks of density {density}, trained on {", ".join(known["tasks"])}
  (fingerprint {known["fingerprint"]})
- refined through the task: {refined}
- conditions: {conditions}

```python
import weightspace as ws

generator = ws.hub.pull("{name}"{factory})
networks = generator.sample(100, density={low:.3g}{data}, seed=0)
```

{text}
""".rstrip()
        + "\n"
    )

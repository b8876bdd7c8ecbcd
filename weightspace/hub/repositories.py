"""Collections, tickets and reports as datasets of the hub, generators as models, each with a card; needs the extra
`hub`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from weightspace.errors import StorageError
from weightspace.generator import MANIFEST, FittedGenerator
from weightspace.generator.hub import from_pretrained, push_to_hub, save_pretrained
from weightspace.hub.cards import card_of_collection, card_of_report
from weightspace.networks.collection import Collection
from weightspace.report.opening import open_report
from weightspace.report.pictures import PictureReport
from weightspace.report.report import Report
from weightspace.runtime import checks
from weightspace.storage.files import make_folder, write_text
from weightspace.storage.hub_repository import CARD, download, hub
from weightspace.storage.scratch import scratch_folder
from weightspace.storage.system_errors import exists

_REPORT, _PAGE, _COLLECTION = "report.json", "report.html", "collection.json"
_READ = [_COLLECTION, "records.jsonl", "shard-*.safetensors", "manifest.json", _REPORT]
_WANTED = "a Collection, a Report, a PictureReport or a FittedGenerator"
_TAGS = ["weightspace", "model-zoo", "lottery-ticket", "sparsity"]

Shared = Collection | Report | PictureReport | FittedGenerator
"""What can be shared."""


def write(
    what: Shared,
    folder: str | Path,
    *,
    name: str = "owner/name",
    text: str = "",
    license: str | None = None,
    datasets: Sequence[str] | None = None,
) -> Path:
    """Write networks, a report or a generator as a folder that can be uploaded: its files, and a card.

    Args:
        what: A collection (of one network, for a single ticket: `tickets[[0]]`), a report, of pictures too, or a
            generator.
        folder: Folder to write, new or empty.
        name: Name of the repository, for the example in the card.
        text: Markdown that follows the facts in the card.
        license: License in the card, such as "mit".
        datasets: Names on the hub of the data that the networks were trained on, for the card.

    Raises:
        InputError: It is none of these, or huggingface_hub is not installed.
        StorageError: The folder is not empty or cannot be written.
    """
    checks.instance(what, "what", (Collection, Report, PictureReport, FittedGenerator), _WANTED)
    folder = Path(checks.path(folder, "folder"))
    if isinstance(what, FittedGenerator):
        return save_pretrained(what, folder, name=name, text=text, license=license, datasets=datasets)
    data = hub().DatasetCardData(
        license=license, tags=_TAGS, source_datasets=None if datasets is None else list(datasets)
    )
    if exists(folder) and any(folder.iterdir()):
        raise StorageError(f"{folder} is not empty: choose another folder")
    if isinstance(what, Collection):
        card = card_of_collection(what, name, text)
        what.save(folder)
    else:
        card = card_of_report(what, name, text)
        make_folder(folder)
        what.save(folder / _REPORT)
        what.html(folder / _PAGE)
    write_text(folder / CARD, f"---\n{data.to_yaml()}\n---\n\n{card}")
    return folder


def push(
    what: Shared,
    repository: str,
    *,
    private: bool = False,
    text: str = "",
    license: str | None = None,
    datasets: Sequence[str] | None = None,
) -> str:
    """Upload networks or a report as a dataset of the hub, a generator as a model; returns the address of the commit.

    Log in with `hf auth login` first.

    Args:
        what: A collection (of one network, for a single ticket: `tickets[[0]]`), a report, of pictures too, or a
            generator.
        repository: "owner/name".
        private: Whether others may not see it, if it is new.
        text: Markdown that follows the facts in the card.
        license: License in the card, such as "mit".
        datasets: Names on the hub of the data that the networks were trained on, for the card.

    Raises:
        InputError: It is none of these, or huggingface_hub is not installed.
    """
    if isinstance(what, FittedGenerator):
        return push_to_hub(what, repository, private=private, text=text, license=license, datasets=datasets)
    api = hub().HfApi()
    with scratch_folder("push") as temporary:
        folder = write(what, temporary / "upload", name=repository, text=text, license=license, datasets=datasets)
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        message = f"Upload {'collection' if isinstance(what, Collection) else 'report'}"
        return str(
            api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder, commit_message=message)
        )


def pull(
    name: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache: str | Path | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> Shared:
    """Open networks, a report or a generator from a folder, or from the hub or its local cache.

    Only JSON and safetensors are read. In the hub a dataset of the name is looked for first, then a model.

    Args:
        name: Folder, or "owner/repository".
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether only the cache is read.
        cache: Folder of the cache; None is the hub's own.
        factory: Builds the network, for architectures that are not built in.

    Raises:
        StorageError: There is no such repository, it is damaged, or holds something else.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = download(name, _READ, kind="dataset", revision=revision, offline=offline, cache=cache)
        except StorageError as error:
            try:
                return from_pretrained(name, revision=revision, offline=offline, cache=cache, factory=factory)
            except StorageError:
                raise error from None
    if exists(folder / _COLLECTION):
        return Collection.load(folder, factory=factory)
    if exists(folder / _REPORT):
        return open_report(folder / _REPORT)
    if exists(folder / MANIFEST):
        return FittedGenerator.load(folder, factory=factory)
    raise StorageError(f"{name} has none of {_COLLECTION}, {_REPORT} and {MANIFEST}: it is nothing that was shared")

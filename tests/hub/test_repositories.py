"""Collections, tickets and reports in the hub's format, offline."""

from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace import hub
from weightspace.errors import InputError, StorageError
from weightspace.report.pictures import PictureSet, Share, ShownPictures

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_says_what_it_holds(tickets: ws.Collection, tmp_path: Path) -> None:
    folder = hub.write(tickets, tmp_path / "zoo", name="me/zoo", text="Made for a test.", license="mit")
    card = (folder / "README.md").read_text()
    head = card.split("---")[1]
    assert "license: mit" in head
    assert "lottery-ticket" in head
    record = tickets.records[0]
    assert f"{len(tickets)} of `{tickets.architecture.name}`" in card
    assert f"task: `{record['task']}` ({len(tickets)})" in card
    assert '"name": "Gradual"' in card  # the ticket finder
    assert '"batch_size"' in card  # the recipe
    assert f"| validation_accuracy | {len(tickets)} |" in card
    for entry in tickets.layout.entries:
        assert f"| `{entry.name}` | {' × '.join(map(str, entry.shape))} | {entry.role} |" in card
    assert 'ws.hub.pull("me/zoo")' in card
    assert "Made for a test." in card
    again = hub.pull(folder)
    assert isinstance(again, ws.Collection)
    assert torch.equal(again.weights, tickets.weights)
    assert again.records == tickets.records
    with pytest.raises(StorageError, match="not empty"):
        hub.write(tickets, folder)


def test_a_single_ticket_from_the_cache_without_network(tickets: ws.Collection, tmp_path: Path) -> None:
    root = tmp_path / "datasets--owner--name"
    hub.write(tickets[[2]], root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    again = hub.pull("owner/name", offline=True, cache=tmp_path)
    assert isinstance(again, ws.Collection)
    assert torch.equal(again.masks, tickets[[2]].masks)
    with pytest.raises(StorageError, match="local cache"):
        hub.pull("owner/other", offline=True, cache=tmp_path)


def test_uploading_sends_a_dataset(tickets: ws.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, object] = {}

    class Api:
        def create_repo(self, repository: str, repo_type: str, private: bool, exist_ok: bool) -> None:
            sent["created"] = (repository, repo_type, private)

        def upload_folder(self, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> str:
            sent["files"] = {p.name for p in Path(folder_path).iterdir()}
            return f"commit of {repo_id}: {commit_message}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.push(tickets[:3], "me/mine", private=True) == "commit of me/mine: Upload collection"
    assert sent["created"] == ("me/mine", "dataset", True)
    assert {"README.md", "collection.json", "records.jsonl", "manifest.json"} <= sent["files"]  # pyright: ignore


def test_reports_come_back_as_they_were(tmp_path: Path) -> None:
    """Of pictures too; a file of another form is refused."""
    share = Share(0.5, 0.4, 0.6)
    sets = [PictureSet("unseen", "held back", 0.1, share), PictureSet("samples", "sampled", 0.2, share, share, share)]
    verdict = ws.report.Verdict("the pictures are no copies", "pass", "none is near", "1 % of unseen ones")
    report = ws.PictureReport("digits", 7, "pixels", sets, [verdict], [ShownPictures("samples", [[[[3]]]])])
    folder = hub.write(report, tmp_path / "report", name="me/pictures")
    card = (folder / "README.md").read_text()
    assert "# Report on networks that draw: digits" in card
    assert report.headline() in card
    assert "| the pictures are no copies | pass | none is near |" in card
    again = hub.pull(folder)
    assert again == ws.PictureReport.load(folder / "report.json")
    assert isinstance(again, ws.PictureReport)
    assert again.to_json() == report.to_json()
    assert str(again) == str(report)
    (folder / "report.json").write_text('{"format": "weightspace.poems", "version": 1}')
    (folder / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(StorageError):
        hub.pull(folder)


def test_generators_are_models(generator: ws.FittedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same three names as collections."""
    root = tmp_path / "models--owner--name"
    folder = hub.write(generator, root / "snapshots" / COMMIT, text="Made for a test.")
    assert "library_name: weightspace" in (folder / "README.md").read_text()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    for again in (hub.pull(folder), hub.pull("owner/name", offline=True, cache=tmp_path)):
        assert isinstance(again, ws.FittedGenerator)
        assert again.fingerprint() == generator.fingerprint()
    sent: list[ws.FittedGenerator] = []
    monkeypatch.setattr("weightspace.hub.repositories.push_to_hub", lambda what, name, **_: sent.append(what) or name)
    assert hub.push(generator, "me/mine") == "me/mine"
    assert sent == [generator]


def test_names_in_cards_stay_in_their_cells(tmp_path: Path) -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Linear(2, 2)

    networks = ws.from_state_dict(build(), build)
    records = [{**networks.records[0], "task": "a|b`c\nd", "metrics": {"f|g": 1.0}}]
    card = (hub.write(networks.replace(records=records), tmp_path / "zoo") / "README.md").read_text()
    assert "task: `a|b'c d` (1)" in card
    assert "| f\\|g | 1 | 1 | 0 | 1 | 1 |" in card
    assert 'pull("owner/name", factory=your_network)' in card


def test_what_cannot_be_shared_is_said_so(tmp_path: Path) -> None:
    for name in (tmp_path / "missing", "./missing", "a/b/c"):
        with pytest.raises(StorageError, match="neither a folder"):
            hub.pull(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=r"none of collection\.json, report\.json and generator\.json"):
        hub.pull(tmp_path / "empty")
    with pytest.raises((InputError, TypeError)):
        hub.write(3, tmp_path / "three")  # pyright: ignore

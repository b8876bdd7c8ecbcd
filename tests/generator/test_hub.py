"""The hub's format, offline."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.generator import MANIFEST, TENSORS, hub


def cached(generator: ws.FittedGenerator, cache: Path) -> None:
    """What a download of owner/name leaves in the cache."""
    root = cache / "models--owner--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub.save_pretrained(generator, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


def test_a_folder_for_the_hub_says_what_it_holds(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    folder = hub.save_pretrained(generator, tmp_path / "g", text="Made for a test.", license="mit")
    assert {p.name for p in folder.iterdir()} == {MANIFEST, TENSORS, hub.CARD, "manifest.json"}
    card = (folder / hub.CARD).read_text()
    head = card.split("---")[1]
    assert "library_name: weightspace" in head
    assert "license: mit" in head
    assert "8 networks of density 0.2, trained on digits" in card
    assert "Made for a test." in card
    again = hub.from_pretrained(folder)
    assert torch.equal(again.sample(2, density=0.2).weights, generator.sample(2, density=0.2).weights)
    with pytest.raises(StorageError, match="not empty"):
        hub.save_pretrained(generator, folder)


def test_the_card_says_how_a_generator_was_refined(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    refine = ws.TaskRefinement(steps=2, networks=2, batch_size=4, patterns=[ws.Unstructured(0.1), ws.NM(2, 4)])
    base = ws.TicketGenerator(compress=ws.PCA(3), generate=ws.FlowMatching(steps=2, width=4, blocks=1))
    plain, refined = (replace(base, refine=one).fit(tickets[:5], task=task) for one in (None, refine))
    card = (hub.save_pretrained(refined, tmp_path / "refined") / hub.CARD).read_text()
    assert "refined through the task: digits, 2 steps, under" in card
    assert "NM(n=2, m=4)" in card
    assert "refined through the task: no" in (hub.save_pretrained(plain, tmp_path / "plain") / hub.CARD).read_text()


def test_a_cached_repository_is_opened_without_network(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    cached(generator, tmp_path)
    again = hub.from_pretrained("owner/name", offline=True, cache=tmp_path)
    assert again.fingerprint() == generator.fingerprint()
    with pytest.raises(StorageError, match="local cache"):
        hub.from_pretrained("owner/other", offline=True, cache=tmp_path)


def test_uploading_sends_the_folder(generator: ws.FittedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, object] = {}

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            sent["created"] = (repository, private)

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
            sent["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            sent["card"] = (Path(folder_path) / hub.CARD).read_text()
            return f"commit of {repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.push_to_hub(generator, "me/mine", private=True, datasets=["mnist"]) == "commit of me/mine"
    assert sent["created"] == ("me/mine", True)
    assert sent["files"] == sorted([MANIFEST, TENSORS, hub.CARD, "manifest.json"])
    assert 'ws.hub.pull("me/mine")' in str(sent["card"])


def test_what_is_no_repository_is_said_so(tmp_path: Path) -> None:
    for name in (tmp_path / "missing", "./missing", "a/b/c", "bad name/x", "~/x"):
        with pytest.raises(StorageError, match="neither a folder"):
            hub.from_pretrained(name)


def test_without_the_extra_the_remedy_is_named(
    generator: ws.FittedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"weightspace\[hub\]"):
        hub.save_pretrained(generator, tmp_path / "g")

"""Tasks of texts: tokens, splits, hidden words; collections of pre-trained networks without paths; IMP from them."""

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from tests.language import tiny
from weightspace.errors import InputError, StorageError
from weightspace.language.masking import masked, masked_loss
from weightspace.language.tasks import RECIPE
from weightspace.language.tokens import Tokenizer
from weightspace.networks.pretrained import Pretrained
from weightspace.training.trainer import Trainer

ENCODER = ws.Only(ws.Unstructured(0.5), "encoder.*")
TEXTS, LABELS = tiny.reviews()


def test_texts_are_cut_by_us_and_keep_their_ends(body: Path) -> None:
    tokenizer = Tokenizer.of(body)
    numbers = tokenizer.numbers(["a good film", "the plot was very very very bad", "unheard"], 6)
    assert numbers.tolist() == [[2, 5, 6, 14, 3, 0], [2, 20, 15, 18, 21, 3], [2, 1, 3, 0, 0, 0]]
    assert tokenizer.numbers(["a good film"], 64).shape == (1, 5)


def test_splits_are_made_with_a_seed_or_given(body: Path) -> None:
    first, again, other = (ws.language.classification(TEXTS, LABELS, body, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [42, 6, 12]
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)
    given = ws.language.classification(TEXTS, [int(one == "praise") for one in LABELS], body, splits=_parts())
    assert torch.equal(given.test.y, torch.tensor([i % 2 for i in range(50, 60)]))
    for splits, message in ((["train"] * 60, "validation split has no texts"), (["dev"] * 60, "got 'dev'")):
        with pytest.raises(InputError, match=message):
            ws.language.classification(TEXTS, LABELS, body, splits=splits)
    with pytest.raises(InputError, match="60 texts and 59 labels"):
        ws.language.classification(TEXTS, LABELS[1:], body)
    with pytest.raises(InputError, match="every class must be in the training split"):
        ws.language.classification(TEXTS, [0] * 59 + [2], body)


def test_texts_are_gathered_by_length_where_they_differ(body: Path) -> None:
    same = ws.language.classification(TEXTS, LABELS, body)
    other = ws.language.classification(["good", *TEXTS[1:]], LABELS, body, splits=_parts())
    assert same.recipe.batches is None
    assert other.recipe == RECIPE
    ws.collect(replace(other, recipe=replace(other.recipe, length=ws.Step(iterations=1))), 1)


def _parts() -> list[str]:
    return ["train"] * 40 + ["validation"] * 10 + ["test"] * 10


def test_fifteen_in_a_hundred_tokens_are_hidden_and_the_rest_stays(body: Path) -> None:
    tokenizer = Tokenizer.of(body)
    numbers = tokenizer.numbers([" ".join(tiny.WORDS * 30)] * 40, 500)
    split = masked(numbers, tokenizer, 0.15, 0, "train")
    ids, places = split.x
    assert places.shape == (40, round(0.15 * 498))
    assert torch.equal(numbers.gather(1, places), split.y)
    assert all(len(set(row)) == len(row) for row in places.tolist())
    shown = ids.gather(1, places)
    hidden, kept = (shown == tokenizer.mask).double().mean(), (shown == split.y).double().mean()
    assert abs(hidden - 0.8) < 0.02
    assert abs(kept - 0.1 - 0.1 / 21) < 0.02
    untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, places, False)
    assert torch.equal(ids[untouched], numbers[untouched])


def test_short_texts_hide_one_word_and_fill_their_rows_up(body: Path, words: ws.Task) -> None:
    assert len(words.train) == 84  # two copies of 42
    ids, places = words.train.x
    counted = words.train.y != -100
    assert (counted.sum(1) == 1).all()
    assert not torch.equal(ids[:42], ids[42:])  # other words are hidden in the copy
    again = ws.language.masked_words(TEXTS, body, copies=2)
    assert torch.equal(again.validation.x[0], words.validation.x[0])
    module = words.architecture.initial_seeded(0).eval()
    outputs = module(ids, places)
    expected = torch.nn.functional.cross_entropy(outputs[counted], words.train.y[counted])
    assert torch.allclose(masked_loss(outputs, words.train.y), expected)
    with pytest.raises(InputError, match="no words"):
        ws.language.masked_words([*TEXTS[:-1], ""], body)


def test_a_collection_loads_without_its_body_and_says_what_is_missing(task: ws.Task, tmp_path: Path) -> None:
    dense = ws.collect(task, 2, seed=0, folder=tmp_path / "dense")
    loaded = ws.Collection.load(tmp_path / "dense")
    assert torch.equal(loaded.weights, dense.weights)
    assert loaded.architecture == task.architecture  # by the checksum of the body
    assert "body" not in (tmp_path / "dense" / "collection.json").read_text()
    x = task.test.x
    assert torch.equal(loaded.module(0).eval()(x), dense.module(0).eval()(x))
    orphan = replace(task, architecture=loaded.architecture)
    with pytest.raises(InputError, match="began at pre-trained weights"):
        ws.collect(orphan, 1)
    begun = loaded.architecture.pretrained
    assert begun is not None
    assert begun.known_by(task.architecture.pretrained).read is not None
    with pytest.raises(InputError, match="give the folder of the body that they began at"):
        begun.known_by(Pretrained("0" * 64, dict))


def test_pretrained_networks_are_where_collect_begins(task: ws.Task) -> None:
    begun = ws.language.pretrained(task, 2, seed=3)
    assert all(record.is_start for record in begun.records)
    encoder = begun.layout.slices["encoder.layer.0.output.dense.weight"]
    head = begun.layout.slices["head.weight"]
    assert torch.equal(begun.weights[0, encoder], begun.weights[1, encoder])
    assert not torch.equal(begun.weights[0, head], begun.weights[1, head])
    none = replace(task, recipe=ws.Recipe("1it", optimizer=ws.Adam(lr=1e-12)))
    assert torch.allclose(ws.collect(none, 2, seed=3).weights, begun.weights, atol=1e-9)
    with pytest.raises(InputError, match="drawn from their seeds"):
        ws.language.pretrained(ws.tasks.iris(), 1)


def test_tickets_rewind_to_the_body_and_to_the_drawn_heads(task: ws.Task) -> None:
    dense = ws.collect(task, 2, seed=0)
    tickets = ws.tickets.IMP(pattern=ENCODER, rate=0.5).find(dense, task)
    begun = ws.language.pretrained(task, 2, seed=0)
    assert torch.equal(tickets.extras["rewind"], begun.weights)
    part = ENCODER.part(tickets.layout).prunable
    assert (tickets.masks[:, part].double().mean(1) - 0.5).abs().max() < 1e-3
    assert tickets.masks[:, ~part].all()
    from_starts = ws.tickets.IMP(pattern=ENCODER, rate=0.5).find(begun, task)
    assert torch.equal(from_starts.masks, tickets.masks)


@pytest.mark.parametrize("train_embeddings", [True, False])
def test_controls_of_pretrained_tickets(body: Path, train_embeddings: bool) -> None:
    recipe = ws.Recipe("1it", batch_size=8, optimizer=ws.Adam(lr=0.01))
    task = ws.language.classification(TEXTS, LABELS, body, train_embeddings=train_embeddings, recipe=recipe)
    tickets = ws.tickets.IMP(pattern=ENCODER, rate=0.5).find(ws.collect(task, 1, seed=0), task)
    controls = ws.tickets.TicketControls(seed=1, pattern=ENCODER)
    begun = ws.language.pretrained(task, 1, seed=0)
    part = ENCODER.part(tickets.layout).prunable
    for name, buffer in begun.buffers.items():  # frozen embeddings
        assert torch.equal(controls.rewound(tickets).buffers[name], buffer)
        assert torch.equal(controls.reinitialised(tickets).buffers[name], buffer)
    drawn = controls.reinitialised(tickets)
    assert torch.equal(drawn.masks, tickets.masks)
    assert torch.equal(drawn.weights[:, ~part], begun.weights[:, ~part])
    kept = tickets.masks & part
    assert (drawn.weights[kept] != begun.weights[kept]).double().mean() > 0.99
    everything = ws.tickets.TicketControls(seed=1).reinitialised(tickets)
    assert (everything.weights[kept] != begun.weights[kept]).double().mean() > 0.99
    same = everything.layout.slices["encoder.layer.0.attention.output.LayerNorm.bias"]
    assert (everything.weights[:, same] == 0).all()  # drawn anew with all else


def test_one_shot_magnitude_of_the_body_stands_beside_a_ticket(task: ws.Task) -> None:
    dense = ws.collect(task, 1, seed=0)
    tickets = ws.tickets.IMP(pattern=ENCODER, rate=0.5).find(dense, task)
    one_shot = ws.tickets.PruneAtInit(ws.tickets.MagnitudeScore(), pattern=ENCODER).find(dense, task)
    begun = ws.language.pretrained(task, 1, seed=0)
    assert torch.equal(one_shot.masks, ENCODER.mask(begun.weights.abs(), begun.layout))
    shared, chance = ws.tickets.mask_overlap(tickets, one_shot, pattern=ENCODER)
    whole, _ = ws.tickets.mask_overlap(tickets, one_shot)
    assert (shared < whole).all()  # what is never pruned is shared by all masks
    part = ENCODER.part(begun.layout).prunable
    both = (tickets.masks & one_shot.masks)[:, part].sum(1).double()
    assert torch.allclose(shared, both / tickets.masks[:, part].sum(1))
    assert (chance < 0.6).all()
    assert (shared > 0.9).all()


def test_levels_go_on_where_they_were_interrupted(task: ws.Task, tmp_path: Path, monkeypatch: Any) -> None:
    finder = ws.tickets.IMP(pattern=ws.Only(ws.Unstructured(0.3), "encoder.*"), rate=0.5)
    dense = ws.collect(task, 1, seed=0)
    whole = finder.find_levels(dense, task)
    ran, run = 0, Trainer.run

    def interrupted(self: Trainer, *args: Any) -> None:
        nonlocal ran
        ran += 1
        if ran == 4:
            raise KeyboardInterrupt
        run(self, *args)

    monkeypatch.setattr(Trainer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finder.find_levels(dense, task, folder=tmp_path / "imp")
    monkeypatch.undo()
    assert (tmp_path / "imp" / "level-01").exists()
    again = finder.find_levels(dense, task, folder=tmp_path / "imp")
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.masks, other.masks)


def test_masked_words_can_be_pruned_and_their_masks_used_elsewhere(words: ws.Task, task: ws.Task) -> None:
    dense = ws.collect(words, 1, seed=0)
    assert "validation_accuracy" in dense.records[0]["metrics"]
    tickets = ws.tickets.IMP(pattern=ENCODER, rate=0.5).find(dense, words)
    begun = ws.language.pretrained(task, 1)
    moved = ws.tickets.transfer_masks(tickets, begun, ENCODER)
    for entry in ENCODER.part(begun.layout).weights:
        assert torch.equal(
            moved.masks[:, begun.layout.slices[entry.name]], tickets.masks[:, tickets.layout.slices[entry.name]]
        )
    assert (moved.weights == begun.weights * moved.masks).all()
    assert ws.train(moved, task, "1it").densities.allclose(moved.densities)


def test_without_tokenizers_the_message_says_what_to_install(body: Path, monkeypatch: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"tokenizer\.json is missing"):
        Tokenizer.of(tmp_path)
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'weightspace\[language\]'"):
        Tokenizer.of(body)

"""Tasks of texts on the command line: from a CSV file and a body to tickets, controls and adapters."""

import csv
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.language import tiny
from weightspace.adapt import TaskVectors
from weightspace.cli.main import main

TASK = ["--task", "text", "--texts", "reviews.csv", "--body", "body"]
HALF = "0.5 only encoder.*"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with reviews and a body."""
    monkeypatch.chdir(tmp_path)
    tiny.write(Path("body"))
    with open("reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*tiny.reviews(), strict=True)])


def test_tickets_and_their_controls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", *TASK, "--n", "1", "--length", "1it", "--out", "dense"]) == 0
    assert main(["tickets", "imp", "dense", *TASK, "--pattern", HALF, "--rate", "0.5", "--out", "imp"]) == 0
    one_shot = ["tickets", "prune-at-init", "dense", *TASK, "--score", "magnitude", "--pattern", HALF]
    assert main([*one_shot, "--out", "one-shot"]) == 0
    control = ["tickets", "control", "imp", "--kind", "reinitialised", "--pattern", HALF]
    assert main([*control, "--out", "redrawn"]) == 0
    assert main(["train", "redrawn", *TASK, "--length", "1it", "--out", "trained"]) == 0
    task = ws.language.classification(*tiny.reviews(), "body")
    begun = ws.language.pretrained(task, 1, seed=0)
    tickets = ws.Collection.load("imp")
    assert torch.equal(tickets.extras["rewind"], begun.weights)
    part = ws.Only(ws.Unstructured(0.5), "encoder.*").part(begun.layout).prunable
    assert torch.equal(ws.Collection.load("redrawn").weights[:, ~part], begun.weights[:, ~part])
    assert len(ws.Collection.load("trained")) == len(ws.Collection.load("one-shot")) == 1
    capsys.readouterr()
    for words, message in (
        (["tickets", "imp", "dense", "--out", "x"], "task text needs texts and a pre-trained body: give --texts"),
        (["collect", "--task", "text", "--out", "x"], "give --texts FILE.csv"),
        (
            ["collect", "--task", "iris", "--body", "body", "--out", "x"],
            "masked_words or next_token",
        ),
    ):
        assert main(words) == 1
        assert message in capsys.readouterr().err
    tiny.write(Path("other"), scale=5.0)
    other = [*TASK[:-1], "other"]
    assert main(["tickets", "imp", "dense", *other, "--pattern", HALF, "--out", "x"]) == 1
    assert "give the folder of the body that they began at" in capsys.readouterr().err


def test_hidden_words_and_adapters() -> None:
    words = ["--task", "masked_words", *TASK[2:]]
    assert main(["collect", *words, "--n", "1", "--length", "1it", "--out", "words", "--no-train-embeddings"]) == 0
    assert ws.Collection.load("words").architecture.name == "BERTMaskedWords"
    short = ["--body-layers", "1", "--tokens", "6"]
    assert main(["collect", *TASK, *short, "--n", "1", "--length", "1it", "--out", "dense"]) == 0
    assert not any("layer.1." in entry.name for entry in ws.Collection.load("dense").layout.entries)
    adapt = ["adapt", "lora", "dense", *TASK, "--rank", "1", "--on", "*query*", "--whole", "head.*", "--out", "lora"]
    assert main(adapt) == 0


def test_rows_of_the_embedding(capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--task", "masked_words", *TASK[2:], "--body-layers", "1", "--tokens", "6"]
    assert main(["collect", *task, "--no-tied", "--n", "1", "--length", "1it", "--out", "words"]) == 0
    rows = ["adapt", "rows", "words", *task, "--tensor", "embeddings.word_embeddings.weight", "--count", "2"]
    assert main([*rows, "--no-tied", "--by", "count", "--out", "few"]) == 0
    assert "predicts as the whole tuned matrix does" in capsys.readouterr().out
    assert main([*rows, "--no-tied", "--by", "count", "--how", "copy", "--out", "copied"]) == 0
    for folder in ("few", "copied"):
        vectors = TaskVectors.load(Path(folder) / "vectors")
        trained = vectors.layout.tensors(vectors.trained)["embeddings.word_embeddings.weight"][0].any(1)
        assert trained.sum() == 2
        assert not trained[0]  # padding is the most frequent number, and no token
    capsys.readouterr()
    assert main(["collect", *task, "--n", "1", "--length", "1it", "--out", "tied"]) == 0
    assert main(["adapt", "rows", "tied", *rows[3:], "--out", "x"]) == 1
    assert "is the decoder of BERTMaskedWords, too" in capsys.readouterr().err
    assert main(["collect", *TASK, "--no-tied", "--out", "x"]) == 1
    assert "--no-tied is of the task masked_words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("review,label\ngood,1\n", "has no column 'text': its first line names"),
        ("text\ngood\nbad\n", "has no column 'label'"),
        ("text,label\ngood,1\nso,so,0\n", "row 3 of reviews.csv has another number of columns"),
        ('text,label\n"good,1\n', "is no CSV file"),
    ],
)
def test_a_file_that_is_no_table_of_texts_is_refused(
    content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("reviews.csv").write_text(content)
    assert main(["collect", *TASK, "--out", "x"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.* does not vectorise")
def test_language_models_of_a_text_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("book.txt").write_text(" ".join(tiny.reviews()[0]))
    words = ["--task", "next_token", "--texts", "book.txt", "--tokens", "8"]
    model = ["--model", "LSTMLanguageModel", "--arguments", "{width: 4, hidden: 4}"]
    options = ["--n", "1", "--length", "2it", "--max-gradient-norm", "1"]
    assert main(["collect", *words, *model, *options, "--out", "lstm"]) == 0
    dense = ws.Collection.load("lstm")
    assert dense.records[0]["recipe"]["max_gradient_norm"] == 1.0
    assert dense.records[0].metrics["validation_perplexity"] > 1
    rewound = ["--density", "0.5", "--rate", "0.5", "--rewind", "1it"]
    with pytest.warns(UserWarning, match="the embedding"):
        assert main(["tickets", "imp", "lstm", *words[2:], *rewound, "--out", "tickets"]) == 0
    assert main(["train", "tickets", *words, "--length", "1it", "--out", "longer"]) == 0
    assert ws.Collection.load("longer").densities.item() == pytest.approx(0.5, abs=0.01)
    again = ["--model", "TransformerLanguageModel", "--arguments", "{width: 4, layers: 1, heads: 1}"]
    small = ["--unit", "words", "--vocabulary", "9", *options]
    assert main(["collect", *words, *again, *small, "--out", "transformer"]) == 0
    assert ws.Collection.load("transformer").architecture.arguments["positions"] == 8
    capsys.readouterr()
    for wrong, message in (
        (["--task", "next_token"], "give --texts FILE"),
        ([*words, "--body", "body"], "trained from scratch"),
    ):
        assert main(["collect", *wrong, "--out", "x"]) == 1
        assert message in capsys.readouterr().err

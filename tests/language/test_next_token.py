"""Language models: perplexity against a computation by hand, causality, windows, tickets."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace import language
from weightspace.errors import InputError
from weightspace.language.next_token import windows
from weightspace.language.vocabulary import END, UNKNOWN, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:.* does not vectorise")  # LSTMs train one after another

PAIRS = "cat mat, dog log, hen pen, fox box, bee tree, ant plant, owl towel, rat hat, cow plough, pig wig"
TEXTS = [
    "the {} sat on the {}. it was {} o'clock!".format(*pair.split(), hour)
    for hour, pair in enumerate(PAIRS.split(", "))
]
RECIPE = ws.Recipe("6it", batch_size=8, optimizer=ws.Adam(lr=1e-2), max_gradient_norm=1.0)
LSTM = ws.Architecture("LSTMLanguageModel", {"width": 6, "hidden": 6})
TRANSFORMER = ws.Architecture("TransformerLanguageModel", {"width": 8, "layers": 1, "heads": 2})


def task(network: ws.Architecture = LSTM, **settings: Any) -> ws.Task:
    return language.next_token(TEXTS, network, window=5, recipe=RECIPE, **settings)


@pytest.fixture(scope="module")
def trained() -> ws.Collection:
    with pytest.warns(UserWarning, match="one after another"):
        return ws.collect(task(), 2, seed=0)


def test_perplexity_is_that_of_a_count_by_hand(trained: ws.Collection) -> None:
    of = task()
    module = trained[0].module().eval()
    total = count = 0.0
    with torch.no_grad():
        for x, y in zip(of.validation.x, of.validation.y, strict=True):
            for position in range(len(x)):  # one token at a time, from the window's start
                log = module(x[None, : position + 1])[0, -1].double().log_softmax(-1)
                total, count = total - log[y[position]].item(), count + 1
    metrics = trained.records[0].metrics
    assert math.isclose(metrics["validation_loss"], total / count, rel_tol=1e-5)
    assert math.isclose(metrics["validation_perplexity"], math.exp(total / count), rel_tol=1e-5)
    assert math.isclose(metrics["validation_bits_per_character"], total / count / math.log(2), rel_tol=1e-5)
    assert trained.best(1).records[0].metrics["validation_perplexity"] == min(
        record.metrics["validation_perplexity"] for record in trained.records
    )
    untrained = of.architecture.build_seeded(0)
    assert F.cross_entropy(untrained(of.validation.x).flatten(0, 1), of.validation.y.flatten()) > total / count


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("network", [LSTM, TRANSFORMER], ids=lambda network: network.name)
def test_a_later_token_changes_no_earlier_logit(network: ws.Architecture, tied: bool) -> None:
    of = task(replace(network, arguments={**network.arguments, "tied": tied}))
    module: Any = of.architecture.build_seeded(0).eval()
    x: torch.Tensor = of.train.head(3).x
    other = x.clone()
    other[:, 3] = (x[:, 3] + 1) % len(module.embedding.weight)
    before, after = module(x), module(other)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-7)
    assert (before[:, 3:] - after[:, 3:]).abs().amax(-1).min() > 1e-5
    assert (module.decoder.weight is module.embedding.weight) == tied


def test_windows_cover_the_stream_exactly_once() -> None:
    stream = torch.arange(23)
    x, y = windows(stream, 5)
    assert torch.equal(x.flatten(), stream[:20])
    assert torch.equal(y.flatten(), stream[1:21])
    parts = ["train"] * 7 + ["validation"] + ["test"] * 2
    of = task(splits=parts)
    vocabulary = Vocabulary.of(TEXTS[:7])
    for name, split in (("train", of.train), ("validation", of.validation), ("test", of.test)):
        texts = [text for text, part in zip(TEXTS, parts, strict=True) if part == name]
        stream = torch.cat([torch.cat([vocabulary.encode(text), torch.ones(1).long()]) for text in texts])
        assert torch.equal(split.x.flatten(), stream[: split.x.numel()])
        assert torch.equal(split.y.flatten(), stream[1 : split.x.numel() + 1])
        assert 0 <= len(stream) - 1 - split.x.numel() < 5
    written = vocabulary.decode(of.train.x.flatten())
    assert written.startswith(TEXTS[0] + END + TEXTS[1])


def test_a_single_text_is_cut_in_order() -> None:
    text = " ".join(TEXTS)
    of = language.next_token(text, LSTM, window=5, unit="words", vocabulary=12, recipe=RECIPE)
    words = Vocabulary.of([text[: round(0.8 * len(text))]], "words", 12)
    assert len(words) == 12
    encoded = words.encode(text)
    assert words.decode(encoded[:3]) == f"the {UNKNOWN} sat"
    assert torch.equal(of.train.x.flatten(), encoded[: of.train.x.numel()])
    assert of.architecture.arguments["vocabulary"] == 12
    assert len(of.train) > len(of.test)
    assert [metric.name for metric in of.scores] == ["perplexity", "bits_per_word"]
    assert not any(metric.higher_is_better for metric in of.scores)


def test_tickets_rewind_and_go_on_level_by_level(trained: ws.Collection, tmp_path: Path) -> None:
    of, finder = task(), ws.tickets.IMP(0.5, 0.3, rewind=ws.Step.of("2it"))
    with pytest.warns(UserWarning, match=r"embedding\.weight"):
        levels = finder.find_levels(trained, of, folder=tmp_path)
    assert [level.densities.mean().item() for level in levels] == pytest.approx([1.0, 0.7, 0.5], abs=0.01)
    for path in (tmp_path / "level-02").iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match=r"embedding\.weight"):
        again = finder.find_levels(trained, of, folder=tmp_path)
    assert torch.equal(again[-1].weights, levels[-1].weights)
    rewound = levels[-1].extras["rewind"]
    early = ws.collect(replace(of, recipe=replace(RECIPE, schedule="constant")), 1, seed=0)
    assert rewound.shape == (2, early.layout.size)
    left = ws.tickets.IMP(pattern=ws.Except(ws.Unstructured(0.5), "embedding*"), rate=0.5).find(trained, of)
    at = left.layout.slices["embedding.weight"]
    assert left.masks[:, at].all()
    assert not levels[-1].masks[:, at].all()


def test_transformers_train_side_by_side_as_alone() -> None:
    of = task(TRANSFORMER)
    both = ws.collect(of, 2, seed=3)
    one = ws.collect(of, 1, seed=3)
    torch.testing.assert_close(both.weights[:1], one.weights, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_a_stream_is_refused() -> None:
    with pytest.raises(InputError, match="a window of 500 needs 501"):
        language.next_token(TEXTS, window=500)
    with pytest.raises(InputError, match="none for test"):
        language.next_token(TEXTS[:3], splits=["train", "train", "validation"])
    with pytest.raises(InputError, match=r"texts\[1\]"):
        language.next_token(["one", ""])
    with pytest.raises(InputError, match="outside a vocabulary of 4"):
        language.next_token_of_ids([torch.arange(8)] * 3, 4, window=2)
    with pytest.raises(InputError, match=r"width .* and hidden .* must be equal"):
        ws.models.LSTMLanguageModel(vocabulary=5, width=3, hidden=4, tied=True)
    with pytest.raises(InputError, match="reads 4 tokens at once, got 5"):
        ws.models.TransformerLanguageModel(vocabulary=5, width=4, heads=1, positions=4)(torch.zeros(1, 5).long())
    assert isinstance(ws.models.LSTMLanguageModel(vocabulary=5, dropout=0.5, layers=2).lstm, nn.LSTM)

"""Texts whose words changed places: every second one, and nothing but the order."""

from experiments.adapt.texts import disordered
from experiments.language.data import Texts


def test_every_second_text_has_neighbouring_words_in_each_others_place() -> None:
    texts = ["one two three four five six", "a b c d e f", "the the , the", "the the , the"]
    found = disordered(Texts(texts, [3, 2, 1, 0], ["train"] * 4), pairs=2)
    assert found.labels == [0, 1, 0, 1]
    assert found.texts[::2] == texts[::2]
    assert sorted(found.texts[1].split()) == sorted(texts[1].split())
    moved = [i for i, (a, b) in enumerate(zip(found.texts[1].split(), texts[1].split(), strict=True)) if a != b]
    assert len(moved) == 4
    assert moved[1] == moved[0] + 1
    assert moved[3] == moved[2] + 1
    assert found.texts[3] == texts[3]  # equal words and punctuation cannot change places

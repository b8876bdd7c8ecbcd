"""Settings keep their spelling on disk when classes and fields are renamed."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from weightspace.masks import Unstructured
from weightspace.storage.spelling import Spelling, spelled, spelled_text


@dataclass(frozen=True)
class New:
    spelling: ClassVar[Spelling] = Spelling("Old", {"after": "before"}, {"after": {"new": "old"}})
    after: str = "new"
    pattern: object = Unstructured(0.1)


def test_a_renamed_class_is_spelled_as_before() -> None:
    assert spelled(New()) == {"before": "old", "pattern": {"density": 0.1, "scope": "global"}}
    assert spelled_text(New()) == "Old(before='old', pattern=Unstructured(density=0.1, scope='global'))"
    assert spelled_text((New("x", None),)) == "(Old(before='x', pattern=None),)"


def test_without_a_spelling_it_is_repr_and_asdict() -> None:
    one = Unstructured(0.25, "layer")
    assert (spelled_text(one), spelled(one)) == (repr(one), asdict(one))
    assert spelled_text([one, (one, one)]) == repr([one, (one, one)])

"""Recipes in files: the same bytes again, and a damaged field is named."""

import json
from typing import Any

import pytest

import weightspace as ws
from weightspace.errors import InputError, StorageError

RECIPES = [
    ws.Recipe(),
    ws.Recipe(
        ws.Step.of("2ep500it"),
        7,
        ws.SGD(lr=0.5, nesterov=True),
        "cosine",
        ws.Augmentation(crop=2, flip=True),
        ws.Step.of("100it"),
    ),
    ws.Recipe(
        optimizer=ws.Adam(lr=3e-3, decoupled=True),
        schedule=ws.Schedule("step", milestones=(ws.Step.of("1ep"), ws.Step.of("20it"))),
    ),
    ws.Recipe(
        max_gradient_norm=1.0, no_decay=("biases", "norms", "embedding.*"), batches=ws.ByLength(padding=1, pool=7)
    ),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_read_as_it_was_written(recipe: ws.Recipe) -> None:
    text = json.dumps(recipe.to_json())
    again = ws.Recipe.from_json(json.loads(text))
    assert again == recipe
    assert json.dumps(again.to_json()) == text
    assert recipe.to_json() == json.loads(text)


def test_the_text_is_that_of_version_0_1() -> None:
    assert json.dumps(RECIPES[0].to_json()) == (
        '{"length": "30ep", "batch_size": 64, "optimizer": {"name": "Adam", "lr": 0.001, "betas": [0.9, 0.999], '
        '"eps": 1e-08, "weight_decay": 0.0, "decoupled": false}, "schedule": {"shape": "constant", "warmup": "0it", '
        '"milestones": [], "gamma": 0.1}, "augmentation": {"crop": 0, "flip": false}}'
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", "many"),
        ("length", 30),
        ("length", "soon"),
        ("optimizer", {"name": "Adagrad"}),
        ("optimizer", {"name": "SGD", "lr": "high"}),
        ("schedule", {"shape": "zigzag"}),
        ("augmentation", {"turn": 3}),
        ("unknown", 1),
        ("max_gradient_norm", "one"),
        ("no_decay", "biases"),
        ("batches", {"padding": "[PAD]"}),
    ],
)
def test_a_damaged_field_is_named(field: str, value: object) -> None:
    with pytest.raises(StorageError, match=f"recipe.*{'lr' if value == {'name': 'SGD', 'lr': 'high'} else field}"):
        ws.Recipe.from_json(ws.Recipe().to_json() | {field: value})


@pytest.mark.parametrize(
    "setting",
    [
        {"max_gradient_norm": 0},
        {"max_gradient_norm": float("nan")},
        {"no_decay": "biases"},
        {"no_decay": [1]},
        {"batches": 0},
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        ws.Recipe(**setting)
    with pytest.raises(InputError, match="padding"):
        ws.ByLength(padding=-1)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(StorageError, match="batch_size"):
        ws.Recipe.from_json({k: v for k, v in ws.Recipe().to_json().items() if k != "batch_size"})


def test_damaged_layouts_and_architectures_are_named() -> None:
    architecture = ws.Architecture("MLP", {"sizes": [2, 3]})
    layout = architecture.layout()
    assert ws.Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    with pytest.raises(StorageError, match=r"layout.*entries"):
        ws.Layout.from_json(layout.to_json() | {"entries": [["a", [2, "x"], "weight", "float32"]]})
    with pytest.raises(StorageError, match=r"layout.*aliases"):
        ws.Layout.from_json({"entries": layout.to_json()["entries"]})
    assert ws.Architecture.from_json(architecture.to_json()) == architecture
    with pytest.raises(StorageError, match=r"architecture.*arguments"):
        ws.Architecture.from_json({"name": "MLP", "arguments": 3})

"""Networks of other libraries by name."""

import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.models.libraries import is_of_library

SMALL = "torchvision:mobilenet_v2(width_mult=0.1, num_classes=3)"


def test_torchvision_builds_what_its_own_call_builds() -> None:
    from torchvision.models import get_model

    architecture = ws.Architecture.of(ws.models.from_library(SMALL))
    assert architecture.name == SMALL
    built = architecture.build_seeded(0)
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    own = get_model("mobilenet_v2", width_mult=0.1, num_classes=3)
    assert shapes == {name: tensor.shape for name, tensor in own.state_dict().items()}
    again = architecture.build_seeded(0).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in built.state_dict().items())
    assert pickle.loads(pickle.dumps(architecture.factory)) == architecture.factory  # for worker processes


def test_timm(monkeypatch) -> None:
    asked: list[tuple] = []

    def create_model(name: str, *, pretrained: bool, **arguments: int) -> nn.Module:
        asked.append((name, pretrained, arguments))
        return nn.Linear(3, arguments["num_classes"])

    fake = SimpleNamespace(create_model=create_model, is_model=lambda name: name == "tiny.in-1k")
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert ws.models.from_library("timm:tiny.in-1k(num_classes=2)")().out_features == 2
    assert asked == [("tiny.in-1k", False, {"num_classes": 2})]
    with pytest.raises(InputError, match=r"no network 'huge'.*list_models"):
        ws.models.from_library("timm:huge")


def test_transformers() -> None:
    pytest.importorskip("transformers")
    sizes = "hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20"
    module = ws.models.from_library(f"transformers:BertForSequenceClassification({sizes}, num_labels=3)")()
    assert module(torch.ones(2, 4, dtype=torch.long)).logits.shape == (2, 3)
    with pytest.raises(InputError, match="no network 'BertTokenizer'"):
        ws.models.from_library("transformers:BertTokenizer")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras:resnet18", "written like torchvision:resnet18"),
        ("torchvision:", "written like"),
        ("torchvision:resnet18(10)", "arguments have names"),
        ("torchvision:resnet18(num_classes=open('x'))", "cannot be read"),
        ("torchvision:resnet18(num_classes=1", "cannot be read"),
        ("torchvision:resnet18(**{'num_classes': 3})", r"\*\*"),
        ("torchvision:resnet1", "no network 'resnet1'"),
        ("torchvision:resnet18(weights='DEFAULT')", "pre-trained weights .weights."),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ws.models.from_library(name)


def test_what_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="timm is not installed: pip install timm"):
        ws.models.from_library("timm:resnet18")


def test_names_of_libraries_are_told_from_modules() -> None:
    assert is_of_library("timm:resnet18")
    assert not is_of_library("my_module:build")
    assert not is_of_library("timm")

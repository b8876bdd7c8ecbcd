import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.forward import forward

COUNTS = [
    ("MLP", {"sizes": (784, 300, 100, 10)}, 266_610, (1, 28, 28)),
    ("LeNet300", {}, 266_610, (1, 28, 28)),  # 235,200 + 30,000 + 1,000 weights and 410 biases (1803.03635)
    ("LeNet5", {}, 61_706, (1, 28, 28)),
    ("SmallConv", {}, 2_464, (1, 28, 28)),  # 2002.11448
    ("Conv", {"depth": 2}, 4_301_642, (3, 32, 32)),  # 1803.03635: 4.3 M
    ("Conv", {"depth": 4}, 2_425_930, (3, 32, 32)),  # 1803.03635: 2.4 M
    ("Conv", {"depth": 6}, 2_262_602, (3, 32, 32)),
    ("VGG", {"depth": 11}, 9_231_114, (3, 32, 32)),
    ("VGG", {"depth": 16}, 14_728_266, (3, 32, 32)),
    ("ResNet20", {"shortcut": "pad"}, 269_722, (3, 32, 32)),  # 1512.03385: 0.27 M
    ("ResNet20", {}, 272_474, (3, 32, 32)),  # open_lth
    ("ResNet18", {}, 11_173_962, (3, 32, 32)),
    ("Siren", {"sizes": (2, 256, 256, 3)}, 67_331, None),
    ("ViT", {"side": 224, "patch": 16, "outputs": 1000}, 5_717_416, None),  # DeiT-Ti: 5.7 M
]


@pytest.mark.parametrize(("name", "arguments", "count", "shape"), COUNTS)
def test_parameter_counts_and_shapes(name: str, arguments: dict, count: int, shape: tuple[int, ...] | None) -> None:
    architecture = ws.Architecture(name, arguments)
    assert architecture.layout().size == count
    if shape is not None:
        assert architecture.build().eval()(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("LeNet5", {}, (1, 28, 28)),
        ("SmallConv", {}, (1, 28, 28)),
        ("Conv", {"depth": 2, "width": 0.05, "image": (1, 8, 8)}, (1, 8, 8)),
        ("VGG", {"depth": 11, "width": 0.05}, (3, 32, 32)),
        ("ResNet20", {"width": 0.25}, (3, 16, 16)),
        ("ResNet20", {"width": 0.25, "shortcut": "pad"}, (3, 16, 16)),
        ("ViT", {"width": 12, "depth": 2, "side": 8}, (3, 8, 8)),
    ],
)
def test_every_network_vectorises(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    architecture = ws.Architecture(name, arguments)
    modules = [architecture.build_seeded(i).double().eval() for i in range(3)]
    x = torch.randn(3, 2, *shape, dtype=torch.float64)
    states = [module.state_dict() for module in modules]
    layout = ws.Layout.of(modules[0])
    stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    parameters = {e.name: stacked[e.name] for e in layout.parameters}
    buffers = {e.name: stacked[e.name] for e in layout.buffers}
    together = forward(modules[0], parameters, buffers, x, shared_input=False)
    each = torch.stack([module(x[i]) for i, module in enumerate(modules)])
    torch.testing.assert_close(together, each, rtol=1e-9, atol=1e-10)


def test_impossible_sizes_are_refused() -> None:
    for name, arguments in [
        ("MLP", {"sizes": (3,)}),
        ("Conv", {"depth": 3}),
        ("VGG", {"depth": 12}),
        ("ViT", {"patch": 5}),
    ]:
        with pytest.raises(InputError, match=r"must|needs"):
            ws.Architecture(name, arguments).build()


def test_siren_starts_as_published() -> None:
    torch.manual_seed(0)
    siren = ws.models.Siren((2, 256, 256, 1), omega=30.0)
    first, second = siren[0].weight, siren[2].weight
    assert first.abs().max() <= 0.5  # 1 / fan in
    assert second.abs().max() <= (6 / 256) ** 0.5 / 30
    x = torch.rand(400, 2) * 2 - 1
    before = torch.nn.functional.linear(siren[1](siren[0](x)), second)  # without biases
    assert 30 * before.std().item() == pytest.approx(1.0, abs=0.1)  # so that sines keep their spread
    torch.testing.assert_close(siren[1](siren[0](x)), torch.sin(30 * siren[0](x)))

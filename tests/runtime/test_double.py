"""Float64 copies do not round inside."""

import pytest
import torch
from torch import Tensor, nn

from weightspace.runtime.double import doubled, in_double


class Rounds(nn.Module):
    """Casts, makes and holds what is not float64."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer, self.constant = how, nn.Linear(3, 3), torch.eye(3)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.zeros(len(x), 3, dtype=torch.float32)
        return {
            "casts": lambda: self.layer(x.float()),
            "halves": lambda: self.layer(x.half()).bfloat16(),
            "bytes": lambda: self.layer((x * 10).byte().float()),
            "fills": lambda: made.copy_(self.layer(x)),
            "constant": lambda: self.layer(x) @ self.constant,
            "made anew": lambda: self.layer(x) @ torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float32),
        }[self.how]()


@pytest.mark.parametrize("how", ["casts", "halves", "bytes", "fills", "constant", "made anew"])
def test_what_a_module_makes_and_casts_is_float64(how: str) -> None:
    module, x = Rounds(how).double(), doubled({"x": torch.rand(4, 3), "n": torch.arange(2)})
    assert x["n"].dtype is torch.int64
    with torch.no_grad(), in_double():
        found = module(x["x"])
    assert found.dtype is torch.float64
    exact = module.layer((x["x"] * 10).floor() if how == "bytes" else x["x"])
    if how == "made anew":
        exact = exact @ torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=1e-14, atol=1e-14)
    if how in ("casts", "bytes", "constant", "made anew"):
        with pytest.raises(RuntimeError, match="dtype"), torch.no_grad():
            module(x["x"])
    assert torch.get_default_dtype() is torch.float32

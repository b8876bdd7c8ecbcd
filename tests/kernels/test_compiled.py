"""The compiled product of sparse rows: right for every shape, built safely, and left out where it cannot be built."""

import ctypes
import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import weightspace as ws
from weightspace.kernels import compiled
from weightspace.kernels.compiled import CompiledRows, NoKernel
from weightspace.kernels.csr import CSRStructure


def needs_compiler() -> None:
    try:
        compiled.kernel()
    except NoKernel as error:
        pytest.skip(str(error))


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a process that has not tried to build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", compiled.cache(compiled._loaded.__wrapped__))
    return tmp_path / "weightspace"


HELD = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "columns of a larger batch": lambda x: torch.cat([x, x + 1]).t().contiguous().t()[: len(x)],
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every second number": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
    "one row again and again": lambda x: x[:1].expand(x.shape),
}


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(0, 40),
    inputs=st.integers(0, 70),
    batch=st.one_of(st.integers(0, 20), st.integers(30, 150)),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    held=st.sampled_from(sorted(HELD)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_compiled_rows_multiply_as_a_dense_matrix(
    outputs: int, inputs: int, batch: int, density: float, held: str, bias: bool, seed: int
) -> None:
    needs_compiler()
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(outputs, inputs, generator=random) < density
    dense = torch.randn(outputs, inputs, generator=random) * mask
    shift = torch.randn(outputs, generator=random) if bias else None
    x = HELD[held](torch.randn(batch, inputs, generator=random))
    rows = CompiledRows.of(CSRStructure.of(mask))
    found, expected = rows.infer(x, dense[mask], shift), F.linear(x, dense, shift)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if density and batch and dense.any():  # the control: one weight in another place
        moved = dataclasses.replace(rows, columns=(rows.columns + 1) % inputs)
        assert inputs == 1 or not torch.allclose(moved.infer(x, dense[mask], shift), expected, atol=1e-5)


def test_what_the_kernel_must_not_read_is_refused() -> None:
    needs_compiler()
    mask = torch.ones(3, 4, dtype=torch.bool)
    rows, values = CompiledRows.of(CSRStructure.of(mask)), torch.ones(12)
    for shape in ((4,), (2, 3, 4), (0, 3, 4), (2, 20, 4)):
        found = rows.infer(torch.ones(shape), values, None)
        assert torch.equal(found, torch.full((*shape[:-1], 3), 4.0))
        assert found.is_contiguous() or len(shape) == 2
    for wrong in (torch.ones(2, 3), torch.ones(2, 5)):
        with pytest.raises(ws.InputError, match="length 4"):
            rows.infer(wrong, values, None)
    with pytest.raises(ws.InputError, match="float32"):
        rows.infer(torch.ones(2, 4, dtype=torch.float64), values, None)


@pytest.mark.parametrize(
    ("compiler", "said"), [("no-such-compiler", "install g\\+\\+ or clang"), ("false", "false fails")]
)
def test_without_a_compiler_one_line_says_so(
    compiler: str, said: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    structure = CSRStructure.of(torch.ones(3, 4, dtype=torch.bool))
    with caplog.at_level(logging.WARNING, "weightspace"):
        for _ in range(2):
            with pytest.raises(NoKernel, match=said):
                CompiledRows.of(structure)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "about half as fast" in caplog.text
    assert list(fresh.iterdir()) == []
    # A network still runs, and the table says why.
    layer = torch.nn.Linear(40, 30)
    layer.weight.data *= torch.rand(30, 40) < 0.1
    fast = ws.sparse.accelerate(layer, torch.randn(20, 40))
    assert set(fast.choices[0].seconds) == {"dense", "rows"}
    assert f"compiled rows: {'no C++ compiler' if 'no-such' in compiler else 'false fails'}" in str(fast)


def test_a_cache_that_cannot_be_written_is_no_error(fresh: Path) -> None:
    fresh.write_text("a file, where the folder would be")
    with pytest.raises(NoKernel, match="cannot be kept"):
        compiled.kernel()


def test_several_build_at_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    built, calls, real = fresh / "several", fresh / "calls", os.environ.get("CXX") or "c++"
    slow = fresh / "slow"
    fresh.mkdir(exist_ok=True)
    slow.write_text(f'#!/bin/sh\necho call >> {calls}\nwhile [ "$(wc -l < {calls})" -lt 2 ]; do :; done\n{real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    with ThreadPoolExecutor(2) as pool:
        paths = set(pool.map(compiled.build, [built, built]))
    assert len(calls.read_text().splitlines()) == 2, "both compiled, neither waited for the other"
    assert list(built.iterdir()) == list(paths)
    assert ctypes.CDLL(str(*paths))["weightspace_rows"]
    compiled.build(built)
    assert len(calls.read_text().splitlines()) == 2, "once is enough"

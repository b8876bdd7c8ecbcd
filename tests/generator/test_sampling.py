from hypothesis import given
from hypothesis import strategies as st

import weightspace as ws
from weightspace.generator.projection import Draw
from weightspace.generator.sampling import block_of, draws_in, sampling_config


@given(draws=st.integers(1, 4), n=st.integers(1, 6), block=st.integers(1, 9))
def test_blocks_hold_every_network_of_every_draw_once(draws: int, n: int, block: int) -> None:
    drawn = [Draw(ws.Unstructured(0.5), None, i) for i in range(draws)]
    seen: list[int] = []
    for start in range(0, draws * n, block):
        rows = slice(start, min(start + block, draws * n))
        parts = list(draws_in(drawn, n, rows))
        assert all(draw is drawn[at // n] for draw, _, _, at in parts)
        assert sum(last - first for _, first, last, _ in parts) == rows.stop - rows.start
        seen += [at + i for _, first, last, at in parts for i in range(first, last)]
    assert seen == list(range(draws * n))


def test_what_is_kept_in_memory_is_one_block() -> None:
    assert block_of(1000, 2**30, None, written=False) == 1000
    assert block_of(1000, 2**30, None, written=True) == 1


def test_settings_are_written_where_they_mean_something() -> None:
    one = sampling_config(3, [ws.Unstructured(0.5)], 7, True, None, None)
    assert set(one) == {"n", "pattern", "seed"}
    several = sampling_config(3, [ws.Unstructured(0.5), ws.Unstructured(0.2)], 7, True, ({"noise": 1.0}, 2.0), None)
    assert set(several) == {"n", "pattern", "seed", "nested", "condition", "guidance"}

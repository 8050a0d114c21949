"""The Python twin of the sim backend gives the same tokens as the C code: both read the same file."""
import pathlib

import sim_model

GOLDEN = pathlib.Path(__file__).with_name("sim_golden.txt")


def golden_rows():
    for line in GOLDEN.read_text().splitlines():
        if line and not line.startswith("#"):
            yield [[int(x) for x in part.split()] for part in line.split("|")]


def test_the_twin_continues_every_golden_prompt_as_recorded():
    rows = list(golden_rows())
    assert len(rows) >= 6
    for (vocab, special), prompt, want in rows:
        first, count = sim_model.token_range(vocab, [special])
        assert sim_model.generate(prompt, len(want), first, count) == want


def test_one_changed_token_changes_the_continuation():
    base = list(range(400, 500))
    want = sim_model.generate(base, 4, 300, 30000)
    for i in (0, 1, 50, 98, 99):
        lost, doubled, swapped = base[:i] + base[i + 1:], base[:i] + [base[i]] + base[i:], list(base)
        swapped[i], swapped[i - 1] = swapped[i - 1], swapped[i]
        for other in (lost, doubled, swapped):
            assert sim_model.generate(other, 4, 300, 30000) != want

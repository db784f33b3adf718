"""The table of a run on the terminal."""

import io

from rich.console import Console

from kdlab.run.result import print_table


def test_a_run_has_any_name_and_its_table_shows_it_as_it_is():
    row = {"test": {"last": {"accuracy": 0.5}}, "parameters": 10, "multiply_accumulates": 20, "bytes": 30,
           "latency_ms": 0.1, "seconds": 1.0, "samples_per_second": 5.0}  # fmt: skip
    result = {"name": "[/red]\x1b[2J", "primary": "accuracy", "titles": {"accuracy": "accuracy [/b]"}, "chain": [],
              "student": {**row, "peers": {"[/peer]": row}}, "gap_closed": {}}  # fmt: skip
    out = io.StringIO()
    print_table(result, Console(file=out, width=120))
    assert "[/red]\\x1b[2J" in out.getvalue()
    assert "[/peer]: test accuracy 0.5000" in out.getvalue()

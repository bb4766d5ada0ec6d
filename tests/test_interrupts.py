"""A command whose time is up ends at once, whatever it waits for."""

from __future__ import annotations

import subprocess
import sys
import time

WAITING = """
import multiprocessing as mp
from multiprocessing.connection import wait
from ferbal.cli import interrupts

interrupts.catch()
here, there = mp.Pipe()
interrupts.after(0.2)
try:
    wait([here], 60)
except interrupts.Interrupted:
    raise SystemExit(interrupts.exit_code())
"""


def test_one_that_waits_for_other_processes_wakes_when_its_time_is_up() -> None:
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-c", WAITING], timeout=120).returncode == 5
    assert time.monotonic() - begun < 50  # of the 60 seconds it would wait

"""Waiting until other things leave the machine alone, the measurement before this one among them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click

BUSY = 0.5
"""Load average of a minute above which figures mean little: a thread of PyTorch waits for all others in every parallel
loop."""
PATIENCE = 180.0
"""Seconds; what a measurement on two cores leaves behind falls below BUSY in 85."""
LOOK = 5.0
"""Seconds between looks."""


def wait_until_quiet(
    load: Callable[[], float] = lambda: os.getloadavg()[0], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until the load average is at most BUSY, at most for PATIENCE; say so, and warn if it stays above."""
    now = load()
    if now <= BUSY:
        return
    click.echo(f"load average {now:.1f}: waiting up to {PATIENCE:.0f} s until it is {BUSY:g}", err=True)
    waited = 0.0
    while now > BUSY and waited < PATIENCE:
        sleep(LOOK)
        waited += LOOK
        now = load()
    if now > BUSY:
        click.echo(f"warning: load average {now:.1f}; other processes spoil the figures", err=True)

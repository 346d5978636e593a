"""Measuring: how long a training step takes and where, against what the machine can do.

`nnjit bench` and the scripts in benchmarks/ share this package. It measures what `nnjit train` runs, and changes
nothing about it.
"""

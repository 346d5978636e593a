"""`python -m nnjit` is the command `nnjit`."""

from nnjit.cli import main

main(prog_name="nnjit")

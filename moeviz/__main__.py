"""`python -m moeviz`: see `moeviz.cli`."""

from moeviz.cli import main

main(prog_name="python -m moeviz")

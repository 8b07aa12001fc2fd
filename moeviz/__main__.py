"""`python -m moeviz`: see `moeviz.cli.main`."""

from moeviz.cli.main import main

main(prog_name="python -m moeviz")

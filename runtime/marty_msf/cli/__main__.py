"""`python -m marty_msf.cli`: what the runtime image starts."""

from marty_msf.cli import main

main(prog_name="marty")

"""`python -m ferbal` is `ferbal`."""

from ferbal.cli import main

main()

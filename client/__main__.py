"""`python -m client`: the same as `slalom`."""

from client.main import main

main()

"""`python -m thinwire` is the command `thinwire`, so that torchrun can start it."""

from thinwire.cli import main

if __name__ == "__main__":
    main()

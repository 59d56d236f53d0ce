"""`python -m harness` and the command `harness` are the same program."""

from harness.cli import main

if __name__ == "__main__":
    main()

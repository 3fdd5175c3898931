"""`python -m clipsearch`."""

from clipsearch.cli.main import run

if __name__ == "__main__":
    run()

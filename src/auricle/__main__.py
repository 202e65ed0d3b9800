"""`python -m auricle` is the command `auricle`."""

from auricle.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m dledger_py.cli` is `dledger`."""

from dledger_py.cli.main import main

if __name__ == "__main__":
    main()

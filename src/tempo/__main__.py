"""`python -m tempo` is `tempo`."""

from tempo.cli.main import main

if __name__ == "__main__":
    main()

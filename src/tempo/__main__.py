"""`python -m tempo` is `tempo`."""

from tempo.cli import main

if __name__ == "__main__":
    main()

"""`python -m research.study`."""

from research.study.command import main

if __name__ == "__main__":
    main()

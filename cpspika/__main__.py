"""`python -m cpspika`: see `cpspika.cli`."""

from .cli import main

if __name__ == "__main__":
    main()

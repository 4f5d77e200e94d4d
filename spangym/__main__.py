"""`python -m spangym`: the same as the command ``spangym``."""

from spangym.experiments.cli.entry import main

if __name__ == "__main__":
    main()

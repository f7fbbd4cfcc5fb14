"""``python -m kforecast.training.train``: kforecast-train, for launchers that start a module."""

from kforecast.commands.train import main

if __name__ == "__main__":
    main()

"""``python -m kforecast.training.train``: kforecast-train, as launchers of several machines name it."""

from kforecast.commands.train import main

if __name__ == "__main__":
    main()

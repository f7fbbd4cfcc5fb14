"""Train a forecaster.

python scripts/train.py --config-file=train-config.yaml --dataset-file=traffic.csv --model-save-path=model
python scripts/train.py source=synthetic optimizer.lr=0.01
"""

from kforecast.commands.train import main

if __name__ == "__main__":
    main()

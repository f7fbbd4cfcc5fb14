"""Train a candidate, which replaces the champion only if it is better.

python scripts/retrain.py retrain.dir=models/shop --dataset-file=traffic.csv
python scripts/retrain.py retrain.dir=models/shop --rollback
"""

from kforecast.commands.retrain import main

if __name__ == "__main__":
    main()

"""Train a candidate, and let it serve only if it is better than the champion.

python scripts/retrain.py retrain.dir=models/shop --dataset-file=traffic.csv
python scripts/retrain.py retrain.dir=models/shop --rollback
"""

from kforecast.commands.retrain import main

if __name__ == "__main__":
    main()

"""Compare an artifact with baselines in a rolling backtest.

python scripts/evaluate.py artifact_dir=model source=csv source.path=traffic.csv
python scripts/evaluate.py artifact_dir=model --dataset-file=traffic.csv evaluate.require_skill=0.0
"""

from kforecast.commands.evaluate import main

if __name__ == "__main__":
    main()

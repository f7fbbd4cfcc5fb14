"""Replay recorded traffic under the autoscaler that is deployed, with and without forecasts.

python scripts/replay.py artifact_dir=model --dataset-file=traffic.csv
python scripts/replay.py artifact_dir=model --dataset-file=traffic.csv capacity.lead_time=90
"""

from kforecast.commands.replay import main

if __name__ == "__main__":
    main()

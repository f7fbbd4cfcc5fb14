"""Forecast the next points of every series.

python scripts/forecast.py artifact_dir=model source=csv source.path=traffic.csv
python scripts/forecast.py artifact_dir=model --dataset-file=traffic.csv output=forecast.csv
"""

from kforecast.commands.forecast import main

if __name__ == "__main__":
    main()

"""Fetch history into a file, and report its problems.

python scripts/fetch.py --config-file=train-config.yaml --metrics-server-addr=localhost:9090 output=h.parquet
python scripts/fetch.py source=csv source.path=traffic.csv
"""

from kforecast.commands.fetch import main

if __name__ == "__main__":
    main()

"""Serve the gRPC metrics provider, backed by a file or a Prometheus.

python scripts/serve_metrics.py source=synthetic serve.shift_to_now=true
python scripts/serve_metrics.py --dataset-file=traffic.csv serve.address=localhost:9091
"""

from kforecast.commands.serve_metrics import main

if __name__ == "__main__":
    main()

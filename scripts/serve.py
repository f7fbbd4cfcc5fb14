"""Serve forecasts to autoscalers.

python scripts/serve.py artifact_dir=model source=synthetic serve.replay=true
python scripts/serve.py retrain.dir=models/shop --config-file=train.yaml --metrics-server-addr=localhost:9090
"""

from kforecast.commands.serve import main

if __name__ == "__main__":
    main()

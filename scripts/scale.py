"""Forecast, turn traffic into replicas, and hand them to Kapacity's controller, in the place of its job.

python scripts/scale.py --tsf-model-path=model --re-history-len=7D --scaling-freq=10min
python scripts/scale.py --kubeconfig=config --tsf-model-path=model scale.replicas=ratio
"""

from kforecast.commands.scale import main

if __name__ == "__main__":
    main()

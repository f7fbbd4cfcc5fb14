"""Make the weights that come with the package.

python scripts/pretrain.py --out outputs/pretrained
python scripts/pretrain.py --out outputs/pretrained --recordings recordings --train-on parking_10min
"""

from kforecast.pretraining.run import main

if __name__ == "__main__":
    main()

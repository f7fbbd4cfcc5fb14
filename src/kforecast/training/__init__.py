"""Training: the LightningModule, its callbacks, and the train command."""

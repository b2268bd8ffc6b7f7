"""The embedded model: a small BERT that predicts the number of the coming verb, and the script that made it."""

"""How the mini weights are made: people by code, trainers, evaluation."""

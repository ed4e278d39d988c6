"""The page and the service around the pipeline."""

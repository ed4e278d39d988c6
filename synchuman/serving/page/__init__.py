"""The page: one photo in, one person out, on top of the service's jobs."""

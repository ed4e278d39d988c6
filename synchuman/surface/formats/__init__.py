"""Files that a finished model is handed out as."""

"""What will be run: known without Ray, and without weights."""

"""What runs next, and what stops: pure decisions, without Ray."""

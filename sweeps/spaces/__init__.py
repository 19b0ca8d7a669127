"""One module a space; its first lines say the command, the expected time and the result."""

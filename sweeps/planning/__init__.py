"""The plan of a sweep, made without Ray and without weights."""

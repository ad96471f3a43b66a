"""Medical questions as one record each."""

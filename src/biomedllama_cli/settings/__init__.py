"""Settings: one frozen pydantic tree per command, its presets, and where each value came from."""

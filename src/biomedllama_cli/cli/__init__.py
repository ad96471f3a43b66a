"""The Typer app: flags to settings to one recipe."""

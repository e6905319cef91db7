"""fastroute inside other people's programs. Nothing in the package imports this; optional packages are imported here only."""

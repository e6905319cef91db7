"""fastroute inside other people's programs. Nothing in the package imports this; optional packages come in only here"""

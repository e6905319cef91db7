"""What the RFCs say about HTTP caches, as cases on the wire: see wire.py, and __main__.py for running them alone."""

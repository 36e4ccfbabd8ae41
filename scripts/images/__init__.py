"""Container images: build, load into a cluster, push, pin, list what is in them.

`python -m scripts.images --help`; docs/images.md tells it as a whole.
"""

"""Linkerd: preflight, certificates, installation and check, with the user's `linkerd` or `helm`.

`python -m scripts.mesh --help`; docs/mesh.md tells it as a whole.
"""

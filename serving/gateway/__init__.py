"""Envoy at the desk: what the mesh does for model calls, without a cluster."""

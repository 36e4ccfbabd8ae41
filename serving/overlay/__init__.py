"""Overlays for other people's models: a folder that Kustomize builds on the project's base."""

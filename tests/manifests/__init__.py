"""The manifests, held to what they promise without a cluster."""

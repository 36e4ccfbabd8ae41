"""Replicas and their gateway on one machine: started, watched, restarted, drained."""

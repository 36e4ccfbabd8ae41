"""`chopstick demo`: five results, measured on this machine."""

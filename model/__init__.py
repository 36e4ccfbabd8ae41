"""What is served: data, trainers, evaluation and export of the chopstick classifier."""

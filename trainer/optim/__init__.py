"""How weights move: Keras' optimizers on already reduced gradients, and the course of the learning rate."""

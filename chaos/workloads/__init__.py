"""Clients that use a cluster and write down what they see."""

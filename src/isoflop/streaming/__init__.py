"""Weights that live in a store and visit the device piece by piece."""

"""Documents of the Open Container Initiative: runtime specification, state, features, images."""

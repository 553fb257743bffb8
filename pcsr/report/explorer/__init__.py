"""A page that shows images at every value of the knob, in a browser and without a network."""

"""An offline page that shows images at every value of the knob in a browser."""

"""Whether ingredients lie in one basin of the loss, and what to do where they do not."""

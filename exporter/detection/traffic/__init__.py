"""Traffic: an endpoint has far fewer requests than usual, and whether the source has lost them."""

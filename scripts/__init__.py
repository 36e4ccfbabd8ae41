"""Programs of the checkout, for `make`; none of them is installed."""

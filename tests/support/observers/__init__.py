"""What watches a test of the whole daemon from outside, and what must hold of that, whatever the test is about."""

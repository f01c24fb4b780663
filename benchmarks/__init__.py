"""Commands that print tables of speed; timings are compared within one run, never asserted."""

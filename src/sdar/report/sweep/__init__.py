"""The sweep over gates: what it will run, and its variants compared."""

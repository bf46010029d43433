"""Tests of the native backend: each op alone, through the C interface, against plain numpy."""

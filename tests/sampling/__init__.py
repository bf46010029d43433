"""Tests of quire.sampling."""

"""Hours of mixed traffic in minutes: does a server keep what it should have let go?"""

"""Measuring models: held-out pairs, frozen nets that score pictures, the paper's tables, sheets to look at."""

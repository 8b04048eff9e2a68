"""Experiments: networks trained on corpora with real and with generated phase, judged on real k-space."""

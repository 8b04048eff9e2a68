"""Build, resume, plan, monitor and repair a corpus."""

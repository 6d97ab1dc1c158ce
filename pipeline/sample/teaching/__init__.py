"""How the sample's frozen nets were trained: `python -m pipeline.sample.teaching.train`. No stage runs this."""
